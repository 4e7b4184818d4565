"""How little of a script has to be sent so that it does the same? Pure."""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

Span = tuple[int, int]

#: Modules from which a script imports for its annotations alone.
_OF_ANNOTATIONS = frozenset({"__future__", "collections.abc", "typing"})

_INDENT = re.compile("^ +", re.MULTILINE)


def bare(script: str) -> str:
    """Return a script without blank lines and comment lines, its first one apart."""
    first, *lines = script.splitlines()
    return "\n".join([first, *(line for line in lines if line.strip() and not line.lstrip().startswith("#"))])


def bare_python(source: str) -> str:
    """Return ASCII Python, its first line apart, without what runs no code: packed it is a third smaller.

    No text in it, docstrings apart, may be longer than a line, and what it imports for annotations serves nothing
    else. Cut out of the text, as what Python 3.12 and newer make of a syntax tree no older one can read.
    """
    lines = _starts(source)

    def span(node: Any) -> Span:
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    cuts = [(*cut, "") for cut in _comments(source, lines)]
    for node in ast.walk(ast.parse(source)):
        cuts += [(*cut, "") for cut in _annotations(node, span, source)]
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            cuts.append((*span(node.body[0]), "" if len(node.body) > 1 else '""'))
        if isinstance(node, ast.ImportFrom) and node.module in _OF_ANNOTATIONS:
            cuts.append((*span(node), ""))
    for start, end, rest in sorted(cuts, reverse=True):
        source = source[:start] + rest + source[end:]
    return _tight(_INDENT.sub(lambda found: " " * (len(found[0]) // 4), bare(source)))


def _tight(source: str) -> str:
    """Return Python with no blank that parts no words, and no line break inside brackets; its first line apart."""
    first, _, rest = source.partition("\n")
    lines, end, kept, depth = _starts(rest), 0, "\n", 0
    for token in tokenize.generate_tokens(io.StringIO(rest).readline):
        if token.type == tokenize.NL:
            continue
        start = lines[token.start[0] - 1] + token.start[1]
        gap = rest[end:start]
        if kept[-1] != "\n" and not depth:
            gap = " " if gap and re.fullmatch(r"\w\w", kept[-1] + token.string[:1]) else ""
        end = lines[token.end[0] - 1] + token.end[1]
        kept += gap + rest[start:end]
        depth += {"FSTRING_START": 1, "FSTRING_END": -1}.get(
            tokenize.tok_name[token.type], 0
        )  # text, where it has them
    return first + kept


def _starts(source: str) -> list[int]:
    """Return where each line begins."""
    return [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]


def _comments(source: str, lines: list[int]) -> Iterator[Span]:
    """Yield the comments that stand behind code."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and token.line.strip() != token.string:
            start = lines[token.start[0] - 1] + token.start[1]
            yield start, start + len(token.string)


def _annotations(node: ast.AST, span: Callable[[Any], Span], source: str) -> Iterator[Span]:
    if isinstance(node, ast.FunctionDef) and node.returns:
        start, end = span(node.returns)
        yield source.rindex(")", 0, start) + 1, end
    if isinstance(node, ast.arg) and node.annotation:
        yield span(node)[0] + len(node.arg), span(node)[1]
    if isinstance(node, ast.AnnAssign) and node.value:
        yield span(node.target)[1], span(node.annotation)[1]
