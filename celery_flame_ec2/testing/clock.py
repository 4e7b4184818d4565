"""What time is it, when a test says so, and what happens meanwhile?"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Seconds since something, that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Have something happen when so many seconds have passed."""
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), what))

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            at, _, what = heapq.heappop(self._due)
            self.now = max(self.now, at)
            what()
        self.now = max(self.now, until)
