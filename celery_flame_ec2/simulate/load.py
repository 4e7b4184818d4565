"""Which tasks arrive when, and how long does each run?"""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """One task: when it arrives, in seconds since the start, and for how many seconds it runs."""

    arrival: float
    runtime: float
