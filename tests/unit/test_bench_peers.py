"""Does each tool that the benchmark compares with decide as its documentation says?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.policy.peers import PEERS
from benchmarks.policy.peers.aws import TargetTracking
from benchmarks.policy.peers.dask import Adaptive
from benchmarks.policy.peers.depth import depth
from benchmarks.policy.peers.ecs import Pressure
from benchmarks.policy.peers.flame import ManyCallers, OneBoot
from benchmarks.policy.peers.keda import RedisList
from benchmarks.policy.peers.peer import Look
from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Plan
from celery_flame_ec2.runner import Runner, RunnerState
from celery_flame_ec2.simulate import Outcome, Task, simulate

POOL = PoolSettings(name="bench", queues=("bench",), max=100, max_concurrency=4)


def look(*, now: float = 0.0, up: int = 0, booting: int = 0, active: int = 0, most: int = 100, **counts: int) -> Look:
    """Return a look at so many runners, each of which runs `active` tasks."""
    runners = tuple(
        Runner(id=f"i-{number}", pool="bench", launched_at=float(number), state=RunnerState.UP, active=active)
        for number in range(up)
    )
    seen = {"waiting": 0, "running": up * active, "taken": 0, "room": most - up - booting} | counts
    return Look(now=now, pool=POOL, up=runners, booting=booting, **seen)


def wanted(plan: Plan) -> int:
    assert plan.wanted is not None
    return plan.wanted


class TestFlame:
    def test_one_boot_at_a_time_however_many_wait(self) -> None:
        tool = OneBoot()

        assert tool(look(now=0, waiting=1000)).launch == 1
        assert tool(look(now=1, waiting=1000, booting=1)).launch == 0

    def test_the_next_boot_begins_a_second_after_one_is_up_while_callers_wait(self) -> None:
        tool = OneBoot()
        tool(look(now=0, waiting=1000))
        tool(look(now=1, waiting=1000, booting=1))

        assert tool(look(now=60, waiting=996, up=1, active=4)).launch == 0
        assert tool(look(now=61, waiting=996, up=1, active=4)).launch == 1
        assert tool(look(now=200, waiting=0, up=2, active=4)).launch == 0

    def test_each_of_many_callers_boots_one_more_unless_those_that_boot_are_enough(self) -> None:
        # The source: boot unless pending * max_concurrency > waiting, asked before the caller is counted as waiting.
        for callers, boots in {1: 1, 4: 1, 5: 2, 8: 2, 9: 3}.items():
            assert ManyCallers()(look(waiting=callers)).launch == boots

    def test_callers_that_wait_already_boot_nothing(self) -> None:
        tool = ManyCallers()
        tool(look(waiting=100))

        assert tool(look(now=1, waiting=100, booting=3)).launch == 0
        assert tool(look(now=60, waiting=96, taken=4, up=1, active=4)).launch == 0

    def test_a_caller_boots_one_at_most(self) -> None:
        tool = ManyCallers()
        tool(look(waiting=100))

        assert tool(look(now=1, waiting=101)).launch == 1

    def test_neither_passes_max(self) -> None:
        assert ManyCallers()(look(waiting=1000)).launch == 100
        assert OneBoot()(look(waiting=1000, up=100, active=4)).launch == 0


class TestCeleryEcsAutoscaler:
    def test_two_more_above_a_pressure_of_three_quarters(self) -> None:
        assert Pressure()(look(waiting=100)).launch == 2
        assert Pressure()(look(waiting=7, up=2, active=4)).launch == 1  # no more than it takes for a lower pressure
        assert Pressure()(look(waiting=6, up=2, active=4)).launch == 0

    def test_it_waits_a_minute_before_the_next_step_out(self) -> None:
        tool = Pressure()

        launches = [tool(look(now=now, waiting=1000, up=4)).launch for now in range(0, 121, 15)]

        assert launches == [2, 0, 0, 0, 2, 0, 0, 0, 2]

    def test_one_fewer_below_a_quarter_each_two_minutes(self) -> None:
        tool = Pressure()

        ends = [len(tool(look(now=now, waiting=3, up=5)).cordon) for now in range(0, 241, 15)]

        assert [15 * number for number, count in enumerate(ends) if count] == [0, 120, 240]
        assert set(ends) == {0, 1}

    def test_between_the_two_nothing_changes(self) -> None:
        plan = Pressure()(look(waiting=4, up=2, active=4))

        assert (plan.launch, plan.cordon) == (0, ())


class TestKeda:
    def test_a_list_that_holds_anything_takes_it_from_none_to_one(self) -> None:
        assert RedisList()(look(waiting=1000)).launch == 1
        assert RedisList()(look(waiting=0)).launch == 0

    def test_it_looks_each_thirty_seconds_only_whether_there_is_anything(self) -> None:
        tool = RedisList()
        tool(look(now=0))

        assert tool(look(now=15, waiting=10)).launch == 0
        assert tool(look(now=30, waiting=10)).launch == 1

    def test_the_autoscaler_wants_one_replica_for_each_five_in_the_list(self) -> None:
        assert wanted(RedisList()(look(waiting=23, up=4, active=4))) == 5

    def test_it_leaves_what_is_within_a_tenth(self) -> None:
        assert wanted(RedisList()(look(waiting=54, up=10, active=4))) == 10
        assert wanted(RedisList()(look(waiting=56, up=10, active=4))) == 12

    @pytest.mark.parametrize(("current", "next_"), [(1, 5), (3, 7), (4, 8), (10, 20)])
    def test_up_by_the_double_or_by_four_whichever_is_more(self, current: int, next_: int) -> None:
        assert wanted(RedisList()(look(waiting=5000, up=current, active=4))) == next_

    def test_down_to_what_was_right_at_any_time_of_five_minutes(self) -> None:
        tool = RedisList()
        tool(look(now=0, waiting=50, up=10, active=4))

        sizes = {now: wanted(tool(look(now=now, waiting=10, up=10, active=4))) for now in range(15, 331, 15)}

        assert {size for now, size in sizes.items() if now <= 300} == {10}
        assert {size for now, size in sizes.items() if now > 300} == {2}

    def test_from_any_to_none_five_minutes_after_the_list_was_empty(self) -> None:
        tool = RedisList()
        tool(look(now=0, waiting=1, up=2))

        sizes = [wanted(tool(look(now=now, up=2))) for now in range(15, 331, 15)]

        assert sizes.index(0) == (300 - 15) // 15
        assert 0 not in sizes[: sizes.index(0)]

    def test_what_workers_run_is_not_in_the_list(self) -> None:
        tool = RedisList()
        tool(look(now=0, waiting=1, up=2, active=4))

        assert len(tool(look(now=300, up=2, active=4)).cordon) == 2


class TestTargetTracking:
    def test_out_at_the_third_datapoint_above_the_target_and_in_proportion(self) -> None:
        # 30 s of waiting over 60 s a message and 4 slots: two waiting are the target of an instance.
        tool = TargetTracking(60.0)

        launches = [tool(look(now=60 * minute, waiting=20, up=2, active=4)).launch for minute in range(3)]

        assert launches == [0, 0, 8]

    def test_instances_that_warm_up_count_as_there(self) -> None:
        tool = TargetTracking(60.0)
        for minute in range(3):
            tool(look(now=60 * minute, waiting=20, up=2, active=4))

        assert tool(look(now=180, waiting=20, up=2, booting=8, active=4)).launch == 0

    def test_a_datapoint_at_the_target_begins_the_count_anew(self) -> None:
        tool = TargetTracking(60.0)

        waiting = (20, 20, 4, 20, 20, 20)
        launches = [tool(look(now=60 * n, waiting=each, up=2, active=4)).launch for n, each in enumerate(waiting)]

        assert launches == [0, 0, 0, 0, 0, 8]

    def test_in_at_the_fifteenth_datapoint_below_nine_tenths_and_by_half_at_most(self) -> None:
        tool = TargetTracking(60.0)

        ends = [len(tool(look(now=60 * minute, up=10)).cordon) for minute in range(15)]

        assert ends == [0] * 14 + [5]

    def test_not_between_nine_tenths_and_the_target(self) -> None:
        tool = TargetTracking(60.0)

        plans = [tool(look(now=60 * minute, waiting=37, up=20, active=4)) for minute in range(30)]

        assert not any(plan.launch or plan.cordon for plan in plans)

    def test_none_is_ended_while_another_warms_up(self) -> None:
        tool = TargetTracking(60.0)

        plans = [tool(look(now=60 * minute, up=10, booting=1)) for minute in range(20)]

        assert not any(plan.cordon for plan in plans)

    def test_without_an_instance_it_scales_out_as_from_one(self) -> None:
        tool = TargetTracking(60.0)

        assert [tool(look(now=60 * minute, waiting=20)).launch for minute in range(3)] == [0, 0, 10]


class TestDask:
    def test_before_a_task_has_ended_half_a_second_is_expected_of_each(self) -> None:
        # 100 x 0.5 s over the target duration of 5 s, in threads as long as there is no worker.
        assert Adaptive()(look(waiting=100)).launch == 10

    def test_then_twice_what_the_oldest_ran(self) -> None:
        tool = Adaptive()
        tool(look(now=0, waiting=96, up=1, active=4))

        # 100 x 2 x 10 s over 5 s are more than 100 threads: one a task, in workers of four.
        assert wanted(tool(look(now=10, waiting=96, up=1, active=4))) == 25

    def test_the_mean_of_durations_weighs_each_new_one_a_half(self) -> None:
        tool = Adaptive()
        tool(look(now=0, waiting=96, running=4, up=1, active=4))
        # 4 slots for 10 s and 4 ends: 10 s each, 1000 s to be expected of 100, 200 threads of 100 at most.
        assert wanted(tool(look(now=10, waiting=92, running=4, taken=4, up=1, active=4))) == 24
        # 4 slots for 1 s and 4 ends: 1 s each, so the mean falls to 1 + 9 / 2**4; 92 of these are 28.75 threads.
        assert wanted(tool(look(now=11, waiting=88, running=4, taken=8, up=1, active=4))) == 8

    def test_a_worker_is_closed_at_the_third_look_that_finds_it_closable(self) -> None:
        tool = Adaptive()

        assert [tool(look(now=now, up=1)).cordon for now in range(3)] == [(), (), ("i-0",)]

    def test_a_look_that_finds_it_needed_begins_the_count_anew(self) -> None:
        tool = Adaptive()
        looks = [look(now=0, up=1), look(now=1, up=1), look(now=2, waiting=4, up=1), look(now=3, up=1)]

        assert [tool(each).cordon for each in looks] == [()] * 4
        assert [tool(look(now=now, up=1)).cordon for now in (4, 5)] == [(), ("i-0",)]

    def test_a_worker_that_runs_something_is_not_closed(self) -> None:
        tool = Adaptive()

        # 0.5 s are expected of each of 8 tasks: one worker would do.
        assert [tool(look(now=now / 100, up=2, active=4)).cordon for now in range(5)] == [()] * 5


class TestDepth:
    def test_as_many_runners_as_tasks_over_slots(self) -> None:
        assert depth(look(waiting=9)).launch == 3
        assert depth(look(waiting=5, up=1, active=4)).launch == 2
        assert depth(look(waiting=5, up=1, booting=2, active=4)).launch == 0

    def test_none_is_ended_by_it(self) -> None:
        assert depth(look(up=5)).cordon == ()

    def test_max_bounds_it(self) -> None:
        assert depth(look(waiting=10_000)).launch == 100


class TestInTheWorld:
    @pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
    def test_each_works_a_burst_off_and_then_ends_its_machines(self, peer: Any) -> None:
        tasks = [Task(0.0, 20.0)] * 60

        outcome = self.play(peer, tasks)

        assert len(outcome.waits) == len(tasks)
        assert outcome.ended_at < 7200
        assert outcome.billed >= outcome.busy / 4

    @pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
    def test_each_is_asked_nothing_where_it_has_settled_and_fares_the_same(self, peer: Any) -> None:
        tasks = [Task(at, 30.0) for at in (0.0, 10.0, 400.0, 3000.0, 3000.5, 7000.0)]

        each, some = self.play(peer, tasks), self.play(peer, tasks, settled=peer.settled)

        assert (list(some.waits), some.launches) == (list(each.waits), each.launches)
        assert some.billed == pytest.approx(each.billed)

    @staticmethod
    def play(peer: Any, tasks: list[Task], **how: Any) -> Outcome:
        pool = PoolSettings(name="bench", queues=("bench",), max=100, max_concurrency=4, idle_shutdown_after=peer.idle)
        load = _Load(tasks)
        return simulate(tasks, pool, peer.policy(load), interval=peer.interval, until=20_000.0, **how)


class _Load:
    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks
        self.tasks: Callable[[], list[Task]] = lambda: tasks

    def mean_runtime(self) -> float:
        return sum(task.runtime for task in self._tasks) / len(self._tasks)
