"""When does a parent act, by a clock of its own and a store that is one variable?"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2.backends.base import Backend, unrecorded
from celery_flame_ec2.config import Settings, read_settings
from celery_flame_ec2.errors import LeaseError, SettingsError
from celery_flame_ec2.lease import Guarded, Lease
from celery_flame_ec2.lease.base import MARGIN, TTL
from celery_flame_ec2.runner import Runner
from celery_flame_ec2.service import Service
from celery_flame_ec2.testing.clock import Clock
from celery_flame_ec2.testing.store import Cell, MemoryStore
from tests.unit.test_pool import ListBackend


class CellStore(MemoryStore):
    """One parent's way to the cell; `meet` is what happens while it is taken, `read` and `written` once notes are."""

    place = "a cell"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.meet: Callable[[], None] = lambda: None
        self.read: Callable[[], None] = lambda: None
        self.written: Callable[[], None] = lambda: None

    def take(self) -> bool:
        free = super().take()
        self.meet()
        return free

    def notes(self) -> dict[str, str]:
        found = super().notes()
        self.read()
        return found

    def note(self, changes: Mapping[str, str | None]) -> None:
        super().note(changes)
        self.written()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cell(clock: Clock) -> Cell:
    return Cell(clock)


def parent(cell: Cell, *, clock: Clock | None = None) -> tuple[Lease, CellStore]:
    store = CellStore(cell)
    return Lease(store, clock=clock or cell.clock), store


def unreachable() -> None:
    raise LeaseError("no answer")


def test_one_of_two_parents_acts(cell: Cell) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    assert first.renew()
    assert not second.renew()
    assert (first.holds(), second.holds()) == (True, False)


def test_nobody_acts_before_it_asked(cell: Cell) -> None:
    assert not parent(cell)[0].holds()


def test_without_a_store_every_parent_acts() -> None:
    lease = Lease()
    assert lease.holds()
    assert lease.renew()
    with lease.kept():
        assert lease.holds()


def test_a_parent_that_renews_stays_the_one_that_acts(cell: Cell, clock: Clock) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    for _ in range(20):
        clock.now += 3
        assert first.renew()
        assert not second.renew()
    assert first.term == 1


def test_it_runs_out_for_the_holder_before_the_store_gives_it_to_another(cell: Cell, clock: Clock) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    clock.now += TTL - MARGIN
    assert not first.holds()
    assert not second.renew()
    clock.now += MARGIN
    assert second.renew()


def test_it_is_good_from_before_the_request_was_sent(cell: Cell, clock: Clock) -> None:
    lease, store = parent(cell)
    store.meet = lambda: setattr(clock, "now", clock.now + TTL - MARGIN)
    assert not lease.renew()


def test_clocks_need_not_agree(cell: Cell, clock: Clock) -> None:
    ahead = Clock()
    ahead.now += 1e6
    (first, _), (second, _) = parent(cell), parent(cell, clock=ahead)
    assert first.renew()
    assert not second.renew()
    clock.now += TTL
    assert second.renew()
    assert second.holds()


def test_a_store_that_does_not_answer_lets_the_holder_act_until_it_runs_out(cell: Cell, clock: Clock) -> None:
    lease, store = parent(cell)
    lease.renew()
    store.meet = unreachable
    clock.now += 3
    assert lease.renew()
    clock.now += TTL - MARGIN - 3
    assert not lease.renew()


def test_whether_another_has_it_is_unknown_once_the_store_does_not_answer(cell: Cell, clock: Clock) -> None:
    (first, _), (second, store) = parent(cell), parent(cell)
    first.renew()
    second.renew()
    assert second.left == pytest.approx(TTL - MARGIN)
    store.meet = unreachable
    second.renew()
    clock.now += TTL
    assert second.left is None


def test_a_released_lease_is_free_at_once_and_not_held(cell: Cell) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    first.release()
    assert not first.holds()
    assert second.renew()


def test_releasing_takes_nothing_from_another(cell: Cell, clock: Clock) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    clock.now += TTL
    second.renew()
    first.release()
    assert not first.renew()
    assert second.renew()


def test_a_lease_that_came_back_is_another_term(cell: Cell, clock: Clock) -> None:
    """The plan of a parent that was stopped between looking and acting is old, also when the lease is its own again."""
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    looked_in = first.term
    clock.now += TTL
    second.renew()
    second.release()
    assert first.renew()
    assert first.term != looked_in


def test_each_change_is_one_line(cell: Cell, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (first, _), (second, _) = parent(cell), parent(cell)
    for _ in range(3):
        first.renew()
        second.renew()
    clock.now += TTL
    for _ in range(3):
        second.renew()
        first.renew()
    assert [record.message for record in caplog.records] == [
        "this parent acts: it holds the lease (a cell)",
        "standing by: another parent holds the lease (a cell)",
        "this parent acts: it holds the lease (a cell)",
        "this parent acts no more: it lost the lease (a cell)",
    ]


def test_trouble_is_told_once_a_minute(cell: Cell, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    lease, store = parent(cell)
    store.meet = unreachable
    for _ in range(61):
        lease.renew()
        clock.now += 1
    assert [record.message for record in caplog.records] == ["lease: no answer"] * 2


def test_the_thread_that_keeps_it_survives_what_a_store_raises(cell: Cell) -> None:
    lease, store = parent(cell)

    def broken() -> None:
        raise ZeroDivisionError

    store.meet = broken
    with lease.kept():
        assert not lease.holds()
        store.meet = lambda: None
        lease.renew()
        assert lease.holds()
    assert cell.until == 0.0


def test_a_guarded_backend_looks_but_does_not_act_without_the_lease() -> None:
    backend = ListBackend()
    acts = True
    guarded = Guarded(backend, lambda: acts, unrecorded)
    deployment = settings()
    letter: Any = type("Letter", (), {"pool": deployment.pools[0].name, "warm": False})()
    (runner,) = guarded.launch(letter, 1)
    acts = False
    with pytest.raises(LeaseError):
        guarded.launch(letter, 1)
    with pytest.raises(LeaseError):
        guarded.terminate([runner.id])
    assert guarded.runners() == (runner,) == tuple(backend.living)


class SlowBackend(ListBackend):
    """`meet` is what happens while runners are listed."""

    def __init__(self) -> None:
        super().__init__()
        self.meet: Callable[[], None] = lambda: None

    def runners(self) -> tuple[Runner, ...]:
        self.meet()
        return super().runners()


def service(lease: Lease, backend: ListBackend) -> Service:
    app = Celery("proj", broker="memory://", set_as_current=False)
    return Service(app, settings(pools={"video": {"queues": "video", "min": 1}}), backend, lease=lease)


def test_a_parent_that_stands_by_looks_and_does_not_act(cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = ListBackend()
    (first, _), (second, _) = parent(cell), parent(cell)
    acting, standing_by = service(first, backend), service(second, backend)
    first.renew()
    second.renew()
    caplog.clear()
    standing_by.tick()
    assert not backend.living
    assert not caplog.records
    assert standing_by.overview().brief()["video"]["plan"] is None
    acting.tick()
    assert len(backend.living) == 1
    acting.close()
    standing_by.close()


def test_a_round_that_began_in_an_earlier_term_does_not_act(cell: Cell, clock: Clock) -> None:
    backend = SlowBackend()
    (lease, _), (other, _) = parent(cell), parent(cell)
    lease.renew()
    acting = service(lease, backend)

    def come_and_go() -> None:
        clock.now += TTL
        other.renew()
        other.release()
        assert lease.renew()

    backend.meet = come_and_go
    acting.tick()
    assert not backend.living
    backend.meet = lambda: None
    acting.tick()
    assert len(backend.living) == 1
    acting.close()


def test_only_who_holds_it_leaves_notes_and_anybody_reads_them(cell: Cell) -> None:
    (first, _), (second, _) = parent(cell), parent(cell)
    first.renew()
    first.note({"a": "1", "b": "2"})
    first.note({"a": None})
    with pytest.raises(LeaseError, match="does not hold"):
        second.note({"b": "3"})
    assert second.notes() == {"b": "2"}


def test_without_a_store_nothing_is_noted_and_nothing_is_missed() -> None:
    lease = Lease()
    lease.note({"a": "1"})
    assert lease.notes() == {}


def test_a_guarded_backend_hands_on_every_verb_a_backend_has() -> None:
    found = inspect.getmembers(Backend, inspect.isfunction)
    verbs = {name for name, _ in found if not name.startswith("_")} - {"guard", "announce"}  # how it is guarded
    assert verbs <= vars(Guarded).keys()


def settings(**flat: Any) -> Settings:
    conf = {f"flame_{name}": value for name, value in flat.items()}
    conf.setdefault("flame_pools", {"video": {"queues": "video"}})
    return read_settings(conf, app_name="proj", broker_urls=("redis://broker.internal/3",), environ={})


@pytest.mark.parametrize(
    "lease", [None, False, "redis://h:6379/2", "rediss://:pw@h/0?ssl_cert_reqs=required", "s3://leases/proj"]
)
def test_a_lease_may_be(lease: Any) -> None:
    assert settings(lease=lease).lease == lease


@pytest.mark.parametrize("lease", [True, "", "redis://", "s3://leases", "s3://leases/", "amqp://h//", 1])
def test_a_lease_may_not_be(lease: Any) -> None:
    with pytest.raises(SettingsError, match=r"'lease' must be a redis://, rediss:// or s3://bucket/key URL, None"):
        settings(lease=lease)
