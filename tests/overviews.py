"""How may a deployment stand, for what shows it?"""

from __future__ import annotations

import dataclasses
from typing import Any

from celery_flame_ec2.overview import (
    BreakerOverview,
    CostOverview,
    DecisionOverview,
    EndedOverview,
    LeaseOverview,
    OverrideOverview,
    Overview,
    PoolOverview,
    QueueOverview,
    RunnerOverview,
)

NOON = 1_800_000_000.0
FREE = CostOverview(since=None, ended=0, seconds=0.0, hourly_price=None, cost=None, hourly=None)


def pool(name: str = "video", **fields: Any) -> PoolOverview:
    """A pool with nothing to do."""
    states = dict.fromkeys(("booting", "up", "cordoned", "ending"), 0)
    quiet = PoolOverview(
        name=name, queues=(QueueOverview(name=name, waiting=0),), waiting=0, running=0, unknown=None, min=0, max=10,
        concurrency=4, states=states, unclear=0, override=None, breaker=None, plan=None, last_decision=None,
        learned=None, cost=FREE, runners=(), ended=(),
    )  # fmt: skip
    return dataclasses.replace(quiet, **fields)


def overview(*pools: PoolOverview, **fields: Any) -> Overview:
    """A deployment whose parent acts."""
    plain = Overview(
        at=NOON, owner="proj@broker/0", backend="ec2", acts=True, leader="box, pid 7",
        lease=LeaseOverview(place="a lease", held=True), notes_unknown=None, overrides_unknown=None,
        runners_unknown=None, held=None, cost=FREE,
        pools=pools or (pool(),),
    )  # fmt: skip
    return dataclasses.replace(plain, **fields)


def runner(runner_id: str = "i-1", **fields: Any) -> RunnerOverview:
    """A runner that is up."""
    up = RunnerOverview(
        id=runner_id, state="up", tasks=1, launched_at=NOON - 60, age=60.0, deadline=None, warm=False,
        instance_type="c7i.xlarge", market="spot", zone="eu-central-1a", reason=None,
    )  # fmt: skip
    return dataclasses.replace(up, **fields)


def hostile(text: str) -> Overview:
    """A deployment each of whose texts is this one."""
    ended = EndedOverview(
        id=text, reason=text, at=NOON, ago=1.0, seconds=5.0, instance_type=text, market=text, zone=text
    )
    one = pool(
        text,
        queues=(QueueOverview(name=text, waiting=None),), unknown=text,
        override=OverrideOverview(paused=True, wanted=3, by=text, at=NOON, ago=1.0),
        breaker=BreakerOverview(failed=2, cause=text, at=NOON, retry_in=5.0),
        last_decision=DecisionOverview(reason=text, at=NOON, ago=1.0),
        states={"booting": 0, "up": 1, "cordoned": 0, "ending": 0},
        runners=(runner(text, instance_type=text, market=text, zone=text, reason=text),), ended=(ended,),
    )  # fmt: skip
    return overview(
        one, owner=text, backend=text, leader=text, notes_unknown=text, overrides_unknown=text, runners_unknown=text
    )
