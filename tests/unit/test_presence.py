"""When is a listener sure that it would hear? On a broker in memory, by a clock of the test's own."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2.presence import ECHO, ECHO_WITHIN, INSTANT, Presence, Word, say
from celery_flame_ec2.runner import RunnerState
from celery_flame_ec2.testing.clock import Clock


class Ears:
    """One owner's listener, and a runner's voice, over the same broker."""

    def __init__(self) -> None:
        self.clock, self.owner = Clock(), uuid.uuid4().hex
        self.app = Celery("p", broker="memory://", set_as_current=False)
        self.presence = Presence(self.app, owner=self.owner, connect=self.app.connection_for_read, clock=self.clock)

    def runner_says(self, name: str, **fields: Any) -> None:
        word = Word(runner_id=name, pool="video", owner=self.owner, state=RunnerState.UP, **fields)
        with self.app.connection_for_write() as connection:
            say(self.app.events.Dispatcher(connection, groups={"worker"}), word)

    def listen(self, seconds: float = 0.0) -> None:
        """Let time pass and hear what came."""
        self.clock.now += seconds
        while self.presence.listen(INSTANT):
            pass

    def lose_bindings(self) -> None:
        """Let the broker forget where events go, as one that lost its memory does, while connections stand."""
        state = self.app.connection_for_read().transport.state  # type: ignore[union-attr]
        state.clear()


@pytest.fixture
def ears() -> Ears:
    return Ears()


def test_a_listener_listens_since_it_heard_itself(ears: Ears) -> None:
    assert ears.presence.listening_since is None
    ears.listen()
    assert ears.presence.listening_since == ears.clock()
    assert ears.presence.words == {}


def test_a_word_is_heard_with_when_and_what(ears: Ears) -> None:
    ears.listen()
    ears.runner_says("i-1", active=2, taken=9, ages=(31.5, 4.0))
    ears.listen(3.0)
    word = ears.presence.words["i-1"]
    assert (word.active, word.taken, word.heard_at, word.ages) == (2, 9, ears.clock(), (31.5, 4.0))


@pytest.mark.parametrize("ages", [(1.0,), (1.0, -1.0), (float("inf"), 1.0), "ab", 7])
def test_ages_that_cannot_be_make_a_word_that_is_left_out(ears: Ears, ages: Any) -> None:
    ears.listen()
    ears.runner_says("i-1", ages=ages)
    ears.listen()
    assert ears.presence.words == {}


def test_while_it_hears_itself_it_listens_on(ears: Ears) -> None:
    ears.listen()
    since = ears.presence.listening_since
    for _ in range(20):
        ears.listen(ECHO)
    assert ears.presence.listening_since == since


def test_a_listener_that_was_busy_for_long_is_not_deaf(ears: Ears) -> None:
    ears.listen()
    since = ears.presence.listening_since
    ears.listen(600.0)
    assert ears.presence.listening_since == since


def test_a_connection_that_stands_and_brings_nothing_is_noticed_and_left(
    ears: Ears, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    ears.listen()
    ears.lose_bindings()
    ears.listen(ECHO)
    assert ears.presence.listening_since is not None
    ears.listen(ECHO_WITHIN + 1)
    assert ears.presence.listening_since is None
    assert "the connection stands, but no word came" in caplog.text
    ears.listen()
    assert ears.presence.listening_since == ears.clock(), "it connected anew, and hears itself"


def test_another_listener_is_no_runner(ears: Ears) -> None:
    other = Presence(ears.app, owner=ears.owner, connect=ears.app.connection_for_read, clock=ears.clock)
    ears.listen()
    other.listen(INSTANT)
    ears.listen()
    assert ears.presence.words == {}
