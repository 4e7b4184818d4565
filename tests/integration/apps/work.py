"""What do the tests let workers do?"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

from celery_flame_ec2 import flame_parent

app = Celery("work")
app.conf.update(json.loads(os.environ["WORK_CONF"]))
if "FLAME_RUNNER_ID" in os.environ:
    time.sleep(float(os.environ.get("WORK_BOOT", "0")))  # as a heavy application's imports


def note(word: str, **fields: Any) -> None:
    """Append one line to the journal that the test reads; one write, so lines never mix."""
    line = json.dumps({"word": word, "runner": os.environ.get("FLAME_RUNNER_ID"), **fields}) + "\n"
    with Path(os.environ["WORK_JOURNAL"]).open("ab", buffering=0) as journal:
        journal.write(line.encode())


@app.task(name="work.square")
def square(number: int, seconds: float = 0.0) -> dict[str, Any]:
    """Take so long; give the square and who computed it."""
    time.sleep(seconds)
    note("square", number=number)
    return {"square": number**2, "runner": os.environ.get("FLAME_RUNNER_ID")}


@app.task(name="work.hold")
def hold(number: int, until: str) -> int:
    """Run until the file `until` is there."""
    note("holding", number=number)
    while not Path(until).exists():
        time.sleep(0.02)
    note("held", number=number)
    return number


@app.task(name="work.letter")
def letter() -> dict[str, Any] | None:
    """Give what a task sees of the letter."""
    parent = flame_parent()
    if parent is None:
        return None
    return {
        "owner": parent.owner,
        "pool": parent.pool,
        "queues": list(parent.queues),
        "idle": parent.limits.idle_shutdown_after,
    }


@app.task(name="work.timed")
def timed(sent_at: float, seconds: float) -> None:
    """Note how long it waited, take so long, note when it was done. Times are seconds since the epoch."""
    waited = time.time() - sent_at
    time.sleep(seconds)
    note("timed", waited=waited, done_at=time.time())
