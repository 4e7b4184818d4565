"""Do the docs say what the code says?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endings import expected

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("page", ["commands", "metrics", "settings"])
def test_a_page_of_the_reference_is_what_the_code_prints(page: str) -> None:
    program = [sys.executable, f"docs/{page}.py"]
    printed = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / f"{page}.md").read_text() == printed.stdout


def test_the_table_of_endings_is_what_the_matrix_is_held_against() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    _, _, rest = page.partition("<!-- endings: `python -m tests.endings.expected` prints this -->\n")
    assert rest.partition("<!-- end of endings -->")[0] == expected.table()


def test_every_test_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    named = {name for page in pages for name in re.findall(r"`(tests/[\w./]+(?:::\w+)?)`", page.read_text())}
    assert len(named) > 30
    assert [name for name in sorted(named) if not is_there(*name.split("::"))] == []


def is_there(path: str, function: str = "") -> bool:
    place = ROOT / path
    return place.exists() and (not function or f"def {function}(" in place.read_text())


def test_every_guarantee_names_the_tests_that_show_it() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    _, *sections = re.split(r"\n##+ ", page)
    assert [section.partition("\n")[0] for section in sections if "\nShown by `tests/" not in section] == []
