"""What does a celeryconfig say?"""

from __future__ import annotations

import os

broker_url = os.environ["WORK_BROKER"]
worker_autoscaler = "celery_flame_ec2:Autoscaler"
flame_owner = "moduled"
flame_pools = {"pool": {"queues": ["celery"], "max": 7}}
