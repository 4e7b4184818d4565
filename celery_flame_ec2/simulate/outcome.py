"""How did a simulated load fare: how long did tasks wait, and what was billed?"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple


class Moment(NamedTuple):
    """What there was at one moment. `at` is seconds since the start; the rest are counts."""

    at: float
    waiting: int
    running: int
    booting: int
    up: int
    cordoned: int


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of one run. Times are seconds.

    `waits` holds for each task that ran to its end how long it waited, from its arrival to the start of that run, in
    the order of ends; `starts` the moments of those starts. `billed` are seconds of all machines, from launch to end,
    each at least what is billed at least. `moments` are a thinned record for pictures, `decisions` pairs of a moment
    and the reason of what was done then.
    """

    waits: array[float] = field(default_factory=lambda: array("d"))
    starts: array[float] = field(default_factory=lambda: array("d"))
    billed: float = 0.0
    busy: float = 0.0
    launches: int = 0
    peak: int = 0
    lost_boots: int = 0
    interrupted: int = 0
    rerun: int = 0
    ended_at: float = 0.0
    rounds: int = 0
    moments: list[Moment] = field(default_factory=list)
    decisions: list[tuple[float, str]] = field(default_factory=list)

    @property
    def mean_wait(self) -> float:
        """Return the mean wait; 0 without tasks."""
        return sum(self.waits) / len(self.waits) if self.waits else 0.0

    def wait_at(self, share: float) -> float:
        """Return the wait that this share of tasks did not exceed (nearest rank); 0 without tasks."""
        if not self.waits:
            return 0.0
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]

    @property
    def billed_hours(self) -> float:
        """Return what was billed, in instance-hours."""
        return self.billed / 3600
