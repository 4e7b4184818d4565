"""Which compute backend do the settings name?"""

from __future__ import annotations

import os
import sys

from celery import Celery

from ..app_path import import_path
from ..config import Settings
from ..errors import BackendError
from ..premises import premises
from .base import Backend


def open_backend(app: Celery, settings: Settings) -> Backend:
    """Return the compute backend of a deployment; nothing is asked of it yet.

    Raises:
        FlameError: a new process could not find the app, or the backend's library is missing.
    """
    if settings.backend == "ec2":
        from .ec2 import Ec2Backend

        return Ec2Backend(settings, environ=os.environ)
    from .local import LocalBackend

    path = import_path(app)
    if path is None:
        raise BackendError(
            "no new process could import this app: it must be a module's attribute, as `celery -A` wants"
        )
    command = [sys.executable, "-m", "celery", "-A", path, "flame", "child"]
    return LocalBackend(settings, command=command, directory=premises(), environ=os.environ)
