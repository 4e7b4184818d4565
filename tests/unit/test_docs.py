"""Do the docs say what the code says?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_settings_page_is_what_the_code_prints() -> None:
    printed = subprocess.run([sys.executable, "docs/settings.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (ROOT / "docs" / "settings.md").read_text() == printed.stdout
