"""Which flame settings does a Celery app carry, and what did its user choose?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from celery import Celery

from .config import PREFIX, Settings, read_settings
from .options import suggestion

#: Options of `celery worker` that a runner's worker gets from its pool, or that make no sense for it.
OWN_WORKER_OPTIONS = frozenset(
    {"autoscale", "beat", "concurrency", "detach", "exclude_queues", "gid", "hostname", "pidfile", "purge", "queues"}
    | {"schedule_filename", "scheduler", "statedb", "uid", "without_heartbeat"}
)


def settings_of(app: Celery) -> Settings:
    """Read the app's `flame_` settings, in lower case, from a module or under a namespace such as Django's CELERY_.

    Raises:
        SettingsError: they cannot work.
    """
    problems: list[str] = []
    conf = {name: app.conf[name] for name in _names(_loaded(app), problems)}
    problems += _worker_option_problems(conf.get(f"{PREFIX}pools"))
    connection: Any = app.connection_for_read()
    transport = app.conf.broker_transport_options or {}
    return read_settings(
        conf,
        app_name=app.main or "celery",
        broker_urls=(connection.as_uri(include_password=True), *connection.alt),
        environ=os.environ,
        prefix=transport.get("queue_name_prefix") or transport.get("global_keyprefix") or "",
        problems=problems,
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


def _worker_option_problems(pools: Any) -> Iterator[str]:
    """Yield a sentence for each of a pool's `worker_options` that `celery worker` does not have."""
    given = [
        (pool, options["worker_options"])
        for pool, options in (pools.items() if isinstance(pools, Mapping) else ())
        if isinstance(options, Mapping) and isinstance(options.get("worker_options"), Mapping)
    ]
    if not given:
        return
    from celery.bin.worker import worker  # only who sets the option pays for the imports
    from celery.concurrency import get_available_pool_names

    known = {str(parameter.name) for parameter in worker.params} - OWN_WORKER_OPTIONS
    kinds = get_available_pool_names()
    for pool, options in given:
        for name in options.keys() - known:
            why = "; the pool sets it" if name in OWN_WORKER_OPTIONS else suggestion(name, known)
            yield f"pool {pool!r}: option 'worker_options' has {name!r}, which no runner's `celery worker` takes{why}"
        if "pool" in options and options["pool"] not in kinds:
            told = f"{options['pool']!r}; there are {', '.join(kinds)}"
            yield f"pool {pool!r}: option 'worker_options' names the worker pool {told}"
