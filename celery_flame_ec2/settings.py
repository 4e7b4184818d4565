"""Which flame settings does a Celery app carry, and what did its user choose?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from celery import Celery

from .config import PREFIX, Settings, read_settings


def settings_of(app: Celery) -> Settings:
    """Read the app's `flame_` settings, in lower case, from a module or under a namespace such as Django's CELERY_.

    Raises:
        SettingsError: they cannot work.
    """
    unread: list[str] = []
    conf = {name: app.conf[name] for name in _names(_loaded(app), unread)}
    connection: Any = app.connection_for_read()
    return read_settings(
        conf,
        app_name=app.main or "celery",
        broker_urls=(connection.as_uri(include_password=True), *connection.alt),
        environ=os.environ,
        problems=unread,
    )


def is_chosen(app: Celery, name: str) -> bool:
    """Tell whether the user set this Celery setting, to its default even."""
    conf = _loaded(app)
    return any(key in mapping for mapping in conf.maps[:-1] for key in conf._to_keys(name))


def _loaded(app: Celery) -> Any:
    # Celery reads the configuration when a value is first asked for; only then does the app have its mappings.
    app.conf.get("broker_url")
    return app.conf


def _names(conf: Any, unread: list[str]) -> Iterator[str]:
    """Yield our settings' lower-case names; append a sentence for each that Celery does not find as it is written."""
    prefix = conf.prefix or ""
    # The last mapping is Celery's own defaults.
    for raw in {str(key) for mapping in conf.maps[:-1] for key in mapping}:
        name = raw.removeprefix(prefix).lower()
        if not name.startswith(PREFIX):
            continue
        if name in conf:
            yield name
        else:
            written = f"{prefix}{name.upper()}" if prefix else name
            unread.append(f"setting {raw!r} is not read by Celery as it is written; write {written!r}")
