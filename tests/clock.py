"""What time is it, when a test says so?"""

from __future__ import annotations


class Clock:
    """Seconds since something, that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
