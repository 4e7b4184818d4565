"""What has happened since this parent started, in numbers?"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from .. import signals
from ..errors import FAILURE_KINDS
from ..lifetime import ENDING_KINDS
from ..uptime import PHASES

#: Upper bounds of what is counted by how long it took, in seconds.
BOOT_BUCKETS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0)
TICK_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Durations:
    """How often something took how long."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Return for each bound, in words, how many took no longer."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, itertools.accumulate(map(float, self._counts)), strict=True))


class Tally:
    """Counts what signals tell of these pools and how long rounds take; read from any thread.

    Every count there may be is there from the start, at zero: a first failure is a change that can be alerted on.
    """

    def __init__(self, pools: Iterable[str]) -> None:
        pools = tuple(pools)
        self.launches = dict.fromkeys(pools, 0)
        self.failures = dict.fromkeys(itertools.product(pools, FAILURE_KINDS), 0)
        self.endings = dict.fromkeys(itertools.product(pools, ENDING_KINDS), 0)
        self.boots: Mapping[str, Durations] = {pool: Durations(BOOT_BUCKETS) for pool in pools}
        self.phases = {each: Durations(BOOT_BUCKETS) for each in itertools.product(pools, PHASES)}
        self.ticks = Durations(TICK_BUCKETS)

    def connect(self) -> None:
        """Count from now on, for as long as this tally is kept."""
        signals.runner_launched.connect(self._count_launch)
        signals.launch_failed.connect(self._count_failure)
        signals.runner_up.connect(self._count_boot)
        signals.runner_ended.connect(self._count_ending)

    def disconnect(self) -> None:
        """Count no more."""
        signals.runner_launched.disconnect(self._count_launch)
        signals.launch_failed.disconnect(self._count_failure)
        signals.runner_up.disconnect(self._count_boot)
        signals.runner_ended.disconnect(self._count_ending)

    def _count_launch(self, sender: str, **_: Any) -> None:
        if sender in self.launches:
            self.launches[sender] += 1

    def _count_failure(self, sender: str, kind: str, **_: Any) -> None:
        if (sender, kind) in self.failures:
            self.failures[sender, kind] += 1

    def _count_boot(self, sender: str, seconds: float, phases: Mapping[str, float], **_: Any) -> None:
        if sender in self.boots:
            self.boots[sender].add(seconds)
            for phase, took in phases.items():
                self.phases[sender, phase].add(took)

    def _count_ending(self, sender: str, kind: str, **_: Any) -> None:
        if (sender, kind) in self.endings:
            self.endings[sender, kind] += 1
