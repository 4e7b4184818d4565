"""What does a Django project's settings module say of Celery?"""

from __future__ import annotations

import os

SECRET_KEY = "nothing of Celery's"
CELERY_BROKER_URL = os.environ["WORK_BROKER"]
CELERY_WORKER_AUTOSCALER = "celery_flame_ec2:Autoscaler"
CELERY_FLAME_OWNER = "namespaced"
CELERY_FLAME_POOLS = {"pool": {"queues": ["celery"], "max": 7}}
