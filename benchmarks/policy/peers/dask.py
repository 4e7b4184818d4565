"""dask's Adaptive (distributed 2026.8: deploy/adaptive_core.py, Scheduler.adaptive_target, distributed.yaml).

Every second: the expected seconds of all tasks over the target duration, at most one thread a task; in workers once
there are any, and in threads before. A worker is closed when three looks in a row found it closable: those that have
not arrived first (not here: a launch is not taken back), else only workers that run nothing. Expected of a task is the
moving average of its kind, each new one weighing half; before one has ended, twice what the oldest has run for, at
least 0.5 s.

dask sees each task's duration; here it is measured as busy seconds over ends of the same time. All tasks are of one
kind, and hold no data.
"""

from __future__ import annotations

import math
from collections import Counter

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, room
from celery_flame_ec2.runner import RunnerState

TARGET_DURATION = 5.0
UNKNOWN_DURATION = 0.5
WAIT_COUNT = 3


class Adaptive:
    """Occupancy over the target duration."""

    def __init__(self) -> None:
        self._duration: float | None = None
        self._busy = 0.0
        self._seen: tuple[float, Demand] | None = None
        self._first_ran: float | None = None
        self._closable: Counter[str] = Counter()

    def __call__(self, pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
        assert isinstance(demand, Demand) and isinstance(fleet, Fleet)
        self._learn(demand, now)
        up = [runner for runner in fleet.runners if runner.state is RunnerState.UP]
        current = len(up) + fleet.count(RunnerState.BOOTING)
        target = max(pool.min, min(pool.max, self._target(pool, demand, len(up), now)))
        reason = f"{demand.waiting + demand.running} tasks: {target}"
        if target >= current:
            self._closable.clear()
            return Plan(launch=min(target - current, room(pool, fleet)), wanted=target, reason=reason)
        idle = [runner.id for runner in up if not runner.active][: current - target]
        self._closable = Counter({runner: self._closable[runner] + 1 for runner in idle})
        firm = tuple(runner for runner in idle if self._closable[runner] >= WAIT_COUNT)
        return Plan(cordon=firm, wanted=target, reason=reason)

    def _target(self, pool: PoolSettings, demand: Demand, up: int, now: float) -> int:
        tasks, duration = demand.waiting + demand.running, self._duration
        if duration is None:
            ran = now - self._first_ran if self._first_ran is not None else 0.0
            duration = max(UNKNOWN_DURATION, 2 * ran)
        threads = min(tasks, math.ceil(tasks * duration / TARGET_DURATION))
        return math.ceil(threads / (pool.max_concurrency or 1)) if up else threads

    def _learn(self, demand: Demand, now: float) -> None:
        if self._seen is not None:
            at, before = self._seen
            self._busy += (now - at) * (before.running + demand.running) / 2
            ended = demand.past.taken - before.past.taken + before.running - demand.running
            if ended > 0:
                mean, old = self._busy / ended, self._duration
                weight = 0.5 ** min(ended, 50)
                self._duration = mean if old is None else old * weight + mean * (1 - weight)
                self._busy = 0.0
        self._seen = now, demand
        if demand.running and self._first_ran is None:
            self._first_ran = now
