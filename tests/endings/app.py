"""What do the runners of the matrix run, and what do their tasks tell of themselves?"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery
from celery.worker.request import Request

JOURNAL = "ENDINGS_JOURNAL"
CONF = "ENDINGS_CONF"
TASK = "endings.work"


def note(word: str, task_id: str) -> None:
    """Append one line to the journal; one write, so that lines never mix, and a kill leaves a whole line or none."""
    line = f"{word} {task_id} {os.environ['FLAME_RUNNER_ID']} {os.getpid()} {time.time():.3f}\n"
    journal = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


class NotingRequest(Request):  # type: ignore[misc]
    """Notes that a pool process took the task, right before an early acknowledgement says so to the broker."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        note("accepted", self.id)
        super().on_accepted(pid, time_accepted)


def make_app(conf: dict[str, Any]) -> Celery:
    """Return the app with the one task there is."""
    made = Celery("endings", set_as_current=False)
    made.conf.update(conf)

    @made.task(name=TASK, bind=True, Request=NotingRequest)
    def work(self: Any, seconds: float) -> None:
        """Take so long."""
        note("start", self.request.id)
        time.sleep(seconds)
        note("end", self.request.id)

    return made


if CONF in os.environ:
    app = make_app(json.loads(os.environ[CONF]))
