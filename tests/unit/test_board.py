"""When does a runner pin which word, and what does a parent make of what it reads? On a board in memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_flame_ec2.board.base import Change, Pin
from celery_flame_ec2.board.reader import AFTER_TROUBLE, LOOK_EVERY, TAKE_DOWN_AFTER, Reader
from celery_flame_ec2.board.scribe import AFTER_TROUBLE as SCRIBE_RESTS
from celery_flame_ec2.board.scribe import BUSY_BEAT, ORDERS_EVERY, Scribe, open_scribe
from celery_flame_ec2.board.text import LONGEST_REASON, count_of, read, write
from celery_flame_ec2.errors import BoardError, OrderError
from celery_flame_ec2.orders import Order
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.presence import BEAT, REPEAT, Word
from celery_flame_ec2.reaper import FRESH
from celery_flame_ec2.runner import Runner, RunnerState
from celery_flame_ec2.testing.clock import Clock


class Cork:
    """A board in memory. While it is `broken` nothing on it can be done."""

    place = "a board"

    def __init__(self, *, open_to_all: bool = False) -> None:
        self.open_to_all, self.broken = open_to_all, False
        self.up: list[Pin] = []
        self.orders: frozenset[str] = frozenset()
        self.asked: list[str] = []

    def pin(self, pin: Pin) -> None:
        self._ask("pin")
        self.up = [each for each in self.up if each.runner_id != pin.runner_id] + [pin]

    def pins(self) -> list[Pin]:
        self._ask("pins")
        return list(self.up)

    def take_down(self, pins: Collection[Pin]) -> None:
        self._ask("take_down")
        self.up = [pin for pin in self.up if pin not in pins]

    def cordoned(self) -> frozenset[str]:
        self._ask("cordoned")
        return self.orders

    def order(self, change: Change) -> None:
        self._ask("order")
        self.orders = change(self.orders)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.broken:
            raise BoardError("a board: no answer")


def word(name: str = "r1", state: RunnerState = RunnerState.UP, **fields: Any) -> Word:
    return Word(runner_id=name, pool="video", owner="o", state=state, **fields)


def pin(name: str, count: int, **fields: Any) -> Pin:
    return Pin(runner_id=name, text=write(word(name, **fields), count))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cork() -> Cork:
    return Cork()


# words as names


@settings(deadline=None)
@given(
    state=st.sampled_from(RunnerState),
    active=st.integers(0, 10**6),
    taken=st.integers(0, 10**9),
    reason=st.text(),
    count=st.integers(0, 10**15),
)
def test_a_word_is_read_as_it_was_written_but_for_what_no_line_holds(
    state: RunnerState, active: int, taken: int, reason: str, count: int
) -> None:
    said = word(state=state, active=active, taken=taken, reason=reason)
    text = write(said, count)
    heard = read("r1", text, owner="o", heard_at=0.0)
    assert count_of(text) == count
    assert heard == dataclasses.replace(said, reason=heard.reason)
    assert heard.reason.isprintable()
    if reason.isascii() and reason.isprintable():
        assert heard.reason == reason[:LONGEST_REASON]
    assert len(text) <= 720, "with the longest owner and id it fits into a key"


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.", ".e30", "1.e30", "x.e30", "-1.e30", "1.e30.e30", "\u0661.e30", "1.W10", "1." + "A" * 5000,
     "1.e30\n", "1.WyJ1cCIsLTEsMCwicCIsIiJd", "1.WyJ1cCIsdHJ1ZSwwLCJwIiwiIl0", "1.WyJkb3duIiwwLDAsInAiLCIiXQ",
     "1.WyJ1cCIsMCwwLCJwIiwiXG4iXQ", "1." + "W" * 600],
)  # fmt: skip
def test_what_no_runner_wrote_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a word"):
        read("r1", text, owner="o", heard_at=0.0)


@pytest.mark.parametrize("name", ["", ".", "..", ".r1.new", "a/b", "a b", "r\n", "é", "r" * 129])
def test_a_name_that_cannot_be_a_part_of_a_path_is_no_runners(name: str) -> None:
    with pytest.raises(ValueError, match="not a word"):
        read(name, write(word(), 1), owner="o", heard_at=0.0)
    letter = Parent(owner="o", pool="p", backend="local", queues=("q",), concurrency=1, board="file:///nowhere")
    assert open_scribe(letter, name, word=word, obey=lambda _: None) is None


# a runner


class Writing:
    """One runner's hand, and what it says and is told."""

    def __init__(self, cork: Cork, clock: Clock) -> None:
        self.cork, self.clock, self.now, self.told = cork, clock, word(), list[bool]()
        self.scribe = Scribe(cork, "r1", word=lambda: self.now, obey=self.told.append, clock=clock, first=0)

    def look(self, seconds: float = 0.0, *, last: bool = False, **says: Any) -> int:
        """Let time pass, look; return how many words were tried since the start."""
        self.clock.now += seconds
        self.now = dataclasses.replace(self.now, **says)
        self.scribe.look(self.clock(), last=last)
        return self.cork.asked.count("pin")

    @property
    def up(self) -> Word:
        (found,) = self.cork.up
        return read("r1", found.text, owner="o", heard_at=0.0)


@pytest.fixture
def writing(cork: Cork, clock: Clock) -> Writing:
    return Writing(cork, clock)


def test_hello_is_said_at_once_and_repeated_now_and_then(writing: Writing) -> None:
    assert writing.look() == 1
    assert [writing.look(1.0) for _ in range(int(2 * REPEAT))][-1] == 3


def test_a_new_state_is_told_at_once_but_no_two_words_within_a_beat(writing: Writing) -> None:
    writing.look()
    assert writing.look(BEAT / 2, state=RunnerState.CORDONED) == 1
    assert writing.look(BEAT / 2) == 2
    assert writing.up.state is RunnerState.CORDONED


def test_work_that_comes_and_goes_is_told_no_oftener_than_parents_look(writing: Writing) -> None:
    writing.look()
    assert writing.look(BEAT, active=1) == 1
    assert writing.look(BUSY_BEAT - BEAT) == 2
    assert writing.look(BUSY_BEAT, active=3, taken=9) == 2, "busy is busy"
    assert writing.up.active == 1


def test_the_last_word_is_said_whatever_was_said_before(writing: Writing) -> None:
    writing.look()
    assert writing.look(0.1, state=RunnerState.ENDING, reason="idle for 30 s", last=True) == 2
    assert (writing.up.state, writing.up.reason) == (RunnerState.ENDING, "idle for 30 s")
    assert writing.look(0.1, last=True) == 2, "which is said"


def test_a_board_that_does_not_answer_is_left_alone_for_a_while_and_told_of_once(
    writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    writing.cork.broken = True
    assert [writing.look(0.25) for _ in range(8)][-1] == 1
    assert writing.look(SCRIBE_RESTS) == 2
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    writing.cork.broken = False
    assert writing.look(SCRIBE_RESTS) == 3
    assert writing.up.state is RunnerState.UP


def test_orders_are_read_now_and_then_and_hold_while_they_cannot_be_read(writing: Writing) -> None:
    writing.look()
    assert writing.told == [False]
    writing.cork.orders = frozenset({"r1", "r2"})
    writing.look(ORDERS_EVERY)
    writing.cork.broken = True
    writing.look(ORDERS_EVERY)
    assert writing.told == [False, True, True]


def test_who_never_read_orders_obeys_none(writing: Writing) -> None:
    writing.cork.broken = True
    writing.look(60.0)
    assert writing.told == []


# a parent


@pytest.fixture
def reader(cork: Cork, clock: Clock) -> Reader:
    return Reader(cork, owner="o", clock=clock)


def look(reader: Reader, clock: Clock, seconds: float = LOOK_EVERY) -> None:
    clock.now += seconds
    reader.look()


def test_a_word_is_heard_when_its_count_is_new_and_the_newest_counts(reader: Reader, cork: Cork, clock: Clock) -> None:
    cork.up = [pin("r1", 9, active=2), pin("r1", 10, active=3), pin("r1", 8)]
    look(reader, clock)
    heard_at = clock()
    look(reader, clock)
    assert (reader.words["r1"].active, reader.words["r1"].heard_at) == (3, heard_at)
    cork.up = [pin("r1", 11, active=3)]
    look(reader, clock)
    assert reader.words["r1"].heard_at == clock()


def test_it_is_read_no_oftener_than_it_has_to_be(reader: Reader, cork: Cork, clock: Clock) -> None:
    for _ in range(10):
        look(reader, clock, 1.0)
    assert len(cork.asked) == 2
    reader.look(anew=True)
    assert len(cork.asked) == 3
    reader.keep([])
    for _ in range(10):
        look(reader, clock, 1.0)
    assert len(cork.asked) == 3, "nobody is there who could speak"
    reader.keep(["r1"])
    look(reader, clock)
    assert len(cork.asked) == 4


def test_while_it_cannot_be_read_silence_means_nothing(
    reader: Reader, cork: Cork, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    look(reader, clock)
    assert reader.since == clock()
    cork.broken = True
    for _ in range(10):
        look(reader, clock, AFTER_TROUBLE / 5)
        assert reader.since is None or "pins" not in cork.asked[1:]
    assert cork.asked.count("pins") == 3
    assert caplog.text.count("runners are not heard") == 1
    cork.broken = False
    look(reader, clock, AFTER_TROUBLE)
    assert reader.since == clock()


def runner(name: str, launched_at: float = 0.0, pool: str = "video") -> Runner:
    return Runner(id=name, pool=pool, launched_at=launched_at)


@pytest.mark.parametrize(
    ("heard", "fresh", "silent", "attends"),
    [
        ("nobody", True, "never spoke", False),
        ("older", True, "never spoke", True),
        ("older", False, "never spoke", False),
        ("younger", True, "never spoke", False),
        ("younger", True, "spoke", True),
        ("younger", False, "spoke", False),
        ("elsewhere", True, "spoke", False),
        ("nobody", True, "spoke", False),
    ],
)
def test_silence_says_something_only_while_another_is_heard_that_speaks_for_sure(
    heard: str, fresh: bool, silent: str, attends: bool, reader: Reader, cork: Cork, clock: Clock
) -> None:
    one = runner("one", 100.0)
    others = {"older": runner("other", 100.0), "younger": runner("other", 101.0), "elsewhere": runner("other", 1, "x")}
    cork.up = [pin("one", 1)] if silent == "spoke" else []
    look(reader, clock)
    clock.now += 2 * FRESH
    cork.up += [pin("other", 1)] if heard != "nobody" else []
    look(reader, clock)
    if not fresh:
        look(reader, clock, FRESH)
    there = [one, *([others[heard]] if heard in others else [])]
    assert (reader.attends(there)["one"] is not None) is attends


def test_where_every_runner_can_write_silence_always_says_something(clock: Clock) -> None:
    reader = Reader(Cork(open_to_all=True), owner="o", clock=clock)
    look(reader, clock)
    assert (reader.attends([runner("one")]), reader.hears("video")) == ({"one": clock()}, True)


def test_a_pool_is_heard_once_one_of_it_was(reader: Reader, cork: Cork, clock: Clock) -> None:
    look(reader, clock)
    assert not reader.hears("video")
    cork.up = [pin("one", 1)]
    look(reader, clock)
    assert (reader.hears("video"), reader.hears("audio")) == (True, False)


def test_words_are_taken_down_of_who_is_gone_for_long_and_what_others_left(
    reader: Reader, cork: Cork, clock: Clock
) -> None:
    cork.up = [pin("gone", 1), pin("here", 4), pin("here", 5)]
    look(reader, clock)
    reader.keep(["here"])
    reader.tidy()
    assert len(cork.up) == 3, "it may be about to take its former one down itself"
    look(reader, clock)
    reader.tidy()
    assert cork.up == [pin("gone", 1), pin("here", 5)]
    look(reader, clock, TAKE_DOWN_AFTER)
    reader.keep(["here"])
    reader.tidy()
    assert cork.up == [pin("here", 5)]


def test_what_cannot_be_taken_down_deafens_nobody(reader: Reader, cork: Cork, clock: Clock) -> None:
    cork.up = [pin("gone", 1)]
    look(reader, clock)
    reader.keep([])
    look(reader, clock, TAKE_DOWN_AFTER)
    cork.broken = True
    for _ in range(3):
        reader.tidy()
    assert (cork.asked.count("take_down"), reader.since is None) == (1, False)


def test_orders_are_of_all_that_are_there_and_of_no_others(reader: Reader, cork: Cork, clock: Clock) -> None:
    cork.orders = frozenset({"one", "gone"})
    reader.order(Order.CORDON, ["two"])
    assert cork.orders == {"one", "gone", "two"}, "nobody has looked who is there"
    cork.up = [pin("one", 1), pin("two", 1)]
    look(reader, clock)
    reader.order(Order.UNCORDON, ["one"])
    assert cork.orders == {"two"}
    cork.broken = True
    with pytest.raises(OrderError, match="no answer"):
        reader.order(Order.CORDON, ["one"])
    look(reader, clock)
    asked = len(cork.asked)
    with pytest.raises(OrderError, match="cannot be read"):
        reader.order(Order.CORDON, ["one"])
    assert len(cork.asked) == asked, "no round waits for it twice"
