"""Which app reads a module of plain lower-case settings?"""

from __future__ import annotations

from celery import Celery

app = Celery("work")
app.config_from_object("tests.integration.apps.moduled_settings")
