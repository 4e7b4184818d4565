"""What happened over the last hours? Pure: samples in with their time, columns out."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Seconds that are remembered once they have passed, and how many moments at the most.
SPAN, MOMENTS = 6 * 3600.0, 720
#: Samples of all pools together: with many of them each has fewer moments, but no fewer than the second number.
SAMPLES, FEWEST = 72_000, 60
#: Decisions that are remembered.
DECISIONS = 200


class Sample(NamedTuple):
    """One pool at one moment: tasks that wait (None: unknown), and runners by state."""

    waiting: int | None
    booting: int = 0
    up: int = 0
    cordoned: int = 0
    ending: int = 0

    @property
    def runners(self) -> int:
        """Return how many runners there were."""
        return self.booting + self.up + self.cordoned + self.ending


class Decision(NamedTuple):
    """What was decided for a pool, `at` in seconds since the epoch."""

    at: float
    pool: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Moment:
    start: float
    samples: Mapping[str, Sample]


class History:
    """A ring of moments in memory. A moment begins as long as a round is, and grows to twice that each time the ring is
    full, until all moments are SPAN together; then the oldest goes. A parent that starts anew remembers nothing.

    Of all samples in a moment the largest stay: a short burst is seen hours later.
    """

    def __init__(self, pools: Iterable[str], *, interval: float, now: float) -> None:
        self._pools = tuple(pools)
        self._most = min(MOMENTS, max(FEWEST, SAMPLES // max(1, len(self._pools))))
        self._step = interval
        self._began = now
        self._moments: deque[_Moment] = deque()
        self._decisions: deque[Decision] = deque(maxlen=DECISIONS)
        self._last_texts: dict[str, str] = {}

    def add(self, samples: Mapping[str, Sample], decisions: Mapping[str, str], now: float) -> None:
        """Take in one round: a sample of each pool, and the last decision by pool, new or not."""
        self._join(_Moment(start=self._start_of(now), samples=samples))
        if len(self._moments) > self._most:
            self._make_room()
        for pool, text in decisions.items():
            if text and text != self._last_texts.get(pool):
                self._last_texts[pool] = text
                self._decisions.append(Decision(now, pool, text))

    def copy(self) -> History:
        """Return one that stays as it is now."""
        other = copy.copy(self)
        other._moments, other._decisions = self._moments.copy(), self._decisions.copy()
        return other

    def as_json(self) -> dict[str, Any]:
        """Return all moments as columns, the oldest first; `at` is when a moment began, `step` how long it is."""
        moments = tuple(self._moments)
        return {
            "began": round(self._began, 1),
            "step": self._step,
            "at": [round(moment.start, 1) for moment in moments],
            "pools": {
                pool: {
                    field: [getattr(moment.samples.get(pool, _NOTHING), field) for moment in moments]
                    for field in Sample._fields
                }
                for pool in self._pools
            },
            "decisions": [
                {"at": round(at, 1), "pool": pool, "text": text} for at, pool, text in reversed(self._decisions)
            ],
        }

    def _start_of(self, now: float) -> float:
        return now // self._step * self._step

    def _join(self, moment: _Moment) -> None:
        last = self._moments[-1] if self._moments else None
        if last is None or moment.start > last.start:
            self._moments.append(moment)
        else:
            self._moments[-1] = _merged(last, moment)

    def _make_room(self) -> None:
        if self._step * self._most >= SPAN:
            self._moments.popleft()
            return
        self._step *= 2
        moments, self._moments = self._moments, deque()
        for moment in moments:
            self._join(_Moment(start=self._start_of(moment.start), samples=moment.samples))


_NOTHING = Sample(waiting=None)


def _merged(one: _Moment, other: _Moment) -> _Moment:
    pools = {**one.samples, **other.samples}
    samples = {pool: _larger(one.samples.get(pool, _NOTHING), other.samples.get(pool, _NOTHING)) for pool in pools}
    return _Moment(start=one.start, samples=samples)


def _larger(one: Sample, other: Sample) -> Sample:
    """Return the sample with more runners, with the deeper queue: states of two moments are never added up."""
    known = [sample.waiting for sample in (one, other) if sample.waiting is not None]
    return max(one, other, key=lambda sample: sample.runners)._replace(waiting=max(known, default=None))
