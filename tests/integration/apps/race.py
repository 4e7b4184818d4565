"""Which task tells when it began, on a runner whose log takes its time?"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from celery import signals

from .work import app, note

__all__ = ["app", "mark"]


@app.task(name="work.mark")
def mark(number: int, seconds: float = 0.0) -> int:
    """Note at once, then take so long."""
    note("mark", number=number, at=time.time())
    time.sleep(seconds)
    return number


class SlowLog(logging.Handler):
    """Has written what the runner says, and returns WORK_SLOW seconds later; never while the file WORK_HOLD is there.

    Whoever decides logs the decision before acting on it: so the test has time for what shall come in between.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Keep whoever logs."""
        if record.name.startswith("celery_flame_ec2") and "flame: ending: " in record.getMessage():
            time.sleep(float(os.environ.get("WORK_SLOW", "0")))
            while Path(os.environ.get("WORK_HOLD", "/nowhere")).exists():
                time.sleep(0.005)


@signals.after_setup_logger.connect
def _slow_down(logger: logging.Logger, **_: Any) -> None:
    logger.addHandler(SlowLog())
