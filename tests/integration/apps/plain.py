"""Which app sets its settings one by one?"""

from __future__ import annotations

import os

from celery import Celery

app = Celery("work", broker=os.environ["WORK_BROKER"])
app.conf.worker_autoscaler = "celery_flame_ec2:Autoscaler"
app.conf.flame_owner = "plain"
app.conf.flame_pools = {"pool": {"queues": ["celery"], "max": 7}}
