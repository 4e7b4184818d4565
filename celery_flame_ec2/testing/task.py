"""What became of one task?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, eq=False)
class Task:
    """One task. Moments are seconds of the test's clock, None where that has not happened.

    `starts` is how often it was begun. One that was cut off is `lost` where its message was acknowledged before it ran.
    """

    queue: str
    runtime: float
    arrived_at: float
    acks_late: bool = True
    started_at: float | None = None
    ended_at: float | None = None
    starts: int = 0
    lost: bool = False

    @property
    def wait(self) -> float | None:
        """Return how long it waited for its last start; None before any."""
        return None if self.started_at is None else self.started_at - self.arrived_at
