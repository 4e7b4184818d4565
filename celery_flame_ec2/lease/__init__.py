"""Where is it settled which of a deployment's parents acts?"""

from __future__ import annotations

import logging
import re
from typing import Any

from celery import Celery
from kombu.connection import Connection

from ..broker import open_connection
from ..config import Settings
from ..errors import LeaseError
from ..premises import own_file
from .base import REQUEST_TIMEOUT, Lease, Store
from .guarded import Guarded

__all__ = ("Guarded", "Lease", "open_lease")

logger = logging.getLogger(__name__)

_REDIS = re.compile(r"(rediss?|redis\+socket|sentinel)://")


def open_lease(app: Celery, settings: Settings) -> Lease:
    """Return the lease of a deployment; nothing is asked of its store yet.

    Libraries are imported now, so call this on the main thread: see `Autoscaler`.

    Raises:
        FlameError: the store's library is missing, or its client cannot be made.
    """
    return Lease(_store(app, settings))


def _store(app: Celery, settings: Settings) -> Store | None:
    bundle = next((pool.ec2.s3_bundle_url for pool in settings.pools if pool.ec2.s3_bundle_url), None)
    if settings.lease is False:
        return None
    if isinstance(settings.lease, str):
        at_url = _s3 if settings.lease.startswith("s3:") else _redis
        return at_url(settings, settings.lease)
    if settings.backend == "local":
        return _file(settings)
    if (store := _redis_of(app, settings)) is not None:
        return store
    if bundle is not None:
        return _s3(settings, f"s3://{bundle.split('/')[2]}/flame/lease/{settings.owner}")
    logger.warning("no lease: run one parent only, or set flame_lease to a redis:// or s3:// URL")
    return None


def _file(settings: Settings) -> Store:
    from .file import FileStore

    return FileStore(own_file(settings.owner, "lease"))


def _redis(settings: Settings, url: str, *, ssl: Any = False, options: Any = None) -> Store:
    try:
        from .redis import RedisStore
    except ImportError as exc:
        raise LeaseError('a lease in Redis needs redis-py: pip install "celery-flame-ec2[redis]"') from exc
    bounds = {"socket_timeout": REQUEST_TIMEOUT, "socket_connect_timeout": REQUEST_TIMEOUT, "retry_on_timeout": False}
    connection = Connection(
        url, ssl=ssl, connect_timeout=REQUEST_TIMEOUT, transport_options={**(options or {}), **bounds}
    )
    return RedisStore(connection, settings.owner)


def _redis_of(app: Celery, settings: Settings) -> Store | None:
    """Return a store in the app's own Redis: its broker, or else its result backend."""
    broker = open_connection(app, timeout=REQUEST_TIMEOUT)
    if broker.transport.driver_type == "redis":
        from .redis import RedisStore

        return RedisStore(broker, settings.owner)
    results, conf = app.conf.result_backend, app.conf
    if isinstance(results, str) and _REDIS.match(results):
        options = conf.result_backend_transport_options
        return _redis(settings, results, ssl=conf.redis_backend_use_ssl or False, options=options)
    return None


def _s3(settings: Settings, url: str) -> Store:
    from .s3 import S3Store

    ec2 = settings.pools[0].ec2
    return S3Store(url, region=ec2.region, endpoint=ec2.s3_service_endpoint)
