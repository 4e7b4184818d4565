"""Is what the broker says turned into depths, and what it does not say into `DemandUnknown`?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from celery import Celery
from kombu.transport import virtual

from celery_flame_ec2.broker import has_fanout, open_connection
from celery_flame_ec2.errors import DemandUnknown
from celery_flame_ec2.queues import Depth, _before, measure


class Mute(virtual.Transport):
    """A transport that cannot count."""

    Channel = virtual.Channel


class CountingChannel(virtual.Channel):
    def _size(self, queue: str) -> int:
        return len(queue)


class Counting(virtual.Transport):
    """A transport this package has never heard of, with a count of its own."""

    Channel = CountingChannel


class Indiscreet(virtual.Transport):
    """A transport whose errors quote the password."""

    def establish_connection(self) -> Any:
        client: Any = self.client
        raise RuntimeError(f"no entry for {client.userid} with {client.password}")


def application(url: str = "memory://", **options: Any) -> Celery:
    return Celery(broker=url, set_as_current=False, **options)


def opened(app: Celery) -> Any:
    return open_connection(app, timeout=2.0)


def test_an_empty_queue_is_zero_and_not_unknown() -> None:
    assert measure(opened(application()), ["empty"]).depths == {"empty": Depth(waiting=0)}


def test_waiting_tasks_are_counted_for_each_queue() -> None:
    app = application()
    for queue in ("left", "right", "right"):
        app.send_task("work", queue=f"counted-{queue}")
    depths = measure(opened(app), ["counted-left", "counted-right"]).depths
    assert {queue: depth.waiting for queue, depth in depths.items()} == {"counted-left": 1, "counted-right": 2}


def test_looking_at_a_missing_queue_does_not_create_it() -> None:
    connection = opened(application())
    measure(connection, ["never-declared"])
    assert not connection.default_channel._has_queue("never-declared")


def test_no_queues_is_an_empty_measurement() -> None:
    assert measure(opened(application()), []).depths == {}


def test_a_transport_that_cannot_count_is_unknown_and_not_zero() -> None:
    connection = opened(application("", broker_transport=f"{__name__}:Mute"))
    with pytest.raises(DemandUnknown, match="cannot tell how deep"):
        measure(connection, ["any"])


def test_any_other_transport_is_asked_through_its_own_count() -> None:
    connection = opened(application("", broker_transport=f"{__name__}:Counting"))
    assert measure(connection, ["four"]).depths == {"four": Depth(waiting=4)}


def test_an_unknown_transport_is_named_when_the_connection_is_opened() -> None:
    with pytest.raises(DemandUnknown, match="No such transport: carrierpigeon"):
        opened(application("carrierpigeon://loft"))


def test_the_password_is_masked_even_where_the_cause_quotes_it() -> None:
    app = application("", broker_transport=f"{__name__}:Indiscreet", broker_user="ann", broker_password="s3cret")
    with pytest.raises(DemandUnknown, match=r"RuntimeError: no entry for ann with \*\*") as caught:
        measure(opened(app), ["any"])
    assert "s3cret" not in str(caught.value)


def test_queues_are_no_longer_asked_once_the_time_is_up() -> None:
    with pytest.raises(TimeoutError, match="only 0 of 2 queues"):
        list(_before(-math.inf, ["a", "b"]))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1", True),
        ("rediss://127.0.0.1", True),
        ("sentinel://127.0.0.1", True),
        ("amqp://127.0.0.1", True),
        ("memory://", True),
        ("filesystem://", True),
        ("sqs://", False),
        ("sqla+sqlite://", False),
    ],
)
def test_whether_worker_events_can_travel_is_told_without_connecting(url: str, expected: bool) -> None:
    assert has_fanout(opened(application(url))) is expected
