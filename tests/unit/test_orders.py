"""Who is told what over the broker, on one in memory."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.pidbox import Mailbox

from celery_flame_ec2.errors import OrderError
from celery_flame_ec2.orders import Order, send


class Node:
    """One worker's end of Celery's remote control, as Celery itself makes it."""

    def __init__(self, app: Celery, connection: Connection, name: str) -> None:
        self.done: list[tuple[str, str]] = []
        mailbox: Mailbox = app.control.mailbox(connection)
        self._node: Any = mailbox.Node(name, channel=connection.channel())
        for order in Order:
            self._node.handlers[order.value] = self._handler(order.value)
        self._node.listen()

    def _handler(self, command: str) -> Any:
        return lambda state, queue: self.done.append((command, queue))


def heard(connection: Connection) -> None:
    with contextlib.suppress(TimeoutError):
        while True:
            connection.drain_events(timeout=0.05)


@pytest.fixture
def app() -> Celery:
    return Celery("p", broker="memory://", set_as_current=False)


def test_only_those_who_are_named_are_told_queue_by_queue(app: Celery) -> None:
    with Connection("memory://") as connection:
        nodes = [Node(app, connection, name) for name in ("one", "two", "three")]
        send(app, connection, Order.CORDON, queues=("a", "b"), nodes=["one", "three"])
        heard(connection)
    assert [node.done for node in nodes] == [
        [("cancel_consumer", "a"), ("cancel_consumer", "b")],
        [],
        [("cancel_consumer", "a"), ("cancel_consumer", "b")],
    ]


def test_to_name_nobody_does_not_tell_everybody(app: Celery) -> None:
    with Connection("memory://") as connection:
        node = Node(app, connection, "one")
        send(app, connection, Order.CORDON, queues=("a",), nodes=[])
        heard(connection)
    assert node.done == []


def test_a_broker_that_does_not_answer_is_said_to_be_so_at_once(app: Celery) -> None:
    with Connection("redis://:hunter2@127.0.0.1:9/0", connect_timeout=1) as connection:
        with pytest.raises(OrderError, match=r"127\.0\.0\.1:9/0: .*refused") as caught:
            send(app, connection, Order.UNCORDON, queues=("a",), nodes=["one"])
        assert "hunter2" not in str(caught.value)
