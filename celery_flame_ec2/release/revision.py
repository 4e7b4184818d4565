"""At which revision is a project?"""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision(project: Path) -> str | None:
    """Return what git calls it; None where there is no git."""
    asked = ["git", "-C", str(project), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() or None
    except FileNotFoundError:  # no git here
        return None
