"""What an overview says of a deployment, from what was seen and noted."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2 import overview
from celery_flame_ec2.notes import LEAST_BILLED, Bill, Ended, Learned, Standing
from celery_flame_ec2.overview import CostOverview, LeaseOverview, Overview, PoolOverview, pool_overview, total
from celery_flame_ec2.policy import Demand, Failures, Unknown
from celery_flame_ec2.presence import Word
from celery_flame_ec2.queues import Depth, Measurement
from celery_flame_ec2.runner import Runner, RunnerState
from tests.unit.test_pool import NOW, ListBackend, new_pool

PAGE = Path(__file__).parent.parent.parent / "docs" / "status.md"
SEEN = Measurement(depths={"video": Depth(waiting=7, held=2), "other": Depth(waiting=1)})


def told(*runners: Runner, standing: Standing | None = None, demand: Any = None, **options: Any) -> PoolOverview:
    pool = new_pool(ListBackend(), **options)
    pool.look(runners, {}, NOW)
    return pool_overview(pool, demand or Demand(waiting=7, running=2), SEEN, standing or Standing(), NOW)


def runner(name: str, *, age: float = 100.0, **fields: Any) -> Runner:
    return Runner(id=name, pool="video", launched_at=NOW - age, **fields)


def cost(**fields: Any) -> CostOverview:
    usual = {"since": None, "ended": 0, "seconds": 0.0, "hourly_price": None, "cost": None, "hourly": None}
    return CostOverview(**{**usual, **fields})


def whole(pool: PoolOverview) -> Overview:
    return Overview(
        at=NOW, owner="shop", backend="ec2", acts=None, leader="host, pid 1", lease=LeaseOverview(place="a cell"),
        notes_unknown=None, overrides_unknown=None, runners_unknown=None, held=2, cost=pool.cost, pools=(pool,),
    )  # fmt: skip


def test_what_waits_is_told_by_queue_with_what_the_broker_tells_of_it() -> None:
    shown = told()
    (queue,) = shown.queues
    assert (queue.name, queue.waiting, queue.held, queue.oldest_wait) == ("video", 7, 2, None)
    assert (shown.waiting, shown.running, shown.unknown) == (7, 2, None)


def test_what_is_unknown_is_not_zero_and_says_why() -> None:
    shown = told(demand=Unknown(why="no broker"))
    (queue,) = shown.queues
    assert (shown.waiting, shown.running, queue.waiting, shown.unknown) == (None, None, None, "no broker")


def test_each_state_of_runners_is_counted_those_without_any_too() -> None:
    shown = told(runner("i-1"), runner("i-2"), runner("i-3", state=RunnerState.ENDING))
    assert shown.states == {"booting": 2, "up": 0, "cordoned": 0, "ending": 1}


def test_a_runner_that_ends_tells_why() -> None:
    pool, ending = new_pool(ListBackend()), runner("i-1")
    word = Word(runner_id="i-1", pool="video", owner="o", state=RunnerState.ENDING, reason="idle for 30 s")
    pool.look([ending, runner("i-2")], {"i-1": word}, NOW)
    shown = pool_overview(pool, Demand(waiting=0), SEEN, Standing(), NOW).runners
    assert [(each.id, each.reason) for each in shown] == [("i-1", "idle for 30 s"), ("i-2", None)]


def test_what_the_acting_parent_noted_is_told_with_its_age() -> None:
    standing = Standing(
        failures=Failures(count=2, at=NOW - 1, cause="no bundle", pause=11.0),
        decision="launch 1: 4 waiting",
        decided_at=NOW - 30,
        endings=(Ended(runner_id="i-0", reason="idle", at=NOW - 9), _ended("i-1", lived=70.0, ago=5.0)),
        learned=Learned(at=NOW - 4, runtime=2.5, boot=61.0, arriving=0.3),
    )
    shown = told(standing=standing)
    assert shown.last_decision is not None
    assert shown.breaker is not None
    assert shown.learned is not None
    assert (shown.last_decision.reason, shown.last_decision.ago) == ("launch 1: 4 waiting", 30.0)
    assert (shown.breaker.failed, shown.breaker.retry_in) == (2, 10.0)
    assert (shown.learned.runtime, shown.learned.ago) == (2.5, 4.0)
    assert [(each.id, each.seconds, each.ago) for each in shown.ended] == [("i-1", 70.0, 5.0), ("i-0", None, 9.0)]


def _ended(name: str, *, lived: float, ago: float) -> Ended:
    return Ended(runner_id=name, reason="idle", at=NOW - ago, launched_at=NOW - ago - lived)


@pytest.mark.parametrize(
    ("runners", "bill", "price", "expected"),
    [
        pytest.param([], Bill(), 3.6, {"hourly_price": 3.6, "cost": 0.0, "hourly": 0.0}, id="nothing yet"),
        pytest.param(
            [runner("i-1")],
            Bill(),
            3.6,
            {"seconds": 100.0, "hourly_price": 3.6, "cost": 0.1, "hourly": 3.6},
            id="alive",
        ),
        pytest.param([runner("i-1", age=5)], Bill(), None, {"seconds": LEAST_BILLED}, id="a minute at least"),
        pytest.param(
            [runner("i-1"), runner("i-2", shutting_down=True), runner("i-3", powered_off=True)],
            Bill(since=5.0, runners=3, seconds=900.0),
            3.6,
            {"since": 5.0, "ended": 3, "seconds": 1200.0, "hourly_price": 3.6, "cost": 1.2, "hourly": 3.6},
            id="those that ended too, and those that end until they are gone: a total never falls",
        ),
    ],
)
def test_what_runners_are_billed_for_is_added_up(
    runners: list[Runner], bill: Bill, price: float | None, expected: dict[str, Any]
) -> None:
    options = {} if price is None else {"hourly_price": price}
    assert told(*runners, standing=Standing(bill=bill), **options).cost == cost(**expected)


def test_a_total_without_a_price_for_each_pool_that_had_runners_has_no_price() -> None:
    one = cost(since=9.0, ended=1, seconds=3600.0, hourly_price=2.0, cost=2.0, hourly=2.0)
    two = cost(since=3.0, ended=2, seconds=60.0)
    idle = cost()
    assert total([one, idle]) == one
    assert total([one, two]) == cost(since=3.0, ended=3, seconds=3660.0)
    dearer = dataclasses.replace(one, hourly_price=4.0, cost=4.0)
    assert total([one, dearer]) == cost(since=9.0, ended=2, seconds=7200.0, cost=6.0, hourly=4.0)


def test_a_runner_that_ended_is_billed_from_its_launch_and_the_next_parent_goes_on() -> None:
    pool = new_pool(ListBackend())
    pool.look([runner("i-1", age=100)], {}, NOW)
    pool.look([], {}, NOW)
    pool.tell(NOW, hears=True)
    assert pool.standing.bill == Bill(since=NOW, runners=1, seconds=100.0)


def test_a_wait_is_told_of_what_still_waits() -> None:
    seen = whole(told()).with_waits({"video": NOW - 12.5, "other": 1.0})
    assert [queue.oldest_wait for queue in seen.pools[0].queues] == [12.5]
    empty = dataclasses.replace(seen.pools[0], queues=(dataclasses.replace(told().queues[0], waiting=0),))
    assert whole(empty).with_waits({"video": NOW - 12.5}).pools[0].queues[0].oldest_wait is None


def test_as_json_it_is_plain_with_pools_by_name() -> None:
    ended = Standing(endings=(_ended("i-1", lived=70.0, ago=5.0),))
    shown = whole(told(runner("i-1"), standing=ended))
    assert json.loads(json.dumps(shown.as_json()))["pools"]["video"]["runners"][0]["id"] == "i-1"
    assert shown.brief() == {"video": {"runners": dict(shown.pools[0].states), "plan": None}}


def test_every_key_stands_in_the_docs_and_none_that_is_not_there() -> None:
    kinds = [kind for kind in vars(overview).values() if dataclasses.is_dataclass(kind) and "Overview" in str(kind)]
    keys = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert keys == set(re.findall(r"^\| `(\w+)`", PAGE.read_text(), flags=re.MULTILINE))
