"""Whose messages must come back because it is dead, and did they?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from .errors import HoldingsError
from .holdings import Holdings, Registration

logger = logging.getLogger(__name__)

#: Seconds for which a runner that is overdue must go on being so: where Redis itself was away for long, all are overdue
#: at the moment it is back, and those that live have spoken by then.
CONFIRM = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A complete listing of runners: those of one `place`. `age` is seconds since it was asked for.

    A runner that lives is in it if it was launched `visible_within` seconds before, or was in one before.
    """

    runner_ids: Collection[str]
    place: str
    age: float
    visible_within: float


class Salvage:
    """Gives back what dead runners held: those a listing does not show, and those silent for too long."""

    def __init__(
        self, holdings: Holdings, *, confirm: float = CONFIRM, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._holdings = holdings
        self._confirm, self._clock = confirm, clock
        self._overdue_since: dict[str, float] = {}
        self._seen: frozenset[str] = frozenset()

    def look(self, listing: Listing | None = None) -> None:
        """Find the dead ones and give back what they held; without a listing only silence tells.

        Raises:
            HoldingsError: Redis did not answer; who was not done stays registered for the next look.
        """
        try:
            registered = self._holdings.registered()
        except HoldingsError:  # silence says nothing while Redis is away
            self._overdue_since.clear()
            raise
        gone = self._ended(registered, listing) if listing is not None else ()
        for each in gone:
            self._settle(each, "which is gone")
        for each in self._silent(set(registered) - set(gone), self._clock()):
            self._settle(each, f"which has not been heard of for {each.silent_for:.0f} s")

    def close(self) -> None:
        """Let go of Redis; a later call connects anew."""
        self._holdings.close()

    def _ended(self, registered: tuple[Registration, ...], listing: Listing) -> tuple[Registration, ...]:
        self._seen = self._seen.intersection(each.runner_id for each in registered).union(listing.runner_ids)
        return ended(registered, listing, self._seen)

    def _silent(self, registered: Iterable[Registration], now: float) -> list[Registration]:
        overdue = [each for each in registered if each.overdue]
        self._overdue_since = {each.runner_id: self._overdue_since.get(each.runner_id, now) for each in overdue}
        return [each for each in overdue if now - self._overdue_since[each.runner_id] >= self._confirm]

    def _settle(self, dead: Registration, why: str) -> None:
        count = self._holdings.give_back(dead.runner_id, dead.queues)
        level = logging.INFO if count else logging.DEBUG
        told = {"event": "gave_back", "runner": dead.runner_id, "count": count, "reason": why}
        logger.log(level, "gave back %d messages that %s held, %s", count, dead.runner_id, why, extra=told)
        self._holdings.forget(dead.runner_id)


def ended(registered: Iterable[Registration], listing: Listing, seen: Collection[str] = ()) -> tuple[Registration, ...]:
    """Return the runners that the listing would show if they lived; `seen` are those that one before showed."""

    def would_show(each: Registration) -> bool:
        lag = 0.0 if each.runner_id in seen else listing.visible_within
        return each.place == listing.place and each.age >= listing.age + lag

    return tuple(each for each in registered if each.runner_id not in listing.runner_ids and would_show(each))
