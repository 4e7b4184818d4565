"""How much work waits in each queue of the broker?"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from amqp.exceptions import NotFound  # type: ignore[import-untyped]
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.transport import virtual

from celery_flame_ec2.errors import DemandUnknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Depth:
    """Messages of one queue; `held` is None where the broker does not tell it per queue."""

    waiting: int  #: ready for a consumer now
    held: int | None = None  #: taken by a consumer and not acknowledged
    delayed: int = 0  #: not visible yet (SQS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """All queues at about one moment."""

    depths: Mapping[str, Depth]
    unacked: int | None = None  #: what consumers hold of every queue in this Redis database; None on other brokers


def open_connection(app: Celery, *, timeout: float) -> Connection:
    """Return an own, still unconnected connection on which no single wait is longer than `timeout` seconds.

    It belongs to one thread. It asks for no heartbeats: a thread late with its next measurement loses nothing.

    Raises:
        DemandUnknown: the broker's transport or its library is missing.
    """
    try:
        connection: Any = app.connection_for_read(connect_timeout=timeout)
        driver = connection.transport.driver_type
    except Exception as exc:
        raise DemandUnknown(f"the broker's transport cannot be used: {exc}") from exc
    options = connection.transport_options
    connection.transport_options = {**options, **_bounds(driver, options, timeout)}
    return connection  # type: ignore[no-any-return]


def measure(connection: Connection, queues: Sequence[str]) -> Measurement:
    """Count the messages of each queue without creating any. A queue that does not exist holds nothing.

    A later call on the same connection connects anew by itself.

    Raises:
        DemandUnknown: the broker did not answer in time, or refused.
    """
    try:
        return _read(_channel(connection), queues, deadline=time.monotonic() + connection.connect_timeout)
    except Exception as exc:
        _drop(connection)
        raise DemandUnknown(f"{connection.as_uri()}: {_cause(exc, connection)}") from exc


def has_fanout(connection: Connection) -> bool:
    """Tell whether worker events can travel on this broker."""
    implements: Any = connection.transport.implements
    return "fanout" in implements.exchange_type


def _bounds(driver: str, options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    if driver == "redis":
        sockets = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        # redis-py bounds the sentinels as it does the master, unless they have options of their own
        sentinels = {"sentinel_kwargs": {**own, **sockets}} if (own := options.get("sentinel_kwargs")) else {}
        return {**sockets, **sentinels, "retry_on_timeout": False}
    if driver == "amqp":
        return {"read_timeout": timeout, "write_timeout": timeout}
    if driver == "sqs":
        http = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"total_max_attempts": 1}}
        return {"client-config": {**(options.get("client-config") or {}), **http}}
    return {}


def _channel(connection: Any) -> Any:
    # kombu's own way to a channel sleeps 2 s between attempts; here each broker of a failover list is tried once
    attempts = {"max_retries": max(1, len(connection.alt)), "interval_start": 0, "interval_step": 0, "interval_max": 0}
    connection.ensure_connection(**attempts, timeout=connection.connect_timeout)
    return connection.default_channel


def _drop(connection: Any) -> None:
    """Forget the socket a late answer could still arrive on, without a word to a broker that may not answer."""
    driver = connection.transport.driver_type
    if driver == "amqp":
        connection.collect()
    elif driver != "sqs":  # HTTP keeps no half-read answer, and a new client costs most of a second
        connection.close()


def _cause(exc: BaseException, connection: Any) -> str:
    root = exc.__cause__ if isinstance(exc, OperationalError) and exc.__cause__ else exc
    silence = "no answer in time" if isinstance(root, TimeoutError) else "no reason given"
    text = f"{type(root).__name__}: {str(root) or silence}"
    for secret in _passwords(connection):
        text = text.replace(secret, "**")
    return text


def _passwords(connection: Any) -> set[str]:
    urls = [connection.hostname or "", *connection.alt]
    raw = {urlsplit(url).password for url in urls if "://" in url} | {connection.password}
    known = {secret for secret in raw if isinstance(secret, str) and secret}
    return known | {unquote(secret) for secret in known}


def _read(channel: Any, queues: Sequence[str], *, deadline: float) -> Measurement:
    driver = channel.connection.client.transport.driver_type
    if driver in _ALL_AT_ONCE:
        return _ALL_AT_ONCE[driver](channel, queues)
    one = _ONE_BY_ONE.get(driver, _virtual)
    return Measurement(depths={queue: one(channel, queue) for queue in _before(deadline, queues)})


def _before(deadline: float, queues: Sequence[str]) -> Iterator[str]:
    for done, queue in enumerate(queues):
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {done} of {len(queues)} queues answered in time")
        yield queue


def _redis(channel: Any, queues: Sequence[str]) -> Measurement:
    steps = channel.priority_steps
    with channel.client.pipeline(transaction=False) as pipe:
        for queue in queues:
            for priority in steps:
                pipe.llen(channel._q_for_pri(queue, priority))
        pipe.hlen(channel.unacked_key)
        *lengths, unacked = pipe.execute()
    per_queue = (sum(lengths[at : at + len(steps)]) for at in range(0, len(lengths), len(steps)))
    depths = {queue: Depth(waiting=waiting) for queue, waiting in zip(queues, per_queue, strict=True)}
    return Measurement(depths=depths, unacked=unacked)


def _filesystem(channel: Any, queues: Sequence[str]) -> Measurement:
    with os.scandir(channel.data_folder_in) as files:
        found = Counter(file.name.partition(".")[2] for file in files)
    return Measurement(depths={queue: Depth(waiting=found[f"{queue}.msg"]) for queue in queues})


def _sqlalchemy(channel: Any, queues: Sequence[str]) -> Measurement:
    from sqlalchemy import func, select, true

    queue, message = channel.queue_cls, channel.message_cls
    visible = (
        select(queue.name, func.count(message.id))
        .join(message, message.queue_id == queue.id)
        .where(queue.name.in_(queues), message.visible == true())
        .group_by(queue.name)
    )
    _, new_session = channel._open()
    with new_session() as session:
        found = Counter(dict(session.execute(visible).all()))
    return Measurement(depths={name: Depth(waiting=found[name]) for name in queues})


def _amqp(channel: Any, queue: str) -> Depth:
    try:
        return Depth(waiting=channel.queue_declare(queue, passive=True).message_count)
    except NotFound:  # nobody has declared it yet; py-amqp has opened the channel again
        return Depth(waiting=0)


def _sqs(channel: Any, queue: str) -> Depth:
    from kombu.transport import SQS

    try:
        url = channel._resolve_queue_url(queue)
    except SQS.DoesNotExistQueueException:  # type: ignore[attr-defined]  # nobody has sent to it yet
        return Depth(waiting=0)
    client = channel.sqs(queue=channel.canonical_queue_name(queue))
    try:
        answer = client.get_queue_attributes(QueueUrl=url, AttributeNames=list(_SQS_COUNTS))
    except client.exceptions.QueueDoesNotExist:  # deleted since; made again it has the same URL
        return Depth(waiting=0)
    visible, in_flight, delayed = (int(answer["Attributes"][name]) for name in _SQS_COUNTS)
    return Depth(waiting=visible, held=in_flight, delayed=delayed)


def _memory(channel: Any, queue: str) -> Depth:
    return Depth(waiting=channel._size(queue) if channel._has_queue(queue) else 0)


def _virtual(channel: Any, queue: str) -> Depth:
    """Read any other transport's own count; the inherited one is a constant zero, which would be a lie."""
    if getattr(type(channel), "_size", virtual.Channel._size) is virtual.Channel._size:
        raise LookupError("this transport cannot tell how deep a queue is")
    return Depth(waiting=int(channel._size(queue)))


_SQS_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_ALL_AT_ONCE = {"redis": _redis, "filesystem": _filesystem, "sql": _sqlalchemy}
_ONE_BY_ONE = {"amqp": _amqp, "sqs": _sqs, "memory": _memory}
