"""Which flame settings does a Celery app carry, and what did its user choose?"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from celery import Celery

from .config import PREFIX, Settings, read_settings
from .options import suggestion
from .premises import own_file

#: Options of `celery worker` that a runner's worker gets from its pool, or that make no sense for it.
OWN_WORKER_OPTIONS = frozenset(
    {"autoscale", "beat", "concurrency", "detach", "exclude_queues", "gid", "hostname", "pidfile", "purge", "queues"}
    | {"schedule_filename", "scheduler", "statedb", "uid", "without_heartbeat"}
)
#: How deep a change of these settings is laid over what there is.
_DEPTHS = {"ec2": 1, "pools": 2}


def settings_of(app: Celery, changes: Mapping[str, Any] | None = None) -> Settings:
    """Read the app's `flame_` settings, in lower case, from a module or under a namespace such as Django's CELERY_.

    `changes` are laid over them.

    Raises:
        SettingsError: they cannot work.
    """
    problems: list[str] = []
    conf = {name: app.conf[name] for name in _names(_loaded(app), problems)}
    conf = laid_over(conf, {PREFIX + name: value for name, value in (changes or {}).items()})
    problems += _worker_option_problems(conf.get(f"{PREFIX}pools"))
    connection: Any = app.connection_for_read()
    transport = app.conf.broker_transport_options or {}
    settings = read_settings(
        conf,
        app_name=app.main or "celery",
        broker_urls=(connection.as_uri(include_password=True), *connection.alt),
        environ=os.environ,
        prefix=transport.get("queue_name_prefix") or transport.get("global_keyprefix") or "",
        problems=problems,
    )
    return settings if _carries_words(connection) else dataclasses.replace(settings, board=board_of(settings))


def laid_over(below: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes: `ec2` and each pool by option, all else as a whole."""
    return {**below, **{
        name: _merged(below.get(name), value, _DEPTHS.get(name.removeprefix(PREFIX), 0))
        for name, value in changes.items()
    }}  # fmt: skip


def _merged(below: Any, value: Any, depth: int) -> Any:
    if not depth or not isinstance(below, Mapping) or not isinstance(value, Mapping):
        return value
    return {**below, **{name: _merged(below.get(name), each, depth - 1) for name, each in value.items()}}


def board_of(settings: Settings) -> str:
    """Return where runners pin their words that their broker does not carry: beside the lease, or where it would be."""
    if settings.backend == "local":
        return own_file(settings.owner, "board").as_uri()
    ec2 = settings.pools[0].ec2
    beside = settings.lease if isinstance(settings.lease, str) and settings.lease.startswith("s3:") else ""
    bucket = (ec2.s3_bundle_url or "").removeprefix("s3://").partition("/")[0]
    bucket, _, key = (beside or f"s3://{bucket}/flame/lease/{settings.owner}").removeprefix("s3://").partition("/")
    where = {"region": ec2.region, "endpoint": ec2.s3_service_endpoint}
    query = urlencode({name: value for name, value in where.items() if value})
    return f"s3://{bucket}/{quote(key)}.board" + (f"?{query}" if query else "")


def _carries_words(connection: Any) -> bool:
    """Tell whether worker events can travel on this broker; what is not installed is told by whoever connects."""
    try:
        return "fanout" in connection.get_transport_cls().implements.exchange_type
    except ImportError:
        return True


def is_chosen(app: Celery, name: str) -> bool:
    """Tell whether the user set this Celery setting, to its default even."""
    conf = _loaded(app)
    # Celery 5.4 looks for a setting's name of old apart.
    names = {*conf._to_keys(name), *(other(name) for other in conf._keys or ())}
    return any(each in mapping for mapping in conf.maps[:-1] for each in names)


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
