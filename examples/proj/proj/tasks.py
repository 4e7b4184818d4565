"""What work is there?"""

from __future__ import annotations

import os
import time

from celery_flame_ec2 import flame_parent

from .app import app


@app.task
def nap(seconds: float) -> dict[str, str | int]:
    """Sleep, and say where: on which runner ("parent" where it is none), in which process, for which flame pool."""
    time.sleep(seconds)
    parent = flame_parent()
    return {
        "runner": os.environ.get("FLAME_RUNNER_ID", "parent"),
        "pid": os.getpid(),
        "pool": parent.pool if parent else "",
    }


@app.task
def add(x: float, y: float) -> float:
    """Add two numbers."""
    return x + y
