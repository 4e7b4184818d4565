"""What do the documents hold: blocks of code, code in a line, links and anchors?"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

ROOT = Path(__file__).parent.parent.parent
FOLDERS = (".", "docs", "examples", "extras")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A fenced or indented block; `language` is empty where none is said, a directive of the site's as `{toctree}`."""

    page: str
    line: int
    language: str
    text: str

    @property
    def head(self) -> str:
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Code in a line of prose or a cell of a table."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: `{self.text}`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A link or a picture."""

    page: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.target}"


@functools.cache
def pages() -> tuple[str, ...]:
    """Return every document that a reader is meant to read, by its path in this repository."""
    below = [path for folder in FOLDERS[1:] for path in (ROOT / folder).rglob("*.md")]
    found = [path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *below)]
    return tuple(sorted(name for name in found if ".venv" not in name and "/dist/" not in name))


def blocks(*languages: str) -> list[Block]:
    """Return all blocks of these languages, or all there are."""
    return [block for page in pages() for block in _blocks(page) if not languages or block.language in languages]


def spans() -> list[Span]:
    return [
        Span(page=page, line=line, text=token.content)
        for page in pages()
        for line, token in _inline(page)
        if token.type == "code_inline"
    ]


def links() -> list[Link]:
    return [
        Link(page=page, line=line, target=str(token.attrs[attribute]))
        for page in pages()
        for line, token in _inline(page)
        for attribute in ("href", "src")
        if attribute in token.attrs
    ]


@functools.cache
def anchors(page: str) -> frozenset[str]:
    """Return what may stand behind # in a link to this page."""
    return frozenset(str(token.attrs["id"]) for token in tokens(page) if token.type == "heading_open")


@functools.cache
def tokens(page: str) -> list[Token]:
    reader = MarkdownIt("gfm-like", {"linkify": False}).use(anchors_plugin, max_level=6)
    return reader.parse((ROOT / page).read_text())


def _blocks(page: str) -> Iterator[Block]:
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            language, line = re.split(r"\s", token.info)[0], (token.map or [0])[0] + 1
            yield Block(page=page, line=line, language=language, text=token.content)


def _inline(page: str) -> Iterator[tuple[int, Token]]:
    for token in tokens(page):
        for child in token.children or ():
            yield (token.map or [0])[0] + 1, child
