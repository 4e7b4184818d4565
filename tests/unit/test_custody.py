"""When does a runner let go of a message, and when of a task?"""

from __future__ import annotations

from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.exceptions import WorkerLostError
from celery.worker import state

from celery_flame_ec2.custody import Custody, broker_waits
from celery_flame_ec2.testing.clock import Clock


class FakeRequest:
    """What Celery's request does with a message, noted down."""

    def __init__(self, task: Any, name: str = "1") -> None:
        self.id, self.task = name, task
        self.acknowledged = False
        self._apply_result: Any = None
        self.done: list[Any] = []

    def revoked(self) -> bool:
        return False

    def acknowledge(self) -> None:
        self.acknowledged = True
        self.done.append("acknowledged")

    def reject(self, requeue: bool) -> None:
        self.acknowledged = True
        self.done.append("given back" if requeue else "dropped")

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
        self.done.append((type(exc).__name__, self.task.reject_on_worker_lost))


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def app() -> Celery:
    app = Celery("custody", broker="memory://", set_as_current=False)

    def nothing() -> None:
        """Be a task."""

    for name in ("left", "chosen"):
        app.task(nothing, name=name, acks_late=True, reject_on_worker_lost=True, shared=False, Request=FakeRequest)
    return app


@pytest.fixture
def custody(app: Celery, clock: Clock) -> Custody:
    """That of a broker which waits 1800 s, over one task that the runner made late, and one that the user did."""
    made = Custody(waits=1800.0, clock=clock)
    made.take_over(app, late={"left"})
    return made


def request(app: Celery, name: str = "left", *, running: bool = False) -> Any:
    made = app.tasks[name].Request(app.tasks[name])
    made._apply_result = object() if running else None
    return made


def failure(exc: BaseException) -> ExceptionInfo:
    try:
        raise exc
    except (MemoryError, SystemExit, ValueError, WorkerLostError):
        return ExceptionInfo()


def test_a_task_that_runs_long_is_acknowledged_before_the_broker_is_out_of_patience(
    app: Celery, custody: Custody, clock: Clock
) -> None:
    made = request(app, running=True)
    clock.now = 1499.0
    custody.look()
    assert made.done == []
    clock.now = 1500.0
    custody.look()
    custody.look()
    assert made.done == ["acknowledged"]


def test_a_task_that_its_user_wants_late_is_left_alone(app: Celery, custody: Custody, clock: Clock) -> None:
    made = request(app, "chosen", running=True)
    clock.now = 9999.0
    custody.look()
    assert made.done == []


@pytest.mark.parametrize("name", ["left", "chosen"])
def test_a_task_that_waits_long_goes_back_and_does_not_run_here(
    name: str, app: Celery, custody: Custody, clock: Clock
) -> None:
    made = request(app, name)
    assert not made.revoked()
    clock.now = 1500.0
    custody.look()
    assert made.done == ["given back"]
    assert made.revoked()
    assert not request(app, name).revoked()  # when it comes again


def test_what_came_over_a_connection_that_was_lost_is_not_touched(app: Celery, custody: Custody, clock: Clock) -> None:
    before = request(app, running=True)
    custody.begin()
    clock.now = 1500.0
    custody.look()
    assert before.done == []


@pytest.mark.parametrize("exc", [WorkerLostError("gone"), SystemExit(1)], ids=["killed", "exited"])
def test_a_task_comes_back_twice_when_its_process_is_lost_and_then_fails(
    exc: BaseException, app: Celery, custody: Custody
) -> None:
    tries = [request(app) for _ in range(3)]
    for each in tries:
        each.on_failure(failure(exc))
    assert [comes_back for each in tries for _, comes_back in each.done] == [True, True, False]
    assert app.tasks["left"].reject_on_worker_lost  # for others


def test_each_task_has_its_own_count(app: Celery, custody: Custody) -> None:
    others = [app.tasks["left"].Request(app.tasks["left"], name) for name in "abcd"]
    for each in others:
        each.on_failure(failure(WorkerLostError("gone")))
    assert {each.done[0] for each in others} == {("WorkerLostError", True)}


def test_a_task_that_fails_by_itself_is_not_counted(app: Celery, custody: Custody) -> None:
    for _ in range(5):
        request(app).on_failure(failure(ValueError("no")))
    last = request(app)
    last.on_failure(failure(WorkerLostError("gone")))
    assert last.done == [("WorkerLostError", True)]


def test_processes_that_the_worker_ends_are_not_counted(
    app: Celery, custody: Custody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "should_terminate", 0)
    tries = [request(app) for _ in range(4)]
    for each in tries:
        each.on_failure(failure(WorkerLostError("gone")))
    assert {each.done[0] for each in tries} == {("WorkerLostError", True)}


def test_a_task_without_memory_fails_like_any_other(app: Celery, custody: Custody) -> None:
    made = request(app)
    made.on_failure(failure(MemoryError("no room")))
    assert made.done == [("RuntimeError", True)]


def test_a_tasks_own_class_of_requests_is_kept(app: Celery, custody: Custody) -> None:
    assert issubclass(app.tasks["left"].Request, FakeRequest)
    assert app.tasks["celery.chain"].Request.__mro__[1].__module__ == "celery.worker.request"


@pytest.mark.parametrize(
    ("url", "options", "seconds"),
    [
        ("amqp://", {}, 1800.0),
        ("sqs://", {}, 1800.0),
        ("sqs://", {"visibility_timeout": 60}, 60.0),
        ("redis://", {"visibility_timeout": 60}, None),
        ("memory://", {}, None),
    ],
)
def test_how_long_a_broker_waits_for_an_acknowledgement(
    url: str, options: dict[str, Any], seconds: float | None
) -> None:
    app = Celery("waits", broker=url, set_as_current=False, broker_transport_options=options)
    assert broker_waits(app) == seconds
