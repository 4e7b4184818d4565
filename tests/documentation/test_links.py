"""Does every link lead somewhere? Of those that leave this repository only the form is looked at."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from .pages import ROOT, Link, anchors, links, pages

#: A package that this one is named after. No other link leads to an index of packages.
NAMESAKE = "https://hex.pm/packages/flame"
INDEXES = ("crates.io", "hex.pm", "npmjs.com", "pypi.org", "pypi.python.org", "rubygems.org")
LEAVING = [link for link in links() if urlsplit(link.target).scheme]
STAYING = [link for link in links() if not urlsplit(link.target).scheme]


def test_there_are_documents_and_links() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md"} <= set(pages())
    assert LEAVING
    assert STAYING


@pytest.mark.parametrize("link", STAYING, ids=str)
def test_a_link_inside_leads_to_a_file_and_a_heading_of_it(link: Link) -> None:
    path, _, anchor = unquote(link.target).partition("#")
    target = ((ROOT / link.page).parent / path).resolve() if path else ROOT / link.page
    assert target.is_relative_to(ROOT), "it leads out of the repository"
    assert target.exists(), f"there is no {path}"
    if anchor:
        assert anchor in anchors(str(target.relative_to(ROOT))), f"{target.name} has no heading #{anchor}"


@pytest.mark.parametrize("link", LEAVING, ids=str)
def test_a_link_outside_is_https_and_leads_to_no_index_of_packages(link: Link) -> None:
    url = urlsplit(link.target)
    assert url.scheme == "https"
    assert "." in (url.hostname or ""), "it names no host"
    assert " " not in link.target
    assert link.target == NAMESAKE or not _is_of(url.hostname or "", INDEXES)


def test_the_one_exception_is_used() -> None:
    assert [link.page for link in LEAVING if link.target == NAMESAKE] == ["README.md"]


def test_pages_of_the_site_say_md_so_that_a_code_host_follows_them() -> None:
    assert not [str(link) for link in STAYING if Path(link.target.partition("#")[0]).suffix == ".html"]


def _is_of(host: str, domains: tuple[str, ...]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)
