"""What an operator's decision makes of a plan, whom it is refused, and how it outlives a parent."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest

from celery_flame_ec2.errors import LeaseDenied, LeaseError, OverrideError, SettingsError
from celery_flame_ec2.lease import Lease
from celery_flame_ec2.notes import read_overrides, write_overrides
from celery_flame_ec2.override import Override, bounded, explained, pause, read, scale
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, plan
from celery_flame_ec2.runner import Runner, RunnerState
from celery_flame_ec2.testing.clock import Clock
from tests.unit.test_lease import Cell, parent, unreachable
from tests.unit.test_pool import NOW, ListBackend, do_round, new_pool
from tests.unit.test_service import Deployed, deployment

SETTINGS = deployment({"a": {"queues": "a", "min": 1, "max": 5, "max_concurrency": 1}, "b": {"queues": "b"}})
POOL = SETTINGS.pools[0]
PAUSED, THREE = Override(paused=True, by="ann"), Override(wanted=3, by="ann")


def fleet(up: int, **fields: Any) -> Fleet:
    made = (Runner(id=f"i-{n}", pool="a", launched_at=NOW, state=RunnerState.UP, **fields) for n in range(up))
    return Fleet(runners=tuple(made))


def decided(override: Override, demand: Demand | Unknown, runners: Fleet) -> Plan:
    return explained(plan(bounded(POOL, override), demand, runners, NOW), override)


@pytest.mark.parametrize(
    ("override", "demand", "up", "launch", "cordon"),
    [
        pytest.param(THREE, Demand(waiting=0), 1, 2, 0, id="up to the number without work"),
        pytest.param(THREE, Demand(waiting=500), 1, 2, 0, id="not beyond it with work"),
        pytest.param(THREE, Demand(waiting=500), 5, 0, 2, id="down to it, whatever waits"),
        pytest.param(THREE, Unknown(why="no broker"), 1, 0, 0, id="nothing where what waits is unknown"),
        pytest.param(Override(wanted=9), Demand(waiting=500), 4, 1, 0, id="never beyond a max that was lowered since"),
        pytest.param(Override(wanted=0), Demand(waiting=0), 3, 0, 2, id="never below a min that was raised since"),
        pytest.param(PAUSED, Demand(waiting=500), 1, 0, 0, id="paused: nothing is launched"),
        pytest.param(Override(paused=True, wanted=3), Demand(waiting=9), 5, 0, 2, id="paused and fewer"),
    ],
)
def test_a_decision_bounds_the_plan(
    override: Override, demand: Demand | Unknown, up: int, launch: int, cordon: int
) -> None:
    made = decided(override, demand, fleet(up))
    assert (made.launch, len(made.cordon)) == (launch, cordon)
    assert made.reason.endswith(str(override))


def test_runners_that_are_launched_to_hold_a_number_do_not_idle_out() -> None:
    assert decided(THREE, Demand(waiting=0), fleet(0)).warm == 3


def test_once_the_policy_decides_again_those_that_do_not_idle_out_go_too() -> None:
    pool = new_pool(ListBackend())
    assert len(plan(POOL, Demand(waiting=0, past=pool.past), fleet(5, warm=True), NOW).cordon) == 0
    past = pool.past.after(waiting=0, running=0, taken=0, now=NOW - 70, boots=[])
    past = past.after(waiting=0, running=0, taken=0, now=NOW, boots=[])
    assert len(plan(POOL, Demand(waiting=0, past=past), fleet(5, warm=True), NOW).cordon) == 4


def test_a_paused_pool_holds_what_it_would_launch_and_asks_for_nothing_again() -> None:
    made = decided(PAUSED, Demand(waiting=500), fleet(1))
    assert (made.held, made.wanted, made.warm) == (True, None, 0)
    assert made.reason.endswith("; paused by ann")


def test_without_a_decision_the_plan_is_the_policys() -> None:
    made = plan(POOL, Demand(waiting=2), fleet(1), NOW)
    assert decided(Override(), Demand(waiting=2), fleet(1)) == made


def test_a_policy_that_knows_no_bounds_launches_no_more_than_the_number() -> None:
    backend = ListBackend()
    pool = new_pool(backend, max=9)
    pool._policy = lambda *_: Plan(launch=7, reason="I want seven")
    pool.overrule(THREE)
    do_round(pool, Demand(waiting=0))
    assert len(backend.living) == 3


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("6", "pool 'a': the number of runners must be a whole number from 1 (min) to 5 (max) or 'auto', got '6'"),
        ("0", "got '0'"), ("-1", "got '-1'"), ("two", "got 'two'"), ("", "got ''"), ("2.5", "got '2.5'"), ("٣", "got"),
        pytest.param("1" * 5000, f"got '{'1' * 40}'", id="5000 digits"),
    ],
)  # fmt: skip
def test_a_number_beyond_the_bounds_is_refused_with_them(number: str, told: str) -> None:
    with pytest.raises(OverrideError, match=r"from 1 \(min\) to 5 \(max\)") as caught:
        scale(SETTINGS, "a", number, by="ann")
    assert told in str(caught.value)


def test_a_pool_that_is_none_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no flame pool 'c'.*known: a, b"):
        pause(SETTINGS, "c", by="ann")
    with pytest.raises(SettingsError, match="no flame pool 'c'"):
        scale(SETTINGS, "c", "1", by="ann")


def test_a_pause_keeps_the_number_and_a_number_keeps_the_pause() -> None:
    lease = Lease()
    write_overrides(lease, scale(SETTINGS, "a", "3", by="ann"), 1.0)
    write_overrides(lease, pause(SETTINGS, None, by="bob"), 2.0)
    both = read_overrides(lease).by_pool
    assert both == {
        "a": Override(paused=True, wanted=3, by="bob", at=2.0),
        "b": Override(paused=True, by="bob", at=2.0),
    }
    assert str(both["a"]) == "held at 3 and paused by bob"
    write_overrides(lease, pause(SETTINGS, None, by="bob", paused=False), 3.0)
    assert read_overrides(lease).by_pool == {"a": Override(wanted=3, by="ann", at=1.0)}
    write_overrides(lease, scale(SETTINGS, "a", "auto", by="ann"), 4.0)
    assert lease.overrides() == {}


def test_of_two_decisions_at_once_none_is_lost_and_the_later_one_is_named() -> None:
    paused, held = pause(SETTINGS, "a", by="ann").entries(2.0), scale(SETTINGS, "a", "3", by="bob").entries(1.0)
    assert not paused.keys() & held.keys()
    for entries in ({**paused, **held}, {**held, **paused}):
        told = {name: text for name, text in entries.items() if text is not None}
        assert read(told).by_pool == {"a": Override(paused=True, wanted=3, by="ann", at=2.0)}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"value": 1, "by": "ann", "at": 1}', '{"value": true, "at": 1}',
     '{"value": true, "by": "ann", "at": Infinity}', f'{{"value": true, "by": "ann", "at": {"9" * 400}}}'],
)  # fmt: skip
def test_what_cannot_be_read_is_not_guessed_at_but_keeps_its_pool_from_launching(text: str) -> None:
    found = read({"paused:a": text, "wanted:b": json.dumps({"value": 2, "by": "bob", "at": 1.0})})
    assert (found.by_pool["a"].paused, found.by_pool["a"].at) == (True, math.inf)
    assert str(found.by_pool["a"]).startswith("paused by an entry that cannot be read: 'paused:a': ")
    assert found.by_pool["b"] == Override(wanted=2, by="bob", at=1.0)
    assert pause(SETTINGS, "a", by="ann", paused=False).entries(2.0) == {"paused:a": None}


def test_the_next_parent_is_paused_as_well_and_who_looks_sees_it() -> None:
    work = Deployed(max=2)
    first, watching, lease = work.parent()
    work.rounds(first, 5, lease)
    watching.waiting = 5
    operator, _ = parent(work.cell)
    write_overrides(operator, pause(work.settings, None, by="ann"), work.clock())
    work.rounds(first, 10, lease)
    assert work.living == set()
    work.clock.now += 60
    second, seen, other = work.parent()
    seen.waiting = 5
    work.rounds(second, 10, other)
    assert work.living == set()
    (pool,) = second.overview().pools
    assert pool.override is not None
    assert (pool.override.paused, pool.override.by) == (True, "ann")
    assert str(pool.plan).endswith("; paused by ann")
    write_overrides(operator, pause(work.settings, None, by="ann", paused=False), work.clock())
    work.rounds(second, 10, other)
    assert len(work.living) == 2


def test_what_is_asked_of_the_acting_parent_itself_holds_in_the_next_round() -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    watching.waiting = 5
    service.request(pause(work.settings, "video", by="celery control"))
    work.rounds(service, 5, lease)
    assert work.living == set()
    assert list(work.cell.overrides) == ["paused:video"]


def test_what_this_parent_may_not_note_holds_up_nothing_and_is_not_asked_for_again() -> None:
    work = Deployed(max=2)
    service, _, lease = work.parent()
    work.rounds(service, 5, lease)
    store: Any = lease._store
    write, store.override = store.override, lambda _: denied()
    service.request(pause(work.settings, "video", by="celery control"))
    work.rounds(service, 2, lease)
    store.override = write
    service.request(scale(work.settings, "video", "1", by="celery control"))
    work.rounds(service, 2, lease)
    assert list(work.cell.overrides) == ["wanted:video"]


def test_what_cannot_be_noted_is_tried_again_and_what_cannot_be_read_stays_as_it_was() -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    work.rounds(service, 5, lease)
    store: Any = lease._store
    write, read = store.override, store.overrides
    store.override = lambda _: unreachable()
    service.request(pause(work.settings, "video", by="celery control"))
    work.rounds(service, 5, lease)
    assert work.cell.overrides == {}
    work.cell.overrides["wanted:video"] = json.dumps({"value": 0, "by": "ann", "at": 1.0})
    work.rounds(service, 10, lease)
    (pool,) = service.overview().pools
    assert pool.override is not None  # who may not write may read
    assert pool.override.wanted == 0
    work.cell.overrides.clear()
    store.override = write
    work.rounds(service, 5, lease)
    assert list(work.cell.overrides) == ["paused:video"]
    store.overrides = unreachable
    watching.waiting = 5
    work.rounds(service, 20, lease)
    assert work.living == set()
    store.overrides = read


def test_a_parent_that_cannot_read_what_operators_decided_does_not_begin_to_act() -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    watching.waiting = 5
    store: Any = lease._store
    read, store.overrides = store.overrides, unreachable
    work.rounds(service, 10, lease)
    assert work.living == set()
    store.overrides = read
    work.rounds(service, 10, lease)
    assert len(work.living) == 2


@pytest.mark.parametrize("entry", ["paused:gone", "cordoned:video", "video"])
def test_an_entry_of_no_pool_that_cannot_be_read_is_told_once_and_keeps_no_parent_from_acting(
    entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    watching.waiting = 5
    work.cell.overrides[entry] = "what is that"
    with caplog.at_level(logging.WARNING):
        work.rounds(service, 70, lease)
    assert len(work.living) == 2
    told = f"of no pool here: an entry that cannot be read: {entry!r}: 'what is that'"
    assert caplog.messages == [f"what operators decided: {told}"]
    assert service.overview().overrides_unknown == told


def test_who_may_not_read_what_operators_decided_acts_and_says_so_once_per_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    store: Any = lease._store
    read, store.overrides = store.overrides, denied
    watching.waiting = 5
    with caplog.at_level(logging.WARNING):
        work.rounds(service, 70, lease)
        assert service.overview().overrides_unknown == "no right"
        assert len(work.living) == 2
        store.overrides = read
        write_overrides(lease, scale(work.settings, "video", "1", by="ann"), 1.0)
        work.rounds(service, 10, lease)
        store.overrides = denied
        work.rounds(service, 10, lease)
    assert caplog.messages == [f"what operators decided: {told}" for told in ("no right", "known again", "no right")]
    (pool,) = service.overview().pools
    assert pool.override is not None  # what was known holds
    assert pool.override.wanted == 1


def denied() -> dict[str, str]:
    raise LeaseDenied("no right")


def test_without_a_lease_a_parent_keeps_it_to_itself() -> None:
    lease = Lease()
    write_overrides(lease, pause(SETTINGS, "a", by="ann"), 1.0)
    assert (lease.shared, list(read_overrides(lease).by_pool)) == (False, ["a"])
    cell = Cell(Clock())
    assert parent(cell)[0].shared


def test_the_store_that_does_not_answer_is_named() -> None:
    lease, store = parent(Cell(Clock()))
    store.override = lambda _: unreachable()  # type: ignore[method-assign]
    with pytest.raises(LeaseError, match="no answer"):
        write_overrides(lease, pause(SETTINGS, None, by="ann"), 1.0)
