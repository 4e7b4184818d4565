"""The first policy, by tables: the list of cases is its specification."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.config import Ec2Options, PoolSettings
from celery_flame_ec2.policy import LONGEST_PAUSE, Demand, Failures, Fleet, Unknown, plan, room
from celery_flame_ec2.runner import Runner, RunnerState

NOW = 1_000_000.0
POOL = PoolSettings(
    name="video", queues=("video",), min=0, max=10, max_concurrency=4, ec2=Ec2Options(boot_timeout=120.0)
)
UP, BOOTING, ENDING = RunnerState.UP, RunnerState.BOOTING, RunnerState.ENDING


def runner(number: int, state: RunnerState = UP, *, age: float = 10.0, **fields: object) -> Runner:
    return Runner(id=f"i-{number}", pool="video", launched_at=NOW - age, state=state, **fields)  # type: ignore[arg-type]


def fleet(*states: RunnerState, unclear: int = 0, failures: Failures | None = None) -> Fleet:
    runners = tuple(runner(number, state) for number, state in enumerate(states))
    return Fleet(runners=runners, unclear=unclear, failures=failures or Failures())


@pytest.mark.parametrize(
    ("demand", "states", "launch"),
    [
        pytest.param(Demand(waiting=0), [], 0, id="an empty queue launches nothing"),
        pytest.param(Demand(waiting=1), [], 1, id="one task that nobody can take launches one"),
        pytest.param(Demand(waiting=8), [], 2, id="eight tasks fill two runners of four"),
        pytest.param(Demand(waiting=9), [], 3, id="a ninth task needs a third"),
        pytest.param(Demand(waiting=1000), [], 10, id="a flood stops at max"),
        pytest.param(Demand(waiting=2, local_free=2), [], 0, id="what the parent can take needs no runner"),
        pytest.param(Demand(waiting=6, local_free=2), [], 1, id="only what the parent cannot take counts"),
        pytest.param(Demand(waiting=8), [BOOTING, BOOTING], 0, id="booting runners count as capacity"),
        pytest.param(Demand(waiting=8), [UP], 1, id="a runner that is up and free counts as capacity"),
        pytest.param(Demand(waiting=8, running=4), [UP], 2, id="a busy runner has no room for what waits"),
        pytest.param(Demand(waiting=8), [ENDING, ENDING], 2, id="an ending runner takes nothing more"),
        pytest.param(Demand(waiting=1000), [ENDING] * 4, 6, id="an ending runner still counts against max"),
        pytest.param(Demand(waiting=0), [UP] * 3, 0, id="too many runners end themselves"),
        pytest.param(Demand(waiting=100), [UP] * 12, 0, id="more than max launches nothing"),
    ],
)
def test_the_number_to_launch(demand: Demand, states: list[RunnerState], launch: int) -> None:
    assert plan(POOL, demand, fleet(*states), NOW).launch == launch


def test_min_is_kept_without_any_work_and_its_runners_are_warm() -> None:
    decided = plan(dataclasses.replace(POOL, min=2), Demand(waiting=0), fleet(), NOW)
    assert (decided.launch, decided.warm) == (2, 2)


def test_a_burst_runner_does_not_count_as_warm() -> None:
    pool = dataclasses.replace(POOL, min=1)
    assert plan(pool, Demand(waiting=8), fleet(UP), NOW).warm == 1
    warm = Fleet(runners=(runner(0, UP, warm=True),))
    assert plan(pool, Demand(waiting=8), warm, NOW).warm == 0


def test_a_pool_without_a_known_size_counts_one_task_a_runner() -> None:
    assert plan(dataclasses.replace(POOL, max_concurrency=None), Demand(waiting=3), fleet(), NOW).launch == 3


def test_unknown_demand_holds_and_says_why() -> None:
    decided = plan(dataclasses.replace(POOL, min=2), Unknown(why="the broker is silent"), fleet(), NOW)
    assert (decided.launch, decided.held, decided.reason) == (0, True, "the broker is silent")


def test_an_unknown_fleet_holds_and_says_why() -> None:
    decided = plan(POOL, Demand(waiting=100), Unknown(why="no listing"), NOW)
    assert (decided.launch, decided.held, decided.reason) == (0, True, "no listing")


def test_a_machine_that_shuts_down_leaves_room_for_another() -> None:
    going = Fleet(runners=tuple(runner(n, ENDING, shutting_down=True) for n in range(4)))
    assert room(POOL, going) == 10
    assert plan(POOL, Demand(waiting=1000), going, NOW).launch == 10


@pytest.mark.parametrize(
    ("states", "unclear", "expected"),
    [([], 0, 10), ([UP] * 4, 0, 6), ([UP] * 4, 3, 3), ([BOOTING] * 10, 0, 0), ([UP] * 8, 5, 0), ([ENDING] * 3, 0, 7)],
)
def test_room_is_what_max_leaves_beside_all_that_exists_or_may(
    states: list[RunnerState], unclear: int, expected: int
) -> None:
    assert room(POOL, fleet(*states, unclear=unclear)) == expected


@pytest.mark.parametrize(
    ("count", "ago", "launch"),
    [(1, 4.9, 0), (1, 5.1, 1), (2, 9.9, 0), (2, 10.1, 1), (50, LONGEST_PAUSE - 1, 0), (50, LONGEST_PAUSE + 1, 1)],
)
def test_failed_launches_pause_longer_and_longer(count: int, ago: float, launch: int) -> None:
    failed = Failures(count=count, at=NOW - ago, cause="fetch: no such bundle")
    decided = plan(POOL, Demand(waiting=1), fleet(failures=failed), NOW)
    assert decided.launch == launch
    assert decided.held == (launch == 0)
    assert ("fetch: no such bundle" in decided.reason) == decided.held


@pytest.mark.parametrize(("ago", "launch"), [(89, 0), (91, 1)])
def test_a_pause_that_the_backend_knows_takes_the_place_of_the_grown_one(ago: float, launch: int) -> None:
    refused = Failures(count=9, at=NOW - ago, cause="no c7i.large in eu-central-1a", pause=90.0)
    assert plan(POOL, Demand(waiting=1), fleet(failures=refused), NOW).launch == launch


def test_after_boots_that_failed_in_a_row_one_is_tried_and_waited_for() -> None:
    failed = Failures(count=2, boots=2, at=NOW - 60, cause="kernel panic")
    tried = plan(POOL, Demand(waiting=1000), fleet(failures=failed), NOW)
    assert (tried.launch, tried.held) == (1, False)
    assert "one to try, after 2 launches in a row failed" in tried.reason
    for standing in (fleet(BOOTING, failures=failed), fleet(unclear=1, failures=failed)):
        waiting = plan(POOL, Demand(waiting=1000), standing, NOW)
        assert (waiting.launch, waiting.held) == (0, True)
        assert "kernel panic" in waiting.reason


def test_refusals_in_a_row_try_all_that_is_wanted_again() -> None:
    refused = Failures(count=5, boots=1, at=NOW - 600, cause="no capacity")
    assert plan(POOL, Demand(waiting=1000), fleet(failures=refused), NOW).launch == 10


def test_a_clock_that_was_set_back_makes_no_pause_longer() -> None:
    failed = Failures(count=1, at=NOW + 3600, cause="x")
    assert "next launch in 5 s" in plan(POOL, Demand(waiting=1), fleet(failures=failed), NOW).reason


def test_runners_that_may_exist_count_as_capacity_and_against_max() -> None:
    perhaps = Fleet(unclear=2)
    assert plan(POOL, Demand(waiting=12), perhaps, NOW).launch == 1
    assert plan(POOL, Demand(waiting=1000), perhaps, NOW).launch == 8


def test_a_reason_carries_the_numbers_it_came_from() -> None:
    decided = plan(POOL, Demand(waiting=12, running=4, local_free=2), fleet(UP, BOOTING), NOW)
    assert decided.reason == (
        "12 waiting, 4 running on runners, 2 free here: 14 tasks at 4 a runner want 4 (min 0, max 10); 1 booting, 1 up"
    )


@given(
    waiting=st.integers(0, 10**6),
    running=st.integers(0, 10**4),
    free=st.integers(0, 100),
    states=st.lists(st.sampled_from(RunnerState), max_size=40),
    low=st.integers(0, 20),
    extra=st.integers(0, 20),
    failures=st.integers(0, 3000),
)
def test_a_plan_never_passes_max_and_always_has_a_reason(
    waiting: int, running: int, free: int, states: list[RunnerState], low: int, extra: int, failures: int
) -> None:
    pool = dataclasses.replace(POOL, min=low, max=low + extra)
    standing = fleet(*states, failures=Failures(count=failures, at=NOW))
    decided = plan(pool, Demand(waiting=waiting, running=running, local_free=free), standing, NOW)
    assert decided.launch >= 0
    assert decided.launch == 0 or decided.launch + len(states) <= pool.max
    assert 0 <= decided.warm <= decided.launch
    assert decided.reason
