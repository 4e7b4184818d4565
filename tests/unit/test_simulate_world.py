from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.lifetime import CORDONED_PATIENCE
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown
from celery_flame_ec2.runner import RunnerState
from celery_flame_ec2.simulate import Conditions, Outcome, Task, simulate
from celery_flame_ec2.simulate.loads import exponential, poisson
from celery_flame_ec2.simulate.world import EPOCH, NOTICE, Policy

POOL = PoolSettings(name="video", queues=("video",), max=10, max_concurrency=2, idle_shutdown_after=30.0)
#: Boots and ends that take a round time each.
EXACT = Conditions(boot=60.0, boot_spread=0.0, ending=3.0, cordoned_patience=30.0)


class Script:
    """Plans what it is told for a second, and nothing in others; remembers what it saw."""

    def __init__(self, **plans: Plan) -> None:
        self._plans = {float(name.removeprefix("at_")): plan for name, plan in plans.items()}
        self.seen: dict[float, tuple[Demand, Fleet]] = {}

    def __call__(self, pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
        assert isinstance(demand, Demand)
        assert isinstance(fleet, Fleet)
        self.seen[now - EPOCH] = demand, fleet
        return self._plans.get(now - EPOCH, Plan(reason="nothing to do"))

    def states(self, at: float) -> list[RunnerState]:
        return [runner.state for runner in self.seen[at][1].runners]


def launch(count: int, **fields: int) -> Plan:
    return Plan(launch=count, reason=f"launch {count}", **fields)


def keep(count: int) -> Policy:
    """Return a policy that launches, while tasks wait, until so many boot or are up."""

    def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
        assert isinstance(demand, Demand)
        assert isinstance(fleet, Fleet)
        wanted = count if demand.waiting else 0
        return launch(max(0, wanted - fleet.count(RunnerState.BOOTING, RunnerState.UP)))

    return plan


def play(tasks: list[Task], policy: Policy, pool: PoolSettings = POOL, **how: Any) -> Outcome:
    return simulate(tasks, pool, policy, **{"conditions": EXACT, "until": 5000.0, **how})


def some_tasks(count: int, seed: int = 1) -> list[Task]:
    source = random.Random(seed)
    arrivals = sorted(source.uniform(0, 600) for _ in range(count))
    return [Task(arrival, source.choice([0.0, 0.1, 3.0, 60.0])) for arrival in arrivals]


class TestTasks:
    @pytest.mark.parametrize("interruptions", [0.0, 20.0])
    @pytest.mark.parametrize("failed_boots", [0.0, 0.5])
    def test_each_runs_to_its_end_once(self, interruptions: float, failed_boots: float) -> None:
        tasks = some_tasks(150)
        conditions = Conditions(interruptions=interruptions, failed_boots=failed_boots, boot=20.0)

        outcome = play(tasks, keep(4), conditions=conditions)

        assert len(outcome.waits) == len(outcome.starts) == len(tasks)
        assert outcome.busy == pytest.approx(sum(task.runtime for task in tasks))
        arrivals = [start - wait for start, wait in zip(outcome.starts, outcome.waits, strict=True)]
        assert sorted(arrivals) == pytest.approx([task.arrival for task in tasks])
        assert min(outcome.waits) >= 0

    def test_they_start_in_the_order_of_their_arrivals(self) -> None:
        outcome = play(some_tasks(100), keep(3))

        starts = sorted((start - wait, start) for start, wait in zip(outcome.starts, outcome.waits, strict=True))
        assert [start for _, start in starts] == sorted(outcome.starts)

    def test_no_more_run_at_a_time_than_there_are_slots(self) -> None:
        policy = keep(2)
        most = 0

        def watched(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
            nonlocal most
            assert isinstance(demand, Demand)
            most = max(most, demand.running)
            return policy(pool, demand, fleet, now)

        play([Task(0.0, 10.0)] * 40, watched)

        assert most == 4

    def test_they_wait_for_a_boot_and_then_for_a_slot(self) -> None:
        outcome = play([Task(0.0, 10.0)] * 4, Script(at_0=launch(1)))

        assert list(outcome.waits) == [60.0, 60.0, 70.0, 70.0]
        assert list(outcome.starts) == [60.0, 60.0, 70.0, 70.0]

    def test_the_slot_that_waited_longest_takes_the_next(self) -> None:
        script = Script(at_0=launch(1), at_5=launch(1))
        pool = dataclasses.replace(POOL, max_concurrency=1)

        # Up at 60 and 65. The first takes a task at 66, the second at 67, and the first again at 71: free since 68.
        play([Task(66.0, 2.0), Task(67.0, 2.0), Task(71.0, 2.0)], script, pool)

        assert [runner.active for runner in script.seen[67][1].runners] == [1, 1]
        assert [runner.active for runner in script.seen[66][1].runners] == [1, 0]
        assert [runner.active for runner in script.seen[72][1].runners] == [1, 0]

    def test_one_that_arrives_before_the_other_is_refused(self) -> None:
        with pytest.raises(ValueError, match="arrives at 1 s, after one at 2 s"):
            play([Task(2.0, 1.0), Task(1.0, 1.0)], keep(1))


class TestBill:
    def test_a_machine_is_billed_from_launch_to_the_end_of_its_ending(self) -> None:
        outcome = play([Task(0.0, 100.0)], Script(at_0=launch(1)))

        assert outcome.billed == 60 + 100 + 30 + 3

    def test_a_machine_that_goes_early_is_billed_a_minute(self) -> None:
        conditions = Conditions(boot=1.0, boot_spread=0.0, ending=0.0)
        pool = dataclasses.replace(POOL, idle_shutdown_after=2.0)

        outcome = play([Task(0.0, 1.0)], Script(at_0=launch(1)), pool, conditions=conditions)

        assert outcome.billed == 60

    def test_a_boot_that_fails_is_billed_until_its_timeout(self) -> None:
        conditions = dataclasses.replace(EXACT, failed_boots=1.0)

        outcome = play([], Script(at_0=launch(2)), conditions=conditions)

        assert outcome.lost_boots == 2
        assert outcome.billed == 2 * POOL.ec2.boot_timeout

    def test_what_is_still_there_at_the_end_is_billed_until_then(self) -> None:
        outcome = simulate([Task(0.0, 1000.0)], POOL, Script(at_0=launch(1)), conditions=EXACT, until=200.0)

        assert outcome.ended_at == 199.0
        assert outcome.billed == 199.0


class TestMachines:
    def test_they_end_when_they_were_idle_for_long_enough(self) -> None:
        script = Script(at_0=launch(1))

        play([Task(0.0, 1.0), Task(80.5, 1.0), Task(200.0, 1.0)], script, until=300.0)

        # Idle from 61 to 80.5, that is for less than 30 s, and from 81.5 on.
        assert script.states(111) == [RunnerState.UP]
        assert script.states(112) == [RunnerState.ENDING]
        assert script.states(115) == []

    def test_they_do_not_end_while_they_work(self) -> None:
        script = Script(at_0=launch(1))

        play([Task(0.0, 1.0), Task(80.5, 50.0)], script)

        assert script.states(130) == [RunnerState.UP]
        assert script.states(161) == [RunnerState.ENDING]

    def test_they_stay_where_idle_never_ends_them(self) -> None:
        script = Script(at_0=launch(1))

        simulate(
            [Task(0.0, 1.0)], dataclasses.replace(POOL, idle_shutdown_after=None, min=1), script, conditions=EXACT,
            until=5000.0,
        )  # fmt: skip

        assert script.states(60) == [RunnerState.UP]

    def test_the_run_ends_while_those_of_min_stay(self) -> None:
        pool = dataclasses.replace(POOL, min=2)
        script = Script(at_0=launch(3, warm=2))

        outcome = play([Task(0.0, 100.0)], script, pool)

        # Three boot until 60; the one that is not warm ends 30 s idle later, 3 s of ending included, the task at 160.
        assert outcome.ended_at == 160
        assert outcome.billed == 2 * 160 + 93

    def test_max_is_never_passed(self) -> None:
        outcome = play([Task(0.0, 1.0)], Script(at_0=launch(50), at_1=launch(50)))

        assert outcome.launches == outcome.peak == POOL.max

    def test_those_too_old_finish_what_they_run_and_take_no_more(self) -> None:
        pool = dataclasses.replace(POOL, max_concurrency=1, max_lifetime=100.0)
        script = Script(at_0=launch(1), at_200=launch(1))

        outcome = play([Task(0.0, 150.0), Task(1.0, 1.0)], script, pool)

        assert script.states(160) == [RunnerState.ENDING]
        assert list(outcome.waits) == [60.0, 260.0 - 1.0]

    def test_a_parent_learns_each_boot_once_and_what_was_taken(self) -> None:
        script = Script(at_0=launch(1))
        conditions = dataclasses.replace(EXACT, boot=100.0)

        play([Task(0.0, 1.0), Task(1.0, 1.0), Task(105.0, 1.0)], script, conditions=conditions)

        before, after, later = (script.seen[at][0].past for at in (99.0, 100.0, 110.0))
        assert before.boot < after.boot < 100.0
        assert later.boot == after.boot
        assert [past.last and past.last.taken for past in (before, after, later)] == [0, 2, 3]

    def test_a_parent_sees_boots_as_they_happened(self) -> None:
        script = Script(at_0=launch(1))

        play([Task(0.0, 1.0)], script)

        assert script.states(59) == [RunnerState.BOOTING]
        assert script.states(60) == [RunnerState.UP]
        runner = script.seen[60][1].runners[0]
        assert runner.active == 1


class TestCordon:
    def test_a_cordoned_machine_takes_nothing_more_and_ends_when_idle(self) -> None:
        script = Script(at_0=launch(2), at_61=Plan(cordon=("i-00000001",), reason="cordon"))
        conditions = dataclasses.replace(EXACT, cordoned_patience=5.0)
        pool = dataclasses.replace(POOL, max_concurrency=1)

        play([Task(0.0, 20.0), Task(1.0, 20.0), Task(62.0, 20.0)], script, pool, conditions=conditions)

        assert script.states(62)[0] is RunnerState.CORDONED
        # Both are busy until 80; what waits goes to the second only.
        assert [(r.state, r.active) for r in script.seen[81][1].runners] == [
            (RunnerState.CORDONED, 0),
            (RunnerState.UP, 1),
        ]
        assert script.states(84)[0] is RunnerState.CORDONED
        assert script.states(85)[0] is RunnerState.ENDING

    def test_an_idle_one_is_patient_from_its_cordon_on(self) -> None:
        script = Script(at_0=launch(1), at_70=Plan(cordon=("i-00000001",), reason="cordon"))
        conditions = dataclasses.replace(EXACT, cordoned_patience=10.0)

        simulate([], dataclasses.replace(POOL, idle_shutdown_after=None), script, conditions=conditions, until=100.0)

        assert script.states(79) == [RunnerState.CORDONED]
        assert script.states(80) == [RunnerState.ENDING]

    @pytest.mark.parametrize("idle", [30.0, None])
    def test_its_patience_is_that_of_a_runner_where_nothing_else_is_said(self, idle: float | None) -> None:
        script = Script(at_0=launch(1), at_70=Plan(cordon=("i-00000001",), reason="cordon"))
        conditions = Conditions(boot=60.0, boot_spread=0.0)

        simulate([], dataclasses.replace(POOL, idle_shutdown_after=idle), script, conditions=conditions, until=75.0)

        assert script.states(70) == [RunnerState.UP]
        assert script.states(70 + CORDONED_PATIENCE) == [RunnerState.ENDING]

    def test_taken_back_it_takes_what_waits_at_once(self) -> None:
        ids = ("i-00000001",)
        script = Script(
            at_0=launch(1), at_61=Plan(cordon=ids, reason="cordon"), at_65=Plan(uncordon=ids, reason="uncordon")
        )

        outcome = play([Task(62.0, 1.0), Task(62.0, 1.0), Task(62.0, 1.0)], script)

        assert list(outcome.waits) == [3.0, 3.0, 4.0]

    def test_taken_back_at_work_it_takes_no_more_than_it_has_slots_free(self) -> None:
        ids = ("i-00000001",)
        script = Script(
            at_0=launch(1), at_61=Plan(cordon=ids, reason="cordon"), at_65=Plan(uncordon=ids, reason="uncordon")
        )

        outcome = play([Task(60.5, 10.0), Task(62.0, 1.0), Task(62.0, 1.0)], script)

        assert list(outcome.waits) == [3.0, 4.0, 0.0]

    def test_one_whose_patience_ends_is_not_taken_back(self) -> None:
        ids = ("i-00000001",)
        script = Script(
            at_0=launch(1), at_61=Plan(cordon=ids, reason="cordon"), at_65=Plan(uncordon=ids, reason="uncordon")
        )
        conditions = dataclasses.replace(EXACT, cordoned_patience=4.0)

        simulate([Task(90.0, 1.0)], POOL, script, conditions=conditions, until=89.0)

        assert script.states(66) == [RunnerState.ENDING]

    def test_tasks_on_cordoned_machines_count_as_running_and_those_on_ending_ones_do_not(self) -> None:
        script = Script(at_0=launch(1), at_61=Plan(cordon=("i-00000001",), reason="cordon"))
        pool = dataclasses.replace(POOL, max_lifetime=60.0)

        play([Task(0.0, 100.0)], script, pool)

        assert [script.seen[at][0].running for at in (60.0, 62.0, 119.0, 120.0, 161.0)] == [1, 1, 1, 0, 0]


class TestRecall:
    def test_a_recalled_machine_ends_without_having_worked(self) -> None:
        script = Script(at_0=launch(2), at_59=Plan(recall=("i-00000002",), reason="recall"))

        outcome = play([Task(0.0, 1.0), Task(0.0, 1.0), Task(0.0, 1.0)], script)

        assert script.states(61) == [RunnerState.UP, RunnerState.ENDING]
        assert list(outcome.waits) == [60.0, 60.0, 61.0]
        # The one is idle from 62 to 92 and ends for 3 s, the other since 59.
        assert outcome.billed == 95 + 62

    def test_one_that_is_up_is_not_recalled(self) -> None:
        script = Script(at_0=launch(1), at_60=Plan(recall=("i-00000001",), reason="recall"))

        outcome = play([Task(0.0, 1.0)], script)

        assert script.states(61) == [RunnerState.UP]
        assert outcome.billed == 94

    def test_where_the_broker_cannot_keep_runners_from_working_they_come_up(self) -> None:
        script = Script(at_0=launch(1), at_30=Plan(recall=("i-00000001",), reason="recall"))

        play([Task(0.0, 1.0)], script, conditions=dataclasses.replace(EXACT, recalls=False))

        assert script.states(60) == [RunnerState.UP]


class TestInterruptions:
    def test_a_task_that_outlasts_the_notice_runs_again_elsewhere(self) -> None:
        conditions = dataclasses.replace(EXACT, interruptions=3600.0)
        task = Task(0.0, NOTICE + 30.0)

        outcome = simulate([task], POOL, keep(1), conditions=conditions, until=2000.0, seed=3)

        assert outcome.rerun > 0
        assert not outcome.waits
        assert outcome.busy == 0

    def test_what_ran_comes_before_what_waits(self) -> None:
        conditions = dataclasses.replace(EXACT, interruptions=10.0, boot=NOTICE + 80.0)
        # No other machine is up before the notice is over, and all wait.
        tasks = [Task(0.0, 300.0), Task(1.0, 300.0), Task(2.0, 300.0)]

        outcome = play(tasks, keep(1), conditions=conditions, seed=4)

        began = {round(start - wait): start for start, wait in zip(outcome.starts, outcome.waits, strict=True)}
        assert outcome.rerun == 2
        assert began[0] > 200
        assert began[0] <= began[1] < began[2]

    def test_a_machine_that_must_end_for_two_reasons_ends_once(self) -> None:
        conditions = dataclasses.replace(EXACT, interruptions=3600.0)
        pool = dataclasses.replace(POOL, max_lifetime=60.0)
        script = Script(at_0=launch(1))

        outcome = play([Task(0.0, 110.0)], script, pool, conditions=conditions)

        assert {demand.running for demand, _ in script.seen.values()} == {0, 1}
        assert outcome.billed == 60 + 110 + 3

    def test_a_shorter_task_ends_within_the_notice(self) -> None:
        conditions = dataclasses.replace(EXACT, interruptions=3600.0)

        outcome = play([Task(0.0, NOTICE - 1.0)], keep(1), conditions=conditions)

        assert outcome.rerun == 0
        assert outcome.interrupted > 0


class TestTime:
    def test_the_same_seed_gives_the_same_and_another_does_not(self) -> None:
        def run(seed: int) -> Outcome:
            conditions = Conditions(interruptions=5.0, failed_boots=0.2)
            return play(some_tasks(80), keep(3), conditions=conditions, seed=seed)

        assert run(1) == run(1)
        assert run(1) != run(2)

    def test_what_is_settled_is_skipped_and_comes_out_the_same(self) -> None:
        tasks = list(poisson(0.002, exponential(200.0), seconds=6_000.0, seed=5))

        each, some = (play(tasks, keep_busy, settled=settled, until=math.inf) for settled in (math.inf, 0.0))

        assert some.rounds < each.rounds / 5
        assert some.waits == each.waits
        assert some.billed == pytest.approx(each.billed)
        assert some.launches == each.launches

    def test_a_look_is_held_just_before_what_comes_after_a_pause(self) -> None:
        script = Script(at_0=launch(1))

        play([Task(0.0, 1000.0), Task(500.5, 1.0), Task(700.0, 1.0)], script, settled=10.0)

        assert 300.0 not in script.seen
        assert {500.0, 501.0, 699.0, 700.0} <= script.seen.keys()

    def test_without_machines_and_tasks_time_is_skipped(self) -> None:
        outcome = play([Task(0.0, 1.0), Task(90_000.0, 1.0)], keep_busy, until=math.inf)

        assert outcome.rounds < 400

    def test_a_run_ends_where_nothing_will_ever_happen_again(self) -> None:
        outcome = play([Task(0.0, 1.0)], Script(), settled=10.0)

        assert not outcome.waits
        assert outcome.rounds < 20


def keep_busy(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Want a machine for each two tasks, at once."""
    assert isinstance(demand, Demand)
    assert isinstance(fleet, Fleet)
    wanted = math.ceil((demand.waiting + demand.running) / (pool.max_concurrency or 1))
    return launch(max(0, wanted - fleet.count(RunnerState.BOOTING, RunnerState.UP)))
