"""Does a runner leave alone what its user decided, and decide what the user did not?"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery import Celery, _state, shared_task

from celery_flame_ec2.manners import HEARTBEAT, acknowledge_late, beat_often, has_processes, pool_of
from celery_flame_ec2.parent import Parent

LETTER = Parent(owner="test", pool="pool", backend="ec2", queues=("celery",), concurrency=1)


@pytest.fixture(autouse=True)
def _no_task_of_another_test() -> Iterator[None]:
    """Celery gives a shared task to every app that is finalized later in this process."""
    before = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.intersection_update(before)


def nothing(*_: Any) -> None:
    """What the tasks do."""


def new_app(**options: Any) -> Celery:
    return Celery("manners", set_as_current=False, broker="memory://", **options)


def ways(app: Celery, name: str = "t") -> tuple[Any, Any]:
    return app.tasks[name].acks_late, app.tasks[name].reject_on_worker_lost


def evaluated(app: Celery, **options: Any) -> None:
    assert app.task(name="t", shared=False, **options)(nothing).name == "t"


def left_for_later(app: Celery, **options: Any) -> None:
    app.task(name="t", shared=False, **options)(nothing)


def made_at_once(app: Celery, **options: Any) -> None:
    app.task(name="t", shared=False, lazy=False, **options)(nothing)


def of_the_celery_base(app: Celery, **options: Any) -> None:
    app.register_task(type("T", (celery.Task,), {"name": "t", "run": nothing, **options})())


def of_the_apps_base(app: Celery, **options: Any) -> None:
    app.register_task(type("T", (app.Task,), {"name": "t", "run": nothing, **options})())


def of_a_base_with_options(app: Celery, **options: Any) -> None:
    app.task(name="t", shared=False, base=type("Base", (celery.Task,), options))(nothing)


def of_a_registered_class(app: Celery, **options: Any) -> None:
    parent = type("Before", (celery.Task,), {"name": "before", "run": nothing, **options})
    app.register_task(parent())
    app.register_task(type("T", (parent,), {"name": "t"})())


def shared(app: Celery, **options: Any) -> None:
    shared_task(name="t", **options)(nothing)


def finalized(app: Celery, **options: Any) -> None:
    left_for_later(app, **options)
    app.finalize()


KINDS = [
    evaluated,
    left_for_later,
    made_at_once,
    of_the_celery_base,
    of_the_apps_base,
    of_a_base_with_options,
    of_a_registered_class,
    shared,
    finalized,
]
of_every_kind = pytest.mark.parametrize("make", KINDS, ids=lambda kind: kind.__name__)


@of_every_kind
@pytest.mark.parametrize("finalizes", [True, False])
def test_a_task_that_says_nothing_is_acknowledged_late_and_comes_back(
    make: Callable[..., None], finalizes: bool
) -> None:
    app = new_app(autofinalize=finalizes or make is not left_for_later)
    make(app)
    if not finalizes:
        app.finalize()
    assert "t" in acknowledge_late(app)
    assert ways(app) == (True, True)


@of_every_kind
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("reject", [True, False])
def test_what_a_task_says_of_itself_holds(make: Callable[..., None], late: bool, reject: bool) -> None:
    app = new_app()
    make(app, acks_late=late, reject_on_worker_lost=reject)
    assert "t" not in acknowledge_late(app)
    assert ways(app) == (late, reject)


@of_every_kind
@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ({"acks_late": True}, (True, True)),
        ({"acks_late": False}, (False, True)),
        ({"reject_on_worker_lost": False}, (True, False)),
    ],
)
def test_each_of_the_two_is_decided_by_itself(
    make: Callable[..., None], said: dict[str, bool], holds: tuple[bool, bool]
) -> None:
    app = new_app()
    make(app, **said)
    assert ("t" in acknowledge_late(app)) == ("acks_late" not in said)
    assert ways(app) == holds


def by_attribute(**conf: Any) -> Celery:
    app = new_app()
    for name, value in conf.items():
        setattr(app.conf, name, value)
    return app


def by_update(**conf: Any) -> Celery:
    app = new_app()
    app.conf.update(conf)
    return app


def after_it_was_read(**conf: Any) -> Celery:
    app = new_app()
    assert app.conf.task_acks_late is False
    app.conf.update(**conf)
    return app


def by_object(**conf: Any) -> Celery:
    app = new_app()
    app.config_from_object(types.SimpleNamespace(**conf))
    return app


def by_dict(**conf: Any) -> Celery:
    app = new_app()
    app.config_from_object(conf, force=True)
    return app


def by_namespace(**conf: Any) -> Celery:
    app = new_app()
    upper = {f"CELERY_{name.upper()}": value for name, value in conf.items()}
    app.config_from_object(types.SimpleNamespace(**upper), namespace="CELERY")
    return app


def by_old_names(**conf: Any) -> Celery:
    app = Celery("manners", set_as_current=False)
    old = {"task_acks_late": "CELERY_ACKS_LATE", "task_reject_on_worker_lost": "CELERY_REJECT_ON_WORKER_LOST"}
    app.config_from_object({old[name]: value for name, value in conf.items()})
    return app


def by_constructor(**conf: Any) -> Celery:
    return new_app(**conf)


def by_changes(**conf: Any) -> Celery:
    return new_app(changes=conf)


def by_source(**conf: Any) -> Celery:
    return new_app(config_source=conf)


def by_defaults(**conf: Any) -> Celery:
    app = new_app()
    app.add_defaults(conf)
    return app


def on_configure(**conf: Any) -> Celery:
    app = new_app()
    app.on_after_configure.connect(lambda **_: app.conf.update(conf), weak=False)
    return app


PLACES = [
    by_attribute,
    by_update,
    after_it_was_read,
    by_object,
    by_dict,
    by_namespace,
    by_old_names,
    by_constructor,
    by_changes,
    by_source,
    by_defaults,
    on_configure,
]
in_every_place = pytest.mark.parametrize("configure", PLACES, ids=lambda place: place.__name__)


@in_every_place
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("reject", [True, False])
@pytest.mark.parametrize("make", [evaluated, left_for_later, of_the_celery_base], ids=lambda kind: kind.__name__)
def test_what_an_app_says_holds(
    configure: Callable[..., Celery], late: bool, reject: bool, make: Callable[..., None]
) -> None:
    app = configure(task_acks_late=late, task_reject_on_worker_lost=reject)
    make(app)
    assert acknowledge_late(app) == frozenset()
    assert ways(app) == (late, reject)
    assert (app.conf.task_acks_late, app.conf.task_reject_on_worker_lost) == (late, reject)


@in_every_place
def test_what_an_app_does_not_say_is_decided_beside_what_it_says(configure: Callable[..., Celery]) -> None:
    app = configure(task_acks_late=False)
    evaluated(app)
    acknowledge_late(app)
    assert ways(app) == (False, True)  # which means nothing while it is early
    assert app.conf.task_acks_late is False
    other = configure(task_reject_on_worker_lost=False)
    evaluated(other)
    acknowledge_late(other)
    assert ways(other) == (True, False)
    assert other.conf.task_reject_on_worker_lost is False


@pytest.mark.parametrize("name", ["t", "*"])
@pytest.mark.parametrize("make", [evaluated, left_for_later, of_the_celery_base], ids=lambda kind: kind.__name__)
def test_what_an_annotation_says_holds(name: str, make: Callable[..., None]) -> None:
    app = by_attribute(task_annotations={name: {"acks_late": False}})
    make(app)
    acknowledge_late(app)
    assert ways(app) == (False, True)


def test_what_was_said_to_a_finished_task_holds() -> None:
    app = new_app()
    task = app.task(name="t", shared=False)(nothing)
    task.acks_late = False
    acknowledge_late(app)
    assert ways(app) == (False, True)


def test_a_task_that_comes_late_is_acknowledged_late() -> None:
    app = new_app()
    acknowledge_late(app)
    made_at_once(app)
    assert ways(app) == (True, True)


def test_celerys_own_tasks_do_as_the_others() -> None:
    app = new_app()
    acknowledge_late(app)
    assert ways(app, "celery.chord_unlock") == (True, True)
    other = by_attribute(task_acks_late=False)
    acknowledge_late(other)
    assert ways(other, "celery.chord_unlock") == (False, True)


def test_one_app_does_not_decide_for_another() -> None:
    one, other = new_app(), new_app()
    shared_task(name="both")(nothing)
    acknowledge_late(one)
    assert ways(one, "both") == (True, True)
    assert ways(other, "both") == (False, None)


@pytest.mark.parametrize(
    ("name", "beats"), [("prefork", True), ("processes", True), ("threads", True), ("solo", False)]
)
def test_only_a_worker_whose_loop_is_free_beats_often(name: str, beats: bool) -> None:
    app = by_attribute(worker_pool=name)
    before = app.conf.broker_heartbeat
    beat_often(app, pool_of(app, LETTER))
    assert app.conf.broker_heartbeat == (HEARTBEAT if beats else before)


def test_a_heartbeat_that_the_user_chose_holds() -> None:
    app = by_attribute(broker_heartbeat=120)
    beat_often(app, pool_of(app, LETTER))
    assert app.conf.broker_heartbeat == 120


def test_the_letter_says_which_pool_before_the_app_does() -> None:
    app = by_attribute(worker_pool="solo")
    assert not has_processes(pool_of(app, LETTER))
    letter = Parent(owner="test", pool="p", backend="ec2", queues=(), concurrency=1, worker_options={"pool": "prefork"})
    assert has_processes(pool_of(app, letter))
