"""Which policy learns nothing? It plans for what waits and runs now, for tests that are about anything but deciding."""

from __future__ import annotations

import dataclasses
import math

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import CAPACITY, FORGET_AFTER, PROBE_AFTER, Demand, Fleet, Plan, Unknown, pause, room
from celery_flame_ec2.runner import RunnerState


def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Launch what all tasks need to run at once, within min and max; rest after failures; cordon nothing."""
    if isinstance(fleet, Unknown):
        return Plan(held=True, reason=fleet.why)
    if isinstance(demand, Unknown):
        return Plan(held=True, reason=demand.why)
    tasks = max(0, demand.waiting - demand.local_free) + demand.running
    wanted = max(pool.min, min(pool.max, math.ceil(tasks / (pool.max_concurrency or 1))))
    launch = max(0, min(wanted - fleet.count(*CAPACITY) - fleet.unclear, room(pool, fleet)))
    decided = Plan(wanted=wanted, reason=f"{demand.waiting} waiting, {demand.running} running want {wanted}")
    return _launch(launch, pool, fleet, decided, now) if launch else decided


def hasty(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan the same, and as soon as nothing waits recall whoever boots."""
    decided = plan(pool, demand, fleet, now)
    if isinstance(fleet, Unknown) or isinstance(demand, Unknown) or demand.waiting or decided.launch:
        return decided
    boots = [runner for runner in fleet.runners if runner.state is RunnerState.BOOTING and not runner.warm]
    return dataclasses.replace(decided, recall=tuple(runner.id for runner in boots))


def thrifty(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan the same, but recall only what is beyond what it wants."""
    decided = hasty(pool, demand, fleet, now)
    if isinstance(fleet, Unknown) or decided.wanted is None:
        return decided
    return dataclasses.replace(decided, recall=decided.recall[: max(0, fleet.count(*CAPACITY) - decided.wanted)])


def _launch(launch: int, pool: PoolSettings, fleet: Fleet, decided: Plan, now: float) -> Plan:
    failures = fleet.failures
    if (left := pause(failures, now)) > 0:
        return dataclasses.replace(decided, held=True, reason=f"next launch in {left:.0f} s, after {failures.cause}")
    if failures.boots >= PROBE_AFTER and now - failures.at < FORGET_AFTER:  # one at a time
        launch = 0 if fleet.count(RunnerState.BOOTING) + fleet.unclear else 1
    warm = min(launch, max(0, pool.min - sum(runner.warm for runner in fleet.runners)))
    return dataclasses.replace(decided, launch=launch, warm=warm, held=not launch)
