"""The policy, by tables: the list of cases is its specification."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.config import Ec2Options, PoolSettings
from celery_flame_ec2.experience import SPAN, SPANS, Arrivals, Experience, Look, Work
from celery_flame_ec2.policy import FIRST_RUNNERS, LONGEST_PAUSE, Demand, Failures, Fleet, Unknown, plan, room
from celery_flame_ec2.runner import Runner, RunnerState

NOW = 1_000_000.0
POOL = PoolSettings(
    name="video", queues=("video",), min=0, max=10, max_concurrency=4, ec2=Ec2Options(boot_timeout=120.0)
)
UP, BOOTING, CORDONED, ENDING = RunnerState.UP, RunnerState.BOOTING, RunnerState.CORDONED, RunnerState.ENDING


def runner(number: int, state: RunnerState = UP, *, age: float = 10.0, **fields: object) -> Runner:
    return Runner(id=f"i-{number}", pool="video", launched_at=NOW - age, state=state, **fields)  # type: ignore[arg-type]


def fleet(*states: RunnerState, unclear: int = 0, failures: Failures | None = None) -> Fleet:
    runners = tuple(runner(number, state) for number, state in enumerate(states))
    return Fleet(runners=runners, unclear=unclear, failures=failures or Failures())


def taught(*, runtime: float, arriving: float = 0.0, lasting: float | None = None, boot: float = 60.0) -> Experience:
    """Return what a queue has taught whose tasks run and arrive like this."""
    work = Work(seconds=runtime * 1e6, ended=1e6)
    arrivals = Arrivals(since=NOW, spans=(arriving * SPAN,) * SPANS, lasting=arriving if lasting is None else lasting)
    return Experience(
        last=Look(at=NOW, waiting=0, running=0, taken=0), arrivals=arrivals, quick=work, slow=work, ended=100, boot=boot
    )


#: Ten minutes: far longer than a boot and any target.
LONG = taught(runtime=600.0)
#: A tenth of a second.
SHORT = taught(runtime=0.1)


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
        pytest.param(Demand(waiting=8, running=4), [UP], 2, id="a busy runner has no room for what waits"),
        pytest.param(Demand(waiting=8), [ENDING, ENDING], 2, id="an ending runner takes nothing more"),
        pytest.param(Demand(waiting=1000), [ENDING] * 4, 6, id="an ending runner still counts against max"),
        pytest.param(Demand(waiting=0), [UP] * 3, 0, id="too many runners launch nothing"),
        pytest.param(Demand(waiting=100), [UP] * 12, 0, id="more than max launches nothing"),
    ],
)
def test_tasks_that_run_for_long_get_a_slot_each(demand: Demand, states: list[RunnerState], launch: int) -> None:
    demand = dataclasses.replace(demand, past=LONG)
    assert plan(dataclasses.replace(POOL, target_wait=1.0), demand, fleet(*states), NOW).launch == launch


@pytest.mark.parametrize(
    ("waiting", "states", "launch"),
    [
        pytest.param(100, [UP], 0, id="what one runner starts within a boot needs no other"),
        pytest.param(2400, [UP], 0, id="and so up to its slots times boot over runtime"),
        pytest.param(4800, [UP], 1, id="what is left then gets as many as start it within target_wait"),
        pytest.param(4800, [], 4, id="which is more where none is up yet"),
        pytest.param(4800, [BOOTING, BOOTING], 2, id="and fewer where some boot"),
    ],
)
def test_short_tasks_launch_only_what_still_finds_work(waiting: int, states: list[RunnerState], launch: int) -> None:
    pool = dataclasses.replace(POOL, target_wait=30.0)
    assert plan(pool, Demand(waiting=waiting, past=SHORT), fleet(*states), NOW).launch == launch


def test_where_max_keeps_it_from_launching_more_it_says_so() -> None:
    flood = Demand(waiting=1000, past=LONG)
    assert plan(POOL, flood, fleet(), NOW).reason.endswith("; no runner; max is 10")
    assert plan(POOL, flood, fleet(*[ENDING] * 4), NOW).reason.endswith("; 4 ending; max is 10")
    assert plan(POOL, flood, fleet(*[BOOTING] * 10), NOW).reason.endswith("; 10 booting; max is 10")
    assert "max" not in plan(POOL, Demand(waiting=8, past=LONG), fleet(), NOW).reason


def test_a_longer_target_launches_fewer() -> None:
    launches = [
        plan(dataclasses.replace(POOL, max=1000, target_wait=wait), Demand(waiting=400, past=LONG), fleet(), NOW).launch
        for wait in (0.0, 30.0, 600.0)
    ]
    assert launches == [110, 96, 50]


def test_where_no_task_shall_wait_a_tenth_more_are_launched_than_needed() -> None:
    pool = dataclasses.replace(POOL, max=100, target_wait=0.0)
    assert plan(pool, Demand(waiting=80, past=LONG), fleet(), NOW).launch == 22
    assert plan(pool, Demand(waiting=80, past=LONG), fleet(*[BOOTING] * 22), NOW).launch == 0


def test_a_launch_of_unknown_outcome_counts_where_no_task_shall_wait() -> None:
    pool = dataclasses.replace(POOL, target_wait=0.0)
    assert plan(pool, Demand(waiting=8, past=LONG), fleet(unclear=2), NOW).launch == 0
    assert plan(pool, Demand(waiting=8, past=LONG), fleet(unclear=1), NOW).launch == 1


@pytest.mark.parametrize(("age", "launch"), [(0.0, 4), (50.0, 0)])
def test_one_that_boots_for_long_already_serves_before_one_launched_now_would(age: float, launch: int) -> None:
    pool = dataclasses.replace(POOL, max=100, target_wait=1.0)
    here = Fleet(runners=(runner(0, BOOTING, age=age),))
    assert plan(pool, Demand(waiting=200, past=SHORT), here, NOW).launch == launch


def test_what_arrivals_of_the_last_minutes_need_is_kept_though_the_last_one_brought_none() -> None:
    past = taught(runtime=5.0, arriving=0.0, lasting=1.0)
    assert plan(POOL, Demand(waiting=0, past=past), fleet(UP, UP), NOW).cordon == ()
    assert plan(POOL, Demand(waiting=0, past=taught(runtime=5.0)), fleet(UP, UP), NOW).cordon == ("i-0", "i-1")


def test_what_arrivals_need_is_taken_back_though_nothing_waits() -> None:
    past = taught(runtime=5.0, arriving=1.0)
    assert plan(POOL, Demand(waiting=0, past=past), fleet(CORDONED, CORDONED, CORDONED), NOW).uncordon == ("i-0", "i-1")


def test_none_is_cordoned_while_others_are_taken_back() -> None:
    pool = dataclasses.replace(POOL, target_wait=0.0)
    decided = plan(pool, Demand(waiting=4, past=taught(runtime=5.0)), fleet(UP, UP, UP, CORDONED), NOW)
    assert (decided.uncordon, decided.cordon) == (("i-3",), ())


def test_slots_that_take_one_task_only_start_nothing_more() -> None:
    pool = dataclasses.replace(POOL, max=100, target_wait=30.0)
    once = dataclasses.replace(pool, single_use=True)
    demand = Demand(waiting=80, running=16, past=SHORT)
    here = fleet(UP, UP, UP, UP, BOOTING, BOOTING)
    assert plan(pool, demand, here, NOW).launch == 0
    assert plan(once, demand, here, NOW).launch == 18
    assert plan(once, demand, fleet(*[UP] * 4, *[BOOTING] * 20), NOW).launch == 0


def test_arrivals_of_the_boot_to_come_are_launched_for() -> None:
    pool = dataclasses.replace(POOL, target_wait=30.0)
    launches = [
        plan(pool, Demand(waiting=8, past=taught(runtime=600.0, arriving=rate)), fleet(), NOW).launch
        for rate in (0.0, 0.2)
    ]
    assert launches == [2, 7]


def test_on_a_guess_of_the_runtime_no_more_are_launched_than_first_runners() -> None:
    pool = dataclasses.replace(POOL, max=1000, target_wait=30.0)
    guessed = dataclasses.replace(Experience(), last=LONG.last)
    assert plan(pool, Demand(waiting=10_000, past=guessed), fleet(), NOW).launch == FIRST_RUNNERS
    assert plan(pool, Demand(waiting=10_000, past=guessed), fleet(*[BOOTING] * FIRST_RUNNERS), NOW).launch == 0


def test_tasks_that_run_on_and_on_lift_the_bound_before_any_has_ended() -> None:
    pool = dataclasses.replace(POOL, max=1000, target_wait=30.0)
    running = Look(at=NOW, waiting=10_000, running=100, taken=100)
    lasting = Experience(last=running, quick=Work(seconds=30_000.0), slow=Work(seconds=30_000.0))
    demand = Demand(waiting=10_000, running=100, past=lasting)
    assert plan(pool, demand, fleet(*[UP] * FIRST_RUNNERS), NOW).launch > 100


def test_a_guess_is_bounded_where_nothing_can_be_learned_too() -> None:
    pool = dataclasses.replace(POOL, max=1000, target_wait=30.0)
    assert plan(pool, Demand(waiting=10_000), fleet(), NOW).launch == FIRST_RUNNERS


def test_nothing_is_cordoned_before_arrivals_are_known() -> None:
    decided = plan(POOL, Demand(waiting=0), fleet(*[UP] * 5), NOW)
    assert decided.cordon == ()
    assert "arrivals not known yet" in decided.reason


def test_what_was_cordoned_is_taken_back_before_any_is_launched() -> None:
    decided = plan(POOL, Demand(waiting=40, running=4, past=LONG), fleet(UP, CORDONED, CORDONED), NOW)
    assert decided.uncordon == ("i-1", "i-2")
    assert decided.launch == 7
    assert not decided.cordon


def test_those_that_still_work_are_taken_back_first() -> None:
    standing = Fleet(runners=(runner(0, CORDONED), runner(1, CORDONED, active=2)))
    assert plan(POOL, Demand(waiting=4, running=2, past=LONG), standing, NOW).uncordon[0] == "i-1"


def test_runners_beyond_what_arrives_are_cordoned_those_first_that_do_least() -> None:
    standing = Fleet(runners=tuple(runner(n, UP, active=n) for n in range(5)))
    decided = plan(POOL, Demand(waiting=0, running=4, past=taught(runtime=5.0, arriving=0.8)), standing, NOW)
    assert decided.cordon == ("i-0", "i-1", "i-2")  # 4 slots are busy, and 2 standard deviations are kept free
    assert decided.launch == 0


def test_what_waits_now_keeps_runners_that_arrivals_alone_would_not() -> None:
    demand = Demand(waiting=20, running=20, past=taught(runtime=5.0))
    assert len(plan(POOL, demand, fleet(*[UP] * 10), NOW).cordon) == 3


@pytest.mark.parametrize(
    ("running", "runtime", "boot", "cordoned"),
    [
        pytest.param(0, 5.0, 60.0, 10, id="nothing at work keeps none"),
        pytest.param(8, 5.0, 60.0, 7, id="four slots stay free beside eight at work"),
        pytest.param(9, 5.0, 60.0, 6, id="and so beside nine"),
        pytest.param(9, 600.0, 60.0, 7, id="fewer where only some make way for others within a boot"),
        pytest.param(12, 600.0, 60.0, 6, id="and some at all times"),
        pytest.param(9, 600.0, 600.0, 6, id="four again where a boot takes as long as a task"),
    ],
)
@pytest.mark.parametrize("target", [0.0, 30.0])
def test_runners_at_work_are_kept_with_slots_to_spare_however_little_arrives(
    target: float, running: int, runtime: float, boot: float, cordoned: int
) -> None:
    pool = dataclasses.replace(POOL, target_wait=target)
    demand = Demand(waiting=0, running=running, past=taught(runtime=runtime, boot=boot))
    assert len(plan(pool, demand, fleet(*[UP] * 10), NOW).cordon) == cordoned


@pytest.mark.parametrize("target", [0.0, 30.0])
@pytest.mark.parametrize(("boot", "kept"), [(6.0, 2), (60.0, 3), (600.0, 4), (6000.0, 4)])
def test_only_what_may_come_within_a_boot_keeps_slots_free(target: float, boot: float, kept: int) -> None:
    pool = dataclasses.replace(POOL, target_wait=target)
    demand = Demand(waiting=0, past=taught(runtime=600.0, arriving=0.01, boot=boot))
    assert 10 - len(plan(pool, demand, fleet(*[UP] * 10), NOW).cordon) == kept


@given(
    running=st.integers(0, 100),
    target=st.sampled_from([0.0, 30.0, 120.0]),
    runtime=st.floats(0.01, 1e5),
    arriving=st.floats(0, 10),
    boots=st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)).map(sorted),
)
def test_the_longer_a_boot_takes_the_more_is_kept_up_to_a_runtime(
    running: int, target: float, runtime: float, arriving: float, boots: list[float]
) -> None:
    pool = dataclasses.replace(POOL, max=100, target_wait=target)
    kept = [
        100 - len(plan(pool, Demand(waiting=0, running=running, past=past), fleet(*[UP] * 100), NOW).cordon)
        for past in (taught(runtime=runtime, arriving=arriving, boot=boot) for boot in boots)
    ]
    assert running / 4 <= kept[0] <= kept[1]
    assert kept[0] == kept[1] or boots[0] < taught(runtime=runtime).runtime


def test_min_and_warm_runners_are_never_cordoned() -> None:
    idle = Demand(waiting=0, past=LONG)
    warm = Fleet(runners=(runner(0, UP, warm=True), runner(1, UP)))
    assert plan(dataclasses.replace(POOL, min=1), idle, warm, NOW).cordon == ("i-1",)
    assert plan(dataclasses.replace(POOL, min=2), idle, fleet(UP, UP), NOW).cordon == ()


def test_warm_runners_above_min_are_cordoned_after_the_others() -> None:
    idle = Demand(waiting=0, past=LONG)
    three = Fleet(runners=(runner(0, UP, warm=True), runner(1, UP, warm=True), runner(2, UP)))
    assert plan(dataclasses.replace(POOL, min=1), idle, three, NOW).cordon == ("i-2", "i-0")


def test_runners_above_a_max_that_was_lowered_are_cordoned_at_once_and_none_is_taken_back_for_it() -> None:
    pool, busy = dataclasses.replace(POOL, max=2), Demand(waiting=500, running=9)
    decided = plan(pool, busy, fleet(UP, UP, UP, CORDONED), NOW)
    assert (len(decided.cordon), decided.uncordon, decided.launch) == (1, (), 0)


@pytest.mark.parametrize(
    ("states", "age", "recalled"),
    [
        pytest.param([UP, UP, BOOTING, BOOTING], 60.0, ("i-2", "i-3"), id="what is up suffices, and one more"),
        pytest.param([UP, UP, BOOTING, BOOTING], 59.0, (), id="until then their boots cost nothing more"),
        pytest.param([UP, BOOTING, BOOTING], 60.0, (), id="what is up only just suffices"),
        pytest.param([], 60.0, (), id="there is none"),
        pytest.param([UP, UP, CORDONED, ENDING], 60.0, (), id="none boots"),
    ],
)
def test_boots_are_recalled_that_nobody_needs(states: list[RunnerState], age: float, recalled: tuple[str, ...]) -> None:
    few = Demand(waiting=0, running=1, past=dataclasses.replace(LONG, boot=1.0))
    runners = Fleet(runners=tuple(runner(number, state, age=age) for number, state in enumerate(states)))
    assert plan(POOL, few, runners, NOW).recall == recalled


@pytest.mark.parametrize(("up", "recalled"), [(4, ()), (5, ()), (6, ("i-6",))])
def test_boots_are_recalled_where_half_as_many_again_are_up_as_arrivals_need(
    up: int, recalled: tuple[str, ...]
) -> None:
    four = Demand(waiting=0, running=16, past=dataclasses.replace(LONG, boot=1e-9))
    runners = Fleet(runners=(*[runner(number) for number in range(up)], runner(6, BOOTING, age=90.0)))
    decided = plan(dataclasses.replace(POOL, max=20), four, runners, NOW)
    assert (len(decided.cordon), decided.recall) == (up - 4, recalled)


def test_no_boot_is_recalled_while_tasks_wait_or_arrivals_are_not_known_or_that_is_warm() -> None:
    runners = Fleet(runners=(runner(0), runner(1), runner(2), runner(3, BOOTING, age=90.0)))
    idle = Demand(waiting=0, past=SHORT)
    assert plan(POOL, idle, runners, NOW).recall == ("i-3",)
    assert plan(POOL, dataclasses.replace(idle, waiting=1), runners, NOW).recall == ()
    assert plan(POOL, dataclasses.replace(idle, past=Experience()), runners, NOW).recall == ()
    warm = Fleet(runners=(*runners.runners[:3], runner(3, BOOTING, age=90.0, warm=True)))
    assert plan(POOL, idle, warm, NOW).recall == ()


def test_what_the_parents_own_processes_serve_needs_no_runners() -> None:
    past = taught(runtime=5.0, arriving=0.8)
    assert len(plan(POOL, Demand(waiting=0, past=past), fleet(*[UP] * 3), NOW).cordon) == 1
    assert len(plan(POOL, Demand(waiting=0, local=8, past=past), fleet(*[UP] * 3), NOW).cordon) == 2
    pool, short = dataclasses.replace(POOL, target_wait=30.0), Demand(waiting=4800, past=SHORT)
    assert plan(pool, dataclasses.replace(short, local=8), fleet(), NOW).launch == 0


def test_min_is_kept_without_any_work_and_its_runners_are_warm() -> None:
    decided = plan(dataclasses.replace(POOL, min=2), Demand(waiting=0), fleet(), NOW)
    assert (decided.launch, decided.warm) == (2, 2)


def test_a_burst_runner_does_not_count_as_warm() -> None:
    pool = dataclasses.replace(POOL, min=1)
    assert plan(pool, Demand(waiting=8, running=4, past=LONG), fleet(UP), NOW).warm == 1
    warm = Fleet(runners=(runner(0, UP, warm=True),))
    assert plan(pool, Demand(waiting=8, running=4, past=LONG), warm, NOW).warm == 0


def test_a_pool_without_a_known_size_counts_one_task_a_runner() -> None:
    assert plan(dataclasses.replace(POOL, max_concurrency=None), Demand(waiting=3, past=LONG), fleet(), NOW).launch == 3


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
    assert plan(POOL, Demand(waiting=12, past=LONG), perhaps, NOW).launch == 1
    assert plan(POOL, Demand(waiting=1000), perhaps, NOW).launch == 8


def test_a_reason_carries_the_numbers_it_came_from() -> None:
    demand = Demand(waiting=12, running=4, local_free=2, past=taught(runtime=117.25, arriving=0.25))
    assert plan(POOL, demand, fleet(UP, BOOTING), NOW).reason == (
        "12 waiting, 4 running on runners, 2 free here; 0.25 a second arrive, each runs 117 s: "
        "5 more would find work, 12 to keep; 1 booting, 1 up"
    )


def test_a_reason_says_that_a_runtime_is_a_guess() -> None:
    first = dataclasses.replace(Experience(), last=LONG.last)
    assert "each runs 30 s, by a first guess" in plan(POOL, Demand(waiting=1, past=first), fleet(), NOW).reason


@given(
    waiting=st.integers(0, 10**6),
    running=st.integers(0, 10**4),
    free=st.integers(0, 100),
    states=st.lists(st.sampled_from(RunnerState), max_size=40),
    low=st.integers(0, 20),
    extra=st.integers(0, 20),
    failures=st.integers(0, 3000),
    target=st.sampled_from([0.0, 30.0, 1e6]),
    runtime=st.floats(0, 1e6),
    arriving=st.floats(0, 1e6),
)
def test_a_plan_never_passes_max_and_always_has_a_reason(
    waiting: int, running: int, free: int, states: list[RunnerState], low: int, extra: int, failures: int,
    target: float, runtime: float, arriving: float,
) -> None:  # fmt: skip
    pool = dataclasses.replace(POOL, min=low, max=low + extra, target_wait=target)
    standing = fleet(*states, failures=Failures(count=failures, at=NOW))
    demand = Demand(waiting=waiting, running=running, local_free=free, past=taught(runtime=runtime, arriving=arriving))
    decided = plan(pool, demand, standing, NOW)
    up = [r.id for r in standing.runners if r.state is UP]
    cordoned = [r.id for r in standing.runners if r.state is CORDONED]
    assert set(decided.cordon) <= set(up)
    assert set(decided.uncordon) <= set(cordoned)
    assert not decided.cordon or not (decided.launch or decided.uncordon)
    assert len(up) - len(decided.cordon) >= min(low, len(up))
    assert decided.launch >= 0
    assert decided.launch == 0 or decided.launch + len(states) <= pool.max
    assert 0 <= decided.warm <= decided.launch
    assert decided.reason
