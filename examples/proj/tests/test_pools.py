"""What do this project's pools do with its work?"""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from proj.tasks import nap

from celery_flame_ec2.simulate import Conditions, burst, exponential, fixed, poisson
from celery_flame_ec2.testing import Flame


def test_a_burst_of_naps_is_over_in_five_minutes(flame: Flame) -> None:
    flame.push(nap, 40, runtime=20)
    flame.settle(within=300)
    assert max(flame.waits()) <= 250
    assert flame.peak("default") == 4


def test_two_naps_raise_one_runner_and_it_is_told_why(flame: Flame) -> None:
    flame.push(nap, 2, runtime=60)
    flame.advance(5)
    pool = flame.pool("default")
    assert (pool.waiting, pool.states["booting"]) == (2, 1)
    assert "2 waiting" in flame.decisions[0].plan.reason


@pytest.mark.flame(pools={"default": {"max": 8}})
def test_with_twice_as_many_runners_it_is_over_in_three_minutes(flame: Flame) -> None:
    flame.push(nap, 40, runtime=20)
    flame.settle(within=200)
    assert max(flame.waits()) <= 150


def test_on_a_working_day_few_wait_for_two_minutes_and_at_most_28_hours_are_billed(flame: Flame) -> None:
    load = poisson(0.1, exponential(20.0), seconds=8 * 3600.0)
    outcome = flame.simulate("default", load, conditions=Conditions(boot=90.0))
    assert outcome.wait_at(0.95) <= 120
    assert outcome.billed_hours <= 28


def test_the_same_in_rounds_and_simulated(flame: Flame) -> None:
    flame.play(nap, burst(40, fixed(20.0)))
    flame.settle()
    assert max(flame.waits()) == pytest.approx(flame.simulate("default", burst(40, fixed(20.0))).wait_at(1.0), abs=2)


BEFORE_SIX = datetime(2026, 3, 2, 5, 30, tzinfo=timezone.utc)


@pytest.mark.flame(policy="proj.policy:by_day", start=BEFORE_SIX)
def test_what_comes_by_night_is_done_in_the_morning(flame: Flame) -> None:
    flame.push(nap, 3)
    flame.advance(1700)
    assert flame.launched == []
    assert flame.pool("default").plan.endswith("nothing by night")
    flame.until(lambda: flame.launched, within=120)
    assert 1800 <= flame.now <= 1802


def test_where_ec2_has_no_capacity_it_is_tried_again(flame: Flame) -> None:
    with flame.refuse("InsufficientInstanceCapacity"):
        flame.push(nap, 4)
        flame.advance(600)
        assert flame.launched == []
        assert "InsufficientInstanceCapacity" in flame.pool("default").breaker.cause
    flame.settle()


def test_a_quota_of_two_machines_makes_it_slower_and_no_worse(flame: Flame) -> None:
    with flame.refuse("VcpuLimitExceeded", beyond=2):
        flame.push(nap, 20, runtime=20)
        flame.settle()
        assert flame.peak("default") == 2


def test_a_task_that_was_interrupted_runs_again(flame: Flame) -> None:
    (task,) = flame.push(nap, runtime=600)
    flame.until(lambda: task.started_at)
    flame.interrupt()
    flame.settle()
    assert (task.starts, task.lost) == (2, False)


def test_a_release_that_does_not_boot_does_not_burn_money(flame: Flame) -> None:
    flame.fail_boots(1000, cause="release: bin/proj is not there")
    flame.push(nap, 40)
    flame.advance(3600)
    assert "bin/proj is not there" in flame.pool("default").ended[0].reason
    assert len(flame.launched) <= 20


def test_a_parent_that_dies_is_followed_by_the_next(flame: Flame) -> None:
    flame.start_parent()
    flame.push(nap, 40, runtime=20)
    flame.advance(70)
    flame.kill_parent()
    flame.settle()
    assert flame.peak("default") == 4


def test_an_outage_of_the_broker_ends_nothing_that_works(flame: Flame) -> None:
    (task,) = flame.push(nap, runtime=200)
    flame.until(lambda: task.started_at)
    with flame.broker_down():
        flame.advance(120)
        assert flame.pool("default").unknown
    flame.settle()
    assert task.starts == 1


@pytest.mark.flame(pools={"default": {"idle_shutdown_after": None}}, leaves=1)
def test_with_no_idle_time_one_runner_stays(flame: Flame) -> None:
    flame.push(nap)
    flame.advance(600)
    assert len(flame.runners("default")) == 1
