"""Which Celery app does this project run?"""

from __future__ import annotations

import os

from celery import Celery

app = Celery("work", include=["work.tasks"])
app.conf.broker_url = os.environ.get("BROKER_URL", "redis://127.0.0.1:6379/0")
app.conf.result_backend = os.environ.get("RESULT_BACKEND", app.conf.broker_url)
