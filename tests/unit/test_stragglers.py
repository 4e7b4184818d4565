"""A message that SQS hands out after the cancel goes back at once, and ends nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from celery_flame_ec2.stragglers import Callbacks, release_stragglers

MESSAGE = {
    "properties": {"delivery_info": {"sqs_queue": "https://sqs/q", "sqs_message": {"ReceiptHandle": "handle"}}},
    "body": "secret",
}


class Sqs:
    """Notes what becomes visible again; refuses where it was told to."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self._refusal = refusal

    def change_message_visibility(self, **asked: Any) -> None:
        if self._refusal is not None:
            raise self._refusal
        self.seen.append(asked)


def connection(sqs: Sqs, driver: str = "sqs") -> Any:
    channel = SimpleNamespace(sqs=lambda queue: sqs)
    transport = SimpleNamespace(driver_type=driver, channels=[channel], _callbacks={"q": "taken"})
    return SimpleNamespace(transport=transport)


def test_a_message_of_a_queue_without_a_consumer_becomes_visible_at_once() -> None:
    sqs = Sqs()
    made = connection(sqs)
    release_stragglers(made)
    made.transport._callbacks["late"](MESSAGE)
    assert sqs.seen == [{"QueueUrl": "https://sqs/q", "ReceiptHandle": "handle", "VisibilityTimeout": 0}]


def test_a_queue_with_a_consumer_keeps_it_and_one_without_has_none_to_those_who_ask() -> None:
    made = connection(Sqs())
    release_stragglers(made)
    callbacks = made.transport._callbacks
    assert (callbacks["q"], callbacks.get("late"), "late" in callbacks) == ("taken", None, False)


def test_a_refusal_is_told_without_the_message_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    made = connection(Sqs(OSError("secret")))
    release_stragglers(made)
    made.transport._callbacks["late"](MESSAGE)
    assert "hidden for its visibility timeout: OSError" in caplog.text
    assert "secret" not in caplog.text


def test_it_is_for_sqs_alone_and_done_once() -> None:
    other, sqs = connection(Sqs(), "redis"), connection(Sqs())
    release_stragglers(other)
    assert type(other.transport._callbacks) is dict
    release_stragglers(sqs)
    first = sqs.transport._callbacks
    release_stragglers(sqs)
    assert isinstance(first, Callbacks)
    assert sqs.transport._callbacks is first
