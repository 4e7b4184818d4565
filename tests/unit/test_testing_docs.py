"""Do the examples of docs/testing.md run?"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.unit.test_testing_plugin import PLUGIN

ROOT = Path(__file__).parent.parent.parent
PROJECT = ROOT / "examples" / "proj"


def test_the_examples_pass() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "14 passed" in done.stdout


def test_what_the_page_shows_is_what_passes() -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    code = "\n".join(path.read_text() for path in [*PROJECT.rglob("*.py"), PROJECT / "pytest.ini"])
    shown = re.findall(r"^```(?:python|ini)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert [block for block in shown if block.strip() not in code] == []
