"""Plain depth: as many runners as tasks that wait or run, over the slots of a runner.

What many a home-made autoscaler does, and what this project did before it looked at time. Runners end by themselves
when they were idle for long enough.
"""

from __future__ import annotations

import math

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, room
from celery_flame_ec2.runner import RunnerState


def depth(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan one round."""
    assert isinstance(demand, Demand) and isinstance(fleet, Fleet)
    tasks = demand.waiting + demand.running
    wanted = max(pool.min, min(pool.max, math.ceil(tasks / (pool.max_concurrency or 1))))
    launch = min(wanted - fleet.count(RunnerState.BOOTING, RunnerState.UP), room(pool, fleet))
    return Plan(launch=max(0, launch), wanted=wanted, reason=f"{tasks} tasks want {wanted}")
