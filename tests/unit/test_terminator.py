"""How a child ends, step by step, on a clock that the test turns."""

from __future__ import annotations

import json
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.worker import state
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from celery_flame_ec2.lifetime import CORDONED_PATIENCE, NOTICE_MARGIN, RECALLED
from celery_flame_ec2.notices import Notice
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.presence import BEAT, EVENT, REPEAT, Word
from celery_flame_ec2.runner import Limits, RunnerState
from celery_flame_ec2.terminator import LEAVE_AFTER, LOOK_AGAIN, NO_ANSWER, Phase, Terminator
from celery_flame_ec2.testing.clock import Clock

IDLE, SHUTDOWN = 30.0, 10.0


class TaskConsumer:
    def __init__(self) -> None:
        self.queues, self.active = ["q"], {"q"}
        self.channel = types.SimpleNamespace(_in_poll=None)
        self.on_message: Callable[[Any], Any] | None = None

    @property
    def consuming(self) -> bool:
        return bool(self.active)

    def consuming_from(self, queue: str) -> bool:
        return queue in self.active

    def cancel(self) -> None:
        self.active.clear()

    def consume(self) -> None:
        self.active.update(self.queues)

    def cancel_by_queue(self, queue: str) -> None:
        self.queues.remove(queue)
        self.active.discard(queue)

    def add_queue(self, queue: str) -> None:
        self.queues.append(queue)
        self.consume()


class Consumer:
    """Runs what is called soon at once, as an event loop that has nothing else to do."""

    def __init__(self) -> None:
        self.hostname = "flame-r1@host"
        self.task_consumer = TaskConsumer()
        self.controller = types.SimpleNamespace(semaphore=LaxBoundedSemaphore(2))
        self.event_dispatcher = self
        self.said: list[dict[str, Any]] = []
        self.ordered: list[tuple[str, str]] = []

    def call_soon(self, function: Callable[..., Any], *args: Any) -> None:
        function(*args)

    def cancel_task_queue(self, queue: str) -> None:
        self.ordered.append(("cancel", queue))
        self.task_consumer.cancel_by_queue(queue)

    def add_task_queue(self, queue: str) -> None:
        self.ordered.append(("add", queue))
        self.task_consumer.add_queue(queue)

    def send(self, type: str, **fields: Any) -> None:
        assert type == EVENT
        self.said.append(fields)


class Request:
    """Stands for a task the worker holds, and for its message."""

    def __init__(self, eta: float | None = None) -> None:
        self.id, self.eta, self.message, self.requeued = str(id(self)), eta, self, 0

    @property
    def acknowledged(self) -> bool:
        return self.requeued > 0

    def requeue(self) -> None:
        assert not self.acknowledged, "kombu raises MessageStateError, and the worker dies of it"
        self.requeued += 1


@pytest.fixture(autouse=True)
def _worker_state() -> Iterator[None]:
    yield
    state.should_stop = state.should_terminate = None
    state.reserved_requests.clear()
    state.active_requests.clear()
    state.all_total_count[0] = 0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def terminator(clock: Clock, consumer: Consumer, hello: Path | None = None, **limits: Any) -> Terminator:
    wanted = Limits(**{"idle_shutdown_after": IDLE, "shutdown_timeout": SHUTDOWN, **limits})
    letter = Parent(owner="o", pool="p", backend="local", queues=("q",), concurrency=2, limits=wanted)
    watcher = Terminator(letter, "r1", hello_file=hello, clock=clock, ages=lambda: (clock.now, 3.0))
    watcher.attach(consumer)
    watcher._on_ready()
    watcher.tick(clock.now)
    return watcher


def hold() -> Request:
    request = Request()
    state.reserved_requests.add(request)
    return request


def at(watcher: Terminator, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    watcher.tick(clock.now)


def test_an_idle_worker_stops_consuming_looks_again_and_only_then_exits(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE)
    assert (watcher.phase, consumer.task_consumer.consuming, state.should_stop) == (Phase.DRAINING, False, None)
    at(watcher, clock, LOOK_AGAIN / 2)
    assert state.should_stop is None
    at(watcher, clock, LOOK_AGAIN)
    assert (watcher.phase, state.should_stop) == (Phase.STOPPED, 0)


def test_a_task_that_slips_in_keeps_an_idle_runner(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE)
    request = hold()
    at(watcher, clock, LOOK_AGAIN)
    assert (watcher.phase, watcher.ending, consumer.task_consumer.consuming) == (Phase.WORKING, None, True)
    state.reserved_requests.discard(request)
    at(watcher, clock, 1)
    at(watcher, clock, IDLE - 1)
    assert watcher.phase is Phase.WORKING


def test_a_task_that_runs_keeps_its_runner_also_when_celery_forgot_that_it_was_reserved(
    clock: Clock, consumer: Consumer
) -> None:
    watcher, running = terminator(clock, consumer), Request()
    state.active_requests.add(running)
    at(watcher, clock, IDLE)
    at(watcher, clock, IDLE)
    assert (watcher.phase, watcher.word().active) == (Phase.WORKING, 1)
    watcher.tell("a test")
    for _ in range(3):
        at(watcher, clock, LOOK_AGAIN)
    assert watcher.phase is Phase.DRAINING


def test_it_does_not_exit_while_redis_may_yet_answer_with_a_task(clock: Clock, consumer: Consumer) -> None:
    consumer.task_consumer.channel._in_poll = "asked"
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE)
    at(watcher, clock, 2 * LOOK_AGAIN)
    assert state.should_stop is None
    consumer.task_consumer.channel._in_poll = None
    at(watcher, clock, 0.1)
    assert state.should_stop == 0


def test_it_waits_for_no_answer_of_a_redis_that_stands_still(clock: Clock, consumer: Consumer) -> None:
    consumer.task_consumer.channel._in_poll = "asked"
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE)
    at(watcher, clock, NO_ANSWER)
    assert state.should_stop == 0


def test_what_waits_for_a_slot_goes_back_unless_the_runner_is_merely_idle(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    started = [hold(), hold(), hold()]
    for request in started:
        consumer.controller.semaphore.acquire(started.index, request)
    at(watcher, clock, 100)
    assert [request.requeued for request in started] == [0, 0, 1]
    assert set(state.reserved_requests) == set(started[:2])


def test_what_custody_gave_back_while_it_waited_for_a_slot_does_not_go_back_twice(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    running, given_back, _ = held = [hold(), hold(), hold()]
    consumer.controller.semaphore = LaxBoundedSemaphore(1)
    for request in held:
        consumer.controller.semaphore.acquire(held.index, request)
    given_back.requeue()
    at(watcher, clock, 100)
    assert [request.requeued for request in held] == [0, 1, 1]
    assert set(state.reserved_requests) == {running}


def test_what_the_broker_sends_before_it_knows_goes_back_unless_the_runner_is_merely_idle(
    clock: Clock, consumer: Consumer
) -> None:
    tasks, late = consumer.task_consumer, Request()
    tasks.cancel = lambda: (tasks.active.clear(), tasks.on_message(late))
    taken: list[Request] = []
    tasks.on_message = taken.append
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    at(watcher, clock, 100)
    assert (late.requeued, taken, tasks.on_message) == (1, [], taken.append)


def test_single_use_takes_what_it_has_slots_for_and_hands_back_the_rest(clock: Clock, consumer: Consumer) -> None:
    tasks, late = consumer.task_consumer, [Request(), Request()]
    tasks.cancel = lambda: (tasks.active.clear(), tasks.on_message(late[0]))
    watcher = terminator(clock, consumer, single_use=True)
    for request in (Request(), Request(eta=1.0)):
        watcher._on_received(request=request)
    assert tasks.consuming
    watcher._on_received(request=Request())
    assert (tasks.consuming, late[0].requeued) == (False, 1)
    tasks.on_message(late[1])
    assert late[1].requeued == 1


def test_the_last_task_of_a_single_use_runner_may_come_while_an_idle_one_waits_for_the_broker(
    clock: Clock, consumer: Consumer
) -> None:
    tasks, cancelled = consumer.task_consumer, []

    def cancel() -> None:
        cancelled.append(1)
        watcher._on_received(request=hold())

    tasks.cancel = cancel
    watcher = terminator(clock, consumer, single_use=True)
    watcher._on_received(request=Request())
    at(watcher, clock, IDLE)
    assert cancelled == [1]  # not a second time within the first


def test_the_idle_clock_starts_again_with_every_task_that_ran_between_two_looks(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE - 1)
    state.all_total_count[0] += 1
    at(watcher, clock, 2)
    assert watcher.phase is Phase.WORKING


def test_the_idle_clock_starts_again_when_a_broker_that_was_lost_is_back(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE - 1)
    watcher.detach()
    at(watcher, clock, 2)
    watcher.attach(Consumer())
    at(watcher, clock, IDLE - 1)
    assert watcher.phase is Phase.WORKING
    at(watcher, clock, IDLE)
    assert watcher.phase is Phase.DRAINING


def test_a_runner_that_is_too_old_finishes_what_it_holds(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    request = hold()
    at(watcher, clock, 100)
    at(watcher, clock, 1)
    assert (watcher.phase, consumer.task_consumer.consuming) == (Phase.DRAINING, False)
    state.reserved_requests.discard(request)
    at(watcher, clock, 1)
    assert (state.should_stop, state.should_terminate) == (0, None)


def test_a_drain_gives_up_after_shutdown_timeout(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    request = hold()
    at(watcher, clock, 100)
    at(watcher, clock, SHUTDOWN - 1)
    assert state.should_terminate is None
    at(watcher, clock, 1)
    assert state.should_terminate == 0
    assert weakref.ref(request)() is not None


def test_a_reconnect_during_the_drain_stops_consuming_again(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    request = hold()
    at(watcher, clock, 100)
    watcher.detach()
    fresh = Consumer()
    watcher.attach(fresh)
    at(watcher, clock, 1)
    assert not fresh.task_consumer.consuming
    assert request in state.reserved_requests


def test_a_worker_that_never_connects_ends(clock: Clock) -> None:
    letter = Parent(owner="o", pool="p", backend="local", queues=("q",), concurrency=2, limits=Limits(boot_timeout=60))
    watcher = Terminator(letter, "r1", clock=clock)
    at(watcher, clock, 59)
    assert watcher.phase is Phase.WORKING
    at(watcher, clock, 1)
    at(watcher, clock, 1)
    assert state.should_stop == 0


def test_hello_is_said_once_it_consumes_and_leaves_the_file_the_deadman_waits_for(
    clock: Clock, consumer: Consumer, tmp_path: Path
) -> None:
    hello, ages = tmp_path / "hello", (clock.now, 3.0)
    watcher = terminator(clock, consumer, hello)
    assert hello.exists()
    assert len(consumer.said) == 2  # at once, and with the first look
    who = {"runner": "r1", "pool": "p", "owner": "o", "ages": ages, "recallable": False}
    assert consumer.said[0] == {**who, "state": "up", "active": 0, "taken": 0, "reason": ""}
    clock.now += 60
    assert watcher.word().ages == ages  # at its hello: later words repeat it


def test_the_file_says_who_the_worker_is_and_how_it_is(clock: Clock, consumer: Consumer, tmp_path: Path) -> None:
    hello = tmp_path / "hello"
    watcher = terminator(clock, consumer, hello)
    assert json.loads(hello.read_text()) == {"worker": "flame-r1@host", "state": "up", "reason": ""}
    watcher.tell("a test")
    at(watcher, clock, 0.25)
    assert json.loads(hello.read_text()) == {"worker": "flame-r1@host", "state": "ending", "reason": "told by a test"}
    assert list(tmp_path.iterdir()) == [hello]


def test_a_worker_whose_file_cannot_be_written_is_looked_after_all_the_same(
    clock: Clock, consumer: Consumer, tmp_path: Path
) -> None:
    (tmp_path / "hello.new").mkdir()
    watcher = terminator(clock, consumer, tmp_path / "hello")
    at(watcher, clock, IDLE)
    assert watcher.phase is Phase.DRAINING


def test_presence_is_repeated_and_ends_with_the_reason(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    for _ in range(15):
        at(watcher, clock, REPEAT / 10)
    assert len(consumer.said) == 3
    at(watcher, clock, IDLE)
    assert (consumer.said[-1]["state"], consumer.said[-1]["reason"]) == ("ending", "idle for 45 s")


def test_a_runner_speaks_at_the_next_beat_when_it_has_news_and_else_repeats_itself_now_and_then(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = terminator(clock, consumer)
    consumer.said.clear()
    at(watcher, clock, BEAT)
    assert consumer.said == []
    at(watcher, clock, REPEAT - BEAT)
    request = hold()
    at(watcher, clock, BEAT / 2)
    at(watcher, clock, BEAT / 2)
    assert [word["active"] for word in consumer.said] == [0, 1]
    assert request in state.reserved_requests


def test_a_busy_runner_that_only_takes_one_task_after_the_other_has_no_news(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    request = hold()
    at(watcher, clock, BEAT)
    consumer.said.clear()
    state.all_total_count[0] += 10
    at(watcher, clock, BEAT)
    assert consumer.said == []
    at(watcher, clock, REPEAT - BEAT)
    assert [(word["active"], word["taken"]) for word in consumer.said] == [(1, 10)]
    assert request in state.reserved_requests


def test_a_signal_is_the_last_word_before_the_connection_closes(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    watcher._on_told(sig="SIGTERM")
    watcher.detach()
    assert (consumer.said[-1]["state"], consumer.said[-1]["reason"]) == ("ending", "told by SIGTERM")


def states(consumer: Consumer) -> list[str]:
    return [said["state"] for said in consumer.said]


def test_a_worker_whose_queues_are_cancelled_is_cordoned_and_says_so_at_its_next_look(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = terminator(clock, consumer)
    consumer.task_consumer.cancel_by_queue("q")
    at(watcher, clock, 0.1)
    consumer.task_consumer.add_queue("q")
    at(watcher, clock, 0.1)
    assert states(consumer)[-2:] == ["cordoned", "up"]


def test_cordoned_and_uncordoned_are_what_all_queues_are(clock: Clock) -> None:
    consumer = Consumer()
    letter = Parent(owner="o", pool="p", backend="local", queues=("q", "r"), concurrency=2)
    consumer.task_consumer.queues.append("r")
    watcher = Terminator(letter, "r1", clock=clock)
    watcher.attach(consumer)
    watcher._on_ready()
    seen = []
    for change in (("cancel", "q"), ("cancel", "r"), ("add", "r"), ("add", "q")):
        getattr(consumer.task_consumer, {"cancel": "cancel_by_queue", "add": "add_queue"}[change[0]])(change[1])
        at(watcher, clock, 2)
        seen.append(states(consumer)[-1])
    assert seen == ["up", "cordoned", "cordoned", "up"]


def test_a_cordoned_worker_idles_out_and_one_that_is_uncordoned_has_its_whole_time_again(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = terminator(clock, consumer)
    at(watcher, clock, IDLE - 1)
    consumer.task_consumer.cancel_by_queue("q")
    at(watcher, clock, 0.5)
    at(watcher, clock, 0.25)
    at(watcher, clock, CORDONED_PATIENCE / 2)
    assert watcher.phase is Phase.WORKING, "who cordoned it may want it back"
    consumer.task_consumer.add_queue("q")
    at(watcher, clock, 0.25)
    at(watcher, clock, 0.25)
    at(watcher, clock, IDLE - 1)
    assert watcher.phase is Phase.WORKING
    consumer.task_consumer.cancel_by_queue("q")
    at(watcher, clock, 0.25)
    at(watcher, clock, 0.25)
    at(watcher, clock, CORDONED_PATIENCE)
    assert watcher.ending is not None
    assert watcher.ending.reason == f"idle for {CORDONED_PATIENCE:.0f} s, cordoned"


def test_a_worker_that_is_uncordoned_while_it_ends_does_not_take_more(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer, max_lifetime=100.0)
    request = hold()
    at(watcher, clock, 100)
    consumer.task_consumer.cancel_by_queue("q")
    consumer.task_consumer.add_queue("q")
    at(watcher, clock, 1)
    assert (states(consumer)[-1], consumer.task_consumer.consuming) == ("ending", False)
    assert request in state.reserved_requests


def test_a_cordoned_worker_that_connects_anew_stays_cordoned(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    request = hold()
    consumer.task_consumer.cancel_by_queue("q")
    at(watcher, clock, 1)
    watcher.detach()
    fresh = Consumer()
    fresh.task_consumer.cancel_by_queue("q")
    watcher.attach(fresh)
    at(watcher, clock, REPEAT)
    assert states(fresh) == ["cordoned"]
    assert request in state.reserved_requests


def test_a_worker_that_is_told_to_end_drains_as_for_any_other_reason(clock: Clock, consumer: Consumer) -> None:
    watcher = terminator(clock, consumer)
    request = hold()
    watcher.tell("SIGTERM")
    at(watcher, clock, 1)
    assert (watcher.phase, states(consumer)[-1], state.should_stop) == (Phase.DRAINING, "ending", None)
    at(watcher, clock, SHUTDOWN)
    assert (state.should_terminate, watcher.gave_up) == (0, True)
    assert request in state.reserved_requests


def test_a_worker_that_goes_on_with_what_was_given_up_is_cut_off(clock: Clock, consumer: Consumer) -> None:
    left: list[float] = []
    letter = Parent(owner="o", pool="p", backend="local", queues=("q",), concurrency=2, limits=Limits(max_lifetime=100))
    watcher = Terminator(letter, "r1", leave=lambda: left.append(clock.now), clock=clock)
    request = hold()
    at(watcher, clock, 100)
    at(watcher, clock, letter.limits.shutdown_timeout)
    assert (watcher.gave_up, left) == (True, [])
    at(watcher, clock, LEAVE_AFTER)
    assert left == [clock.now]
    assert request in state.reserved_requests


def test_a_notice_in_the_middle_of_a_drain_shortens_it(clock: Clock) -> None:
    notice = Notice()
    letter = Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=2, limits=Limits(max_lifetime=100))
    watcher = Terminator(letter, "r1", notice=lambda: notice, clock=clock)
    request = hold()
    at(watcher, clock, 100)
    notice = Notice(taken_away_at=clock.now + NOTICE_MARGIN + 5)
    at(watcher, clock, 4)
    assert not watcher.gave_up
    at(watcher, clock, 1)
    assert watcher.gave_up
    assert request in state.reserved_requests


class Megaphone:
    """Where a runner speaks when its worker's loop does not."""

    def __init__(self) -> None:
        self.words: list[Word] = []

    def say(self, word: Word) -> None:
        self.words.append(word)

    def close(self) -> None: ...


def test_while_a_task_keeps_the_workers_loop_busy_the_runner_speaks_by_itself(clock: Clock, consumer: Consumer) -> None:
    letter, megaphone = Parent(owner="o", pool="p", backend="local", queues=("q",), concurrency=1), Megaphone()
    watcher = Terminator(letter, "r1", voice=megaphone, clock=clock)
    watcher.attach(consumer)
    watcher._on_ready()
    at(watcher, clock, 6)
    assert megaphone.words == [], "the loop speaks"
    consumer.call_soon = lambda *_: None
    busy = hold()
    for _ in range(round(8 * REPEAT)):
        at(watcher, clock, 1)
    assert busy in state.reserved_requests
    assert 4 <= len(megaphone.words) <= 6
    assert {(word.state, word.active) for word in megaphone.words} == {(RunnerState.UP, 1)}


def test_a_sign_of_life_follows_each_look_but_one_that_failed() -> None:
    told: list[str] = []

    def notice() -> Notice:
        told.append("look")
        if len(told) <= 2:
            raise RuntimeError("the worker cannot be looked at")
        return Notice()

    def pulse() -> None:
        told.append("sign")
        watcher._over.set()

    letter = Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=2)
    watcher = Terminator(letter, "r1", notice=notice, pulse=pulse)
    watcher.run()
    assert told[:3] == ["look"] * 3
    assert told.count("sign") == 1


def test_a_worker_that_has_only_to_leave_gives_no_more_signs_of_life(clock: Clock, consumer: Consumer) -> None:
    signs: list[Phase] = []
    letter = Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=2, limits=Limits(max_lifetime=100))
    watcher = Terminator(letter, "r1", pulse=lambda: signs.append(watcher.phase), clock=clock)
    watcher.attach(consumer)
    consumer.call_soon = lambda *_: None  # type: ignore[method-assign]  # its loop hangs
    request = hold()
    watcher._give_sign()
    at(watcher, clock, 100)
    watcher._give_sign()
    state.reserved_requests.discard(request)
    at(watcher, clock, 1)
    watcher._give_sign()
    assert signs == [Phase.WORKING, Phase.DRAINING]


def with_board(clock: Clock, consumer: Consumer, **limits: Any) -> Terminator:
    letter = Parent(
        owner="o", pool="p", backend="local", queues=("q", "r"), concurrency=1, board="file:///board",
        limits=Limits(**limits),
    )  # fmt: skip
    consumer.task_consumer.queues, consumer.task_consumer.active = ["q", "r"], {"q", "r"}
    watcher = Terminator(letter, "r1", clock=clock)
    watcher.attach(consumer)
    watcher._on_ready()
    watcher.tick(clock.now)
    return watcher


def test_what_is_ordered_on_the_board_is_done_as_by_remote_control_and_only_what_is_not_done_yet(
    clock: Clock, consumer: Consumer
) -> None:
    watcher = with_board(clock, consumer)
    for cordoned, after, ordered in (
        (False, RunnerState.UP, []),
        (True, RunnerState.CORDONED, [("cancel", "q"), ("cancel", "r")]),
        (True, RunnerState.CORDONED, []),
        (False, RunnerState.UP, [("add", "q"), ("add", "r")]),
    ):
        consumer.ordered.clear()
        watcher.obey(cordoned)
        at(watcher, clock, 0.1)
        assert (watcher.word().state, consumer.ordered) == (after, ordered)
    assert consumer.said == [], "words take the board"


def test_who_ends_or_has_no_broker_obeys_no_order_of_the_board(clock: Clock, consumer: Consumer) -> None:
    watcher = with_board(clock, consumer, max_lifetime=100.0)
    watcher.detach()
    watcher.obey(True)
    consumer.task_consumer = None  # type: ignore[assignment]  # Celery connects anew
    watcher.attach(consumer)
    watcher.obey(True)
    watcher.tell("SIGTERM")
    consumer.task_consumer = TaskConsumer()
    at(watcher, clock, 1)
    watcher.obey(True)
    assert consumer.ordered == []


def test_one_that_was_recalled_says_so_and_considers_nothing_more(
    clock: Clock, consumer: Consumer, tmp_path: Path
) -> None:
    hello, letter = tmp_path / "hello", Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=2)
    watcher = Terminator(letter, "r1", hello_file=hello, clock=clock)
    watcher.attach(consumer)
    watcher.recalled(consumer)
    assert json.loads(hello.read_text()) == {"worker": "flame-r1@host", "state": "ending", "reason": RECALLED}
    watcher.tick(clock.now)
    assert watcher.phase is Phase.STOPPED
    assert [(each["state"], each["reason"]) for each in consumer.said[-1:]] == [("ending", RECALLED)]
