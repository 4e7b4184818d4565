"""Which app reads its settings as a Django project's does?"""

from __future__ import annotations

from celery import Celery

app = Celery("work")
app.config_from_object("tests.integration.apps.namespaced_settings", namespace="CELERY")
