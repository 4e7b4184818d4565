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

_INDENT = re.compile("^ +", re.MULTILINE)


def bare(script: str) -> str:
    """Return a script without blank lines and comment lines, its first one apart."""
    first, *lines = script.splitlines()
    return "\n".join([first, *(line for line in lines if line.strip() and not line.lstrip().startswith("#"))])


def bare_python(source: str) -> str:
    """Return ASCII Python, its first line apart, without what runs no code: packed it is a third smaller.

    No text in it, docstrings apart, may be longer than a line. Cut out of the text, as what Python 3.12 and newer
    make of a syntax tree no older one can read.
    """
    lines = [0, *itertools.accumulate(map(len, source.splitlines(keepends=True)))]

    def span(node: Any) -> Span:
        return lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset

    cuts = [(*cut, "") for cut in _comments(source, lines)]
    for node in ast.walk(ast.parse(source)):
        cuts += [(*cut, "") for cut in _annotations(node, span, source)]
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            cuts.append((*span(node.body[0]), '""'))
    for start, end, rest in sorted(cuts, reverse=True):
        source = source[:start] + rest + source[end:]
    return _INDENT.sub(lambda found: " " * (len(found[0]) // 4), bare(source))


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
