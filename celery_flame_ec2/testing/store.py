"""Who has the lease, where all parents are in one process?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..errors import LeaseError
from ..lease.base import MARGIN, TTL, kept


class Cell:
    """What all parents share: who has the lease, until when by the store's own clock, and what was noted.

    While `silent` it does not answer.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.holder: object = None
        self.until = 0.0
        self.notes: dict[str, str] = {}
        self.overrides: dict[str, str] = {}
        self.silent = False


class MemoryStore:
    """One parent's way to the cell."""

    place = "memory"
    good_for = TTL - MARGIN

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @property
    def is_mine(self) -> bool:
        """Tell whether this parent has the lease."""
        return self.cell.holder is self and self.cell.clock() < self.cell.until

    def take(self) -> bool:
        cell = self._answering()
        if cell.holder is not self and self.left() > 0:
            return False
        cell.holder, cell.until = self, cell.clock() + TTL
        return True

    def give_up(self) -> None:
        if self._answering().holder is self:
            self.cell.until = 0.0

    def left(self) -> float:
        return max(0.0, self._answering().until - self.cell.clock())

    def notes(self) -> dict[str, str]:
        return dict(self._answering().notes)

    def note(self, changes: Mapping[str, str | None]) -> None:
        cell = self._answering()
        if not self.is_mine:
            raise LeaseError("nothing is noted: another parent holds the lease")
        cell.notes = kept({**cell.notes, **changes})

    def overrides(self) -> dict[str, str]:
        return dict(self._answering().overrides)

    def override(self, changes: Mapping[str, str | None]) -> None:
        self.cell.overrides = kept({**self._answering().overrides, **changes})

    def _answering(self) -> Cell:
        if self.cell.silent:
            raise LeaseError("the lease's store does not answer")
        return self.cell
