"""What is another tool's policy here, and what may it do?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.policy.loads import Load
from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Fleet, Plan, room
from celery_flame_ec2.runner import RunnerState
from celery_flame_ec2.simulate.world import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A tool, and what it is given. Times are seconds.

    `make` returns its policy for one run over a load; `interval` is between two of its looks; after `settled` without
    any change it decides nothing more until something changes. `idle` is when a machine of its own accord ends, None
    where only the tool ends it.
    """

    name: str
    make: Callable[[Load], Policy]
    interval: float = 1.0
    settled: float
    idle: float | None = None


def resize(pool: PoolSettings, fleet: Fleet, wanted: int, reason: str) -> Plan:
    """Plan to have so many runners boot or be up: launch, or end those that run least, the newest first.

    What a machine runs when it is chosen to be ended is finished first, and then it is gone at once: kinder than the
    tools are, which stop a container within seconds and count on the task to be delivered again.
    """
    wanted = max(pool.min, min(pool.max, wanted))
    boots = fleet.count(RunnerState.BOOTING)
    surplus = fleet.count(RunnerState.UP) + boots - wanted
    if surplus < 0:
        return Plan(launch=min(-surplus, room(pool, fleet)), wanted=wanted, reason=reason)
    up = [runner for runner in fleet.runners if runner.state is RunnerState.UP]
    up.sort(key=lambda runner: (runner.active, -runner.launched_at))
    return Plan(cordon=tuple(runner.id for runner in up[:surplus]), wanted=wanted, reason=reason)
