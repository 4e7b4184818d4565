"""How much work waits in each queue of the broker?"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import NotFound  # type: ignore[import-untyped]
from kombu.connection import Connection
from kombu.transport import virtual

from .broker import cause, channel, drop
from .errors import DemandUnknown


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
    #: Of SQS, which also counts what a FIFO queue withholds: that work waits does not mean that it is to be had.
    approximate: bool = False
    unacked: int | None = None  #: what consumers of this Redis database hold, runners aside; None on other brokers

    @property
    def held(self) -> int | None:
        """Return what consumers took and did not acknowledge, where the broker tells it per queue."""
        told = [depth.held for depth in self.depths.values() if depth.held is not None]
        return sum(told) if told else None


def measure(connection: Connection, queues: Sequence[str]) -> Measurement:
    """Count the messages of each queue without creating any. A queue that does not exist holds nothing.

    A later call on the same connection connects anew by itself.

    Raises:
        DemandUnknown: the broker did not answer in time, or refused.
    """
    try:
        return _read(channel(connection), queues, deadline=time.monotonic() + connection.connect_timeout)
    except Exception as exc:
        drop(connection)
        raise DemandUnknown(f"{connection.as_uri()}: {cause(exc, connection)}") from exc


def published(connection: Connection, queues: Sequence[str]) -> dict[str, float]:
    """Return when the message that waits longest was published, in seconds since the epoch, by queue.

    Only for Redis, the one broker that shows a message without giving it out, and only where its publisher wrote the
    time into its properties as `published_at`. It takes each queue's oldest messages whole: not for every round.
    RabbitMQ would have to give the message out, and of SQS only CloudWatch knows (ApproximateAgeOfOldestMessage).

    Raises:
        DemandUnknown: the broker did not answer in time, or refused.
    """
    try:
        opened = channel(connection)
        if connection.transport.driver_type != "redis" or not queues:
            return {}
        with opened.client.pipeline(transaction=False) as pipe:
            for queue in queues:
                for priority in opened.priority_steps:
                    pipe.lindex(opened._q_for_pri(queue, priority), -1)
            oldest, steps = pipe.execute(), len(opened.priority_steps)
    except Exception as exc:
        if not isinstance(exc, connection.channel_errors):  # a refusal leaves the connection as it was
            drop(connection)
        raise DemandUnknown(f"{connection.as_uri()}: {cause(exc, connection)}") from exc
    by_queue = {queue: _moments(oldest[at * steps : (at + 1) * steps]) for at, queue in enumerate(queues)}
    return {queue: min(moments) for queue, moments in by_queue.items() if moments}


def _moments(messages: Sequence[bytes | None]) -> list[float]:
    """Return when these were published; none for one that does not tell."""
    found = []
    for message in messages:
        try:
            at = float(json.loads(message or b"{}")["properties"]["published_at"])
        except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
            continue
        found += [at] if math.isfinite(at) else []
    return found


def _read(channel: Any, queues: Sequence[str], *, deadline: float) -> Measurement:
    driver = channel.connection.client.transport.driver_type
    if driver in _ALL_AT_ONCE:
        return _ALL_AT_ONCE[driver](channel, queues)
    one = _ONE_BY_ONE.get(driver, _virtual)
    depths = {queue: one(channel, queue) for queue in _before(deadline, queues)}
    return Measurement(depths=depths, approximate=driver == "sqs")


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
