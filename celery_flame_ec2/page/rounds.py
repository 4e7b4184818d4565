"""What did the last rounds show, and is the last of them long ago?"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from ..config import Settings
from ..overview import Overview, PoolOverview
from .history import History, Sample
from .server import JSON, Answer, says

#: Rounds that may be missing, in intervals and in seconds at least, before they are said to have stopped.
MISSING, PATIENCE = 10, 30.0
#: What is known before the first round is over.
NOTHING_YET = says("the first round is not over yet", HTTPStatus.SERVICE_UNAVAILABLE)


class Rounds:
    """Takes in a round on the service's thread, which never waits for a reader, and is read by any."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float]) -> None:
        self._late_after = max(PATIENCE, MISSING * settings.interval)
        self._pools = [pool.name for pool in settings.pools]
        self._interval, self._monotonic = settings.interval, monotonic
        self._lock = threading.Lock()
        self._history: History | None = None
        self._last: tuple[Overview, float] | None = None

    def take(self, overview: Overview) -> None:
        """Take in how it stands after a round."""
        if self._history is None:
            self._history = History(self._pools, interval=self._interval, now=overview.at)
        samples = {pool.name: _sample(pool) for pool in overview.pools}
        decisions = {pool.name: pool.last_decision.reason for pool in overview.pools if pool.last_decision}
        with self._lock:
            self._history.add(samples, decisions, overview.at)
            self._last = overview, self._monotonic()

    @property
    def overview(self) -> Overview | None:
        """How it stood after the last round; None before the first."""
        return self._last[0] if self._last else None

    def status(self) -> Answer:
        """Return how it stands, and its age."""
        if self._last is None:
            return NOTHING_YET
        overview, at = self._last
        return _as_json(overview.as_json(), Age=f"{self._monotonic() - at:.0f}")

    def history(self) -> Answer:
        """Return what happened over the last hours."""
        with self._lock:
            history, last = self._history and self._history.copy(), self._last
        if history is None or last is None:
            return NOTHING_YET
        return _as_json({"now": round(last[0].at, 1), **history.as_json()})

    def health(self) -> Answer:
        """Say whether rounds go on."""
        if self._last is None:
            return NOTHING_YET
        age = self._monotonic() - self._last[1]
        if age <= self._late_after:
            return says(f"rounds go on: the last one ended {age:.1f} s ago")
        why = f"the last round ended {age:.0f} s ago, and one is due every {self._interval:g} s (flame_interval)"
        return says(why, HTTPStatus.SERVICE_UNAVAILABLE)


def _sample(pool: PoolOverview) -> Sample:
    return Sample(waiting=pool.waiting, **pool.states)


def _as_json(value: Any, **headers: str) -> Answer:
    return Answer(body=json.dumps(value).encode(), kind=JSON, headers=headers)
