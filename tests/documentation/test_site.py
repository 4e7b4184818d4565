"""Does the built site need anything from elsewhere? `make docs` builds it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from .pages import ROOT

SITE = ROOT / "build" / "docs"
#: What a browser fetches by itself, by tag and attribute; a link that a reader follows is none of it.
FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}


class Fetches(HTMLParser):
    """Collects the addresses that a page has its browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if (tag, name) in FETCHED and value]


def fetched(text: str) -> list[str]:
    page = Fetches()
    page.feed(text)
    return page.addresses


def is_elsewhere(address: str) -> bool:
    return re.match(r"([a-z]+:)?//", address) is not None


def test_no_page_fetches_anything_from_elsewhere() -> None:
    pages = {path.name: fetched(path.read_text()) for path in SITE.glob("*.html")}
    assert len(pages) > 20
    assert all(pages.values()), "each page has its styles"
    assert {name: found for name, addresses in pages.items() if (found := list(filter(is_elsewhere, addresses)))} == {}


def test_no_style_fetches_anything_from_elsewhere() -> None:
    styles = "".join(path.read_text() for path in SITE.glob("_static/**/*.css"))
    assert styles
    assert list(filter(is_elsewhere, re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", styles))) == []
