"""How is a runner told over the broker to take no more work, or to take it again?"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.messaging import Producer

from .broker import cause, channel, drop, has_fanout
from .errors import OrderError
from .runner import Runner, RunnerState

#: Seconds until an order that its runner's next words do not confirm is sent again.
AGAIN_AFTER = 5.0


class Order(enum.Enum):
    """What a runner can be told: Celery's own remote control command, sent for each of its queues."""

    CORDON = "cancel_consumer"
    UNCORDON = "add_consumer"

    @property
    def confirmed(self) -> RunnerState:
        """The state in which a runner has carried it out."""
        return RunnerState.CORDONED if self is Order.CORDON else RunnerState.UP

    @property
    def begins(self) -> RunnerState:
        """The state in which a runner can carry it out."""
        return RunnerState.UP if self is Order.CORDON else RunnerState.CORDONED


class Orders:
    """What runners were told and did not confirm yet. No reply is waited for: their next words tell."""

    def __init__(self) -> None:
        self._sent: dict[str, tuple[Order, float]] = {}

    def due(self, wanted: Mapping[str, Order], runners: Iterable[Runner], now: float) -> dict[Order, list[Runner]]:
        """Return whom to tell what at this moment, and take it for told; `wanted` is by runner id.

        Runners that boot, end or did it already are left out, and so are those that were told a moment ago.
        """
        due: dict[Order, list[Runner]] = {}
        able = [(runner, wanted[runner.id]) for runner in runners if runner.id in wanted]
        able = [(runner, order) for runner, order in able if runner.state is order.begins]
        self._sent = {runner.id: self._sent[runner.id] for runner, _ in able if runner.id in self._sent}
        for runner, order in able:
            told, at = self._sent.get(runner.id, (None, now))
            if told is not order or not 0 <= now - at < AGAIN_AFTER:
                self._sent[runner.id] = (order, now)
                due.setdefault(order, []).append(runner)
        return due


def send(app: Celery, connection: Connection, order: Order, *, queues: Iterable[str], nodes: Collection[str]) -> None:
    """Tell these nodes, by the protocol of Celery's remote control (kombu.pidbox.Mailbox), without waiting for replies.

    Raises:
        OrderError: remote control is off, this broker has none, or it did not answer in time.
    """
    if trouble := unavailable(app, connection):
        raise OrderError(trouble)
    if not nodes:  # to Celery that means all workers there are
        return
    mailbox = app.control.mailbox
    try:
        # Celery's own way publishes over the app's pool and tries for ever.
        producer = Producer(channel(connection), auto_declare=False)
        for queue in queues:
            producer.publish(
                _message(order, queue, nodes),
                exchange=mailbox.exchange.name,
                declare=[mailbox.exchange],
                headers={"clock": mailbox.clock.forward(), "expires": 0},
                serializer=mailbox.serializer,
            )
    except Exception as exc:
        drop(connection)
        raise OrderError(f"{connection.as_uri()}: {cause(exc, connection)}") from exc


def unavailable(app: Celery, connection: Connection) -> str:
    """Return why runners cannot be told anything; empty where they can."""
    if not app.conf.worker_enable_remote_control:
        return "runners cannot be cordoned: worker_enable_remote_control is False; remove that setting"
    if not has_fanout(connection):
        kind = connection.transport.driver_type
        return f"runners cannot be cordoned: a broker of type {kind!r} carries no remote control; they end when idle"
    return ""


def _message(order: Order, queue: str, nodes: Collection[str]) -> dict[str, Any]:
    return {
        "method": order.value,
        "arguments": {"queue": queue},
        "destination": list(nodes),
        "pattern": None,
        "matcher": None,
    }
