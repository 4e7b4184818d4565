"""How is this project set up? Whatever differs between machines comes from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# On a runner these are the values of `env`, secrets among them.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "only for this machine")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",  # instances need a database that they reach
        "NAME": os.environ.get("SHOP_DATABASE", BASE_DIR / ".db.sqlite3"),
        "OPTIONS": {"timeout": 60, "transaction_mode": "IMMEDIATE"},
    }
}
INSTALLED_APPS = ["orders"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"  # left out it is Chicago, for the whole process

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0")

CELERY_WORKER_AUTOSCALER = "celery_flame_ec2:Autoscaler"
CELERY_FLAME_BACKEND = os.environ.get("FLAME_BACKEND", "local")
CELERY_FLAME_POOLS = {"orders": {"queues": ["celery"], "max": 4, "max_concurrency": 2}}
CELERY_FLAME_EC2 = json.loads(os.environ.get("FLAME_EC2", "{}"))
