"""The demo's application: its broker is the directory that DEMO_RUN names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from celery_flame_ec2 import flame_parent

RUN = Path(os.environ["DEMO_RUN"])

app = Celery("demo", broker="filesystem://")
app.conf.update(
    broker_transport_options={"data_folder_in": RUN / "queue", "data_folder_out": RUN / "queue", "control_folder": RUN},
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
    worker_autoscaler="celery_flame_ec2:Autoscaler",
    flame_owner="demo",
    flame_pools={"burst": {"queues": ["celery"], "max": 4, "max_concurrency": 4, "idle_shutdown_after": 3}},
)


@app.task
def nap(seconds: float) -> None:
    """Sleep, and leave a note of where."""
    time.sleep(seconds)
    where = os.environ["FLAME_RUNNER_ID"] if flame_parent() is not None else "the worker"
    with (RUN / "done").open("a") as notes:
        notes.write(f"{where}\n")
