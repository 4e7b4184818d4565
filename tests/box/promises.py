"""What does the documentation promise about the end of every instance?"""

from __future__ import annotations

import re
from pathlib import Path

from celery_flame_ec2.runner import Limits

GUARANTEES = Path(__file__).parent.parent.parent / "docs" / "guarantees.md"
HEADING = "## Every launched instance ends"
TIMES = "\N{MULTIPLICATION SIGN}"


def promises() -> dict[str, str]:
    """Return when an instance is ended, by what happened to it: first and last column of the table."""
    section = GUARANTEES.read_text().partition(HEADING)[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: row[-1] for row in rows[1:]}


def seconds(when: str, limits: Limits) -> float:
    """Return the bound that a promise names, for these limits."""
    if when.startswith("at once"):
        return 0.0
    formula = re.match(rf"(?:[\d+{TIMES}() ]|`\w+`)+", when)
    if formula is None:
        raise AssertionError(f"no bound is named in {when!r}")
    text = re.sub(r"`(\w+)`", lambda name: str(getattr(limits, name[1])), formula[0])
    return float(eval(text.replace(TIMES, "*"), {}))
