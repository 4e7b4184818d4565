"""Which Celery app does this project run?"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery

app = Celery("proj", include=["proj.tasks"])


def _from_json(variable: str, default: dict[str, Any]) -> dict[str, Any]:
    return json.loads(os.environ[variable]) if variable in os.environ else default


app.conf.broker_url = os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0")
app.conf.result_backend = os.environ.get("RESULT_BACKEND", app.conf.broker_url)
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True

app.conf.worker_autoscaler = "celery_flame_ec2:Autoscaler"
app.conf.flame_backend = os.environ.get("FLAME_BACKEND", "local")
app.conf.flame_ec2 = _from_json("FLAME_EC2", {})
app.conf.flame_policy = os.environ.get("FLAME_POLICY", "celery_flame_ec2.policy:plan")
app.conf.flame_pools = _from_json("FLAME_POOLS", {"default": {"queues": ["celery"], "max": 4}})
