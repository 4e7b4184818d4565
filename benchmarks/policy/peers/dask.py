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

from celery_flame_ec2.policy import Plan

from .peer import Look

TARGET_DURATION = 5.0
UNKNOWN_DURATION = 0.5
WAIT_COUNT = 3


class Adaptive:
    """Occupancy over the target duration."""

    def __init__(self) -> None:
        self._duration: float | None = None
        self._busy = 0.0
        self._seen: Look | None = None
        self._first_ran: float | None = None
        self._closable: Counter[str] = Counter()

    def __call__(self, look: Look) -> Plan:
        self._learn(look)
        target = look.clamped(self._target(look))
        reason = f"{look.waiting + look.running} tasks: {target}"
        if target >= look.current:
            self._closable.clear()
            return look.grow(target, reason)
        idle = [runner.id for runner in look.up if not runner.active][: look.current - target]
        self._closable = Counter({runner: self._closable[runner] + 1 for runner in idle})
        firm = tuple(runner for runner in idle if self._closable[runner] >= WAIT_COUNT)
        return Plan(cordon=firm, wanted=target, reason=reason)

    def _target(self, look: Look) -> int:
        tasks, duration = look.waiting + look.running, self._duration
        if duration is None:
            ran = look.now - self._first_ran if self._first_ran is not None else 0.0
            duration = max(UNKNOWN_DURATION, 2 * ran)
        threads = min(tasks, math.ceil(tasks * duration / TARGET_DURATION))
        return math.ceil(threads / look.slots) if look.up else threads

    def _learn(self, look: Look) -> None:
        before, self._seen = self._seen, look
        if look.running and self._first_ran is None:
            self._first_ran = look.now
        if before is None:
            return
        self._busy += (look.now - before.now) * (before.running + look.running) / 2
        ended = look.taken - before.taken + before.running - look.running
        if ended > 0:
            mean, kept = self._busy / ended, 0.5 ** min(ended, 50)
            self._duration = mean if self._duration is None else self._duration * kept + mean * (1 - kept)
            self._busy = 0.0
