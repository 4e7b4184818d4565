"""Which tasks arrive, and when?"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from celery import Celery

from .app import TASK

#: How long tasks take, in seconds.
DURATIONS = (0.0, 0.0, 0.1, 0.3, 0.5, 1.0, 1.5)
#: Seconds after which a task that has not ended does not count as work any more: it may be lost.
FORGOTTEN = 20.0
#: Seconds between two bursts.
PAUSE = (0.3, 2.0)


class Load:
    """Sends tasks so that about `depth` of them are under way; in bursts with pauses where runners shall idle."""

    def __init__(self, client: Celery, queue: str, *, depth: int, bursts: bool = False) -> None:
        self.sent: dict[str, float] = {}
        self.client, self._queue = client, queue
        self._depth, self._bursts = depth, bursts
        self._next_burst = 0.0
        self._chance = random.Random()

    def arrive(self, ended: Collection[str], lost: Collection[str], now: float) -> None:
        """Send what is to arrive by now."""
        if self._bursts:
            if now < self._next_burst:
                return
            self._next_burst = now + self._chance.uniform(*PAUSE)
            missing = self._chance.randint(1, self._depth)
        else:
            recent = (task for task, at in self.sent.items() if now - at < FORGOTTEN)
            missing = self._depth - sum(1 for task in recent if task not in ended and task not in lost)
        for _ in range(missing):
            self._send(now)

    def _send(self, now: float) -> None:
        task = f"task-{len(self.sent)}"
        options: dict[str, Any] = {"task_id": task, "queue": self._queue, "retry": False, "ignore_result": True}
        self.client.send_task(TASK, [self._chance.choice(DURATIONS)], **options)
        self.sent[task] = now
