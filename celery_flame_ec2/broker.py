"""How is the broker reached without ever waiting for it too long?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from kombu.messaging import Consumer

from .errors import DemandUnknown


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


def channel(connection: Any) -> Any:
    """Return the connection's channel, connecting where it is not."""
    # kombu's own way to a channel sleeps 2 s between attempts; here each broker of a failover list is tried once
    attempts = {"max_retries": max(1, len(connection.alt)), "interval_start": 0, "interval_step": 0, "interval_max": 0}
    connection.ensure_connection(**attempts, timeout=connection.connect_timeout)
    return connection.default_channel


def drop(connection: Any) -> None:
    """Forget the socket a late answer could still arrive on, without a word to a broker that may not answer."""
    driver = connection.transport.driver_type
    if driver == "amqp":
        connection.collect()
    elif driver != "sqs":  # HTTP keeps no half-read answer, and a new client costs most of a second
        connection.close()


def cause(exc: BaseException, connection: Any) -> str:
    """Return what went wrong on this connection in one line, without its passwords."""
    root = exc.__cause__ if isinstance(exc, OperationalError) and exc.__cause__ else exc
    silence = "no answer in time" if isinstance(root, TimeoutError) else "no reason given"
    text = f"{type(root).__name__}: {str(root) or silence}"
    for secret in _passwords(connection):
        text = text.replace(secret, "**")
    return text


def has_fanout(connection: Connection) -> bool:
    """Tell whether worker events can travel on this broker."""
    implements: Any = connection.transport.implements
    return "fanout" in implements.exchange_type


def hear_events(app: Celery, opened: Any, handlers: Mapping[str, Callable[[Any], None]], routing_key: str) -> None:
    """Have each event that comes over an opened channel handled by its type, with its time as it was sent."""
    receiver = app.events.Receiver(opened, handlers=handlers, routing_key=routing_key, app=app)
    # Times in events are seconds since the epoch; Celery would shift them by the sender's time zone.
    receiver.event_from_message = functools.partial(receiver.event_from_message, localize=False)
    for consumer in receiver.get_consumers(functools.partial(Consumer, opened), opened):
        consumer.consume()


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


def _passwords(connection: Any) -> set[str]:
    urls = [connection.hostname or "", *connection.alt]
    raw = {urlsplit(url).password for url in urls if "://" in url} | {connection.password}
    known = {secret for secret in raw if isinstance(secret, str) and secret}
    return known | {unquote(secret) for secret in known}
