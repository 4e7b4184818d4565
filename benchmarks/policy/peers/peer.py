"""What is another tool's policy here, and what may it do?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.policy.loads import Load
from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, room
from celery_flame_ec2.runner import Runner, RunnerState
from celery_flame_ec2.simulate.world import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What a tool may see at one moment, `now` in seconds: more than it does see, the choice is its own.

    `taken` is how many tasks runners ever took; `room` how many more may be launched below the pool's max.
    """

    now: float
    pool: PoolSettings
    waiting: int
    running: int
    taken: int
    up: tuple[Runner, ...]
    booting: int
    room: int

    @property
    def slots(self) -> int:
        """Tasks at a time on one runner."""
        return self.pool.max_concurrency or 1

    @property
    def current(self) -> int:
        """Runners that are up or will be."""
        return len(self.up) + self.booting

    def clamped(self, wanted: int) -> int:
        """Return it within the pool's min and max."""
        return max(self.pool.min, min(self.pool.max, wanted))

    def grow(self, wanted: int, reason: str) -> Plan:
        """Plan to launch until so many boot or are up, and to end none."""
        wanted = self.clamped(wanted)
        return Plan(launch=max(0, min(wanted - self.current, self.room)), wanted=wanted, reason=reason)

    def resize(self, wanted: int, reason: str) -> Plan:
        """Plan to have so many boot or be up: launch, or end those that run least, the newest first.

        What a machine runs when it is chosen to be ended is finished first, and then it is gone at once: kinder than
        the tools are, which stop a container within seconds and count on the task to be delivered again.
        """
        surplus = self.current - self.clamped(wanted)
        if surplus <= 0:
            return self.grow(wanted, reason)
        order = sorted(self.up, key=lambda runner: (runner.active, -runner.launched_at))
        return Plan(cordon=tuple(runner.id for runner in order[:surplus]), wanted=wanted, reason=reason)


#: What a tool decides on what it sees.
Decide = Callable[[Look], Plan]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A tool, and what it is given. Times are seconds.

    `make` returns what decides, new for one run over a load; `interval` is between two of its looks; after `settled`
    without any change it decides nothing more until something changes. `idle` is when a machine of its own accord
    ends, None where only the tool ends it.
    """

    name: str
    make: Callable[[Load], Decide]
    interval: float = 1.0
    settled: float
    idle: float | None = None

    def policy(self, load: Load) -> Policy:
        """Return its policy for one run over a load."""
        decide = self.make(load)

        def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
            if isinstance(demand, Unknown) or isinstance(fleet, Unknown):
                return Plan(held=True, reason="unknown")
            return decide(_look(pool, demand, fleet, now))

        return plan


def _look(pool: PoolSettings, demand: Demand, fleet: Fleet, now: float) -> Look:
    return Look(
        now=now,
        pool=pool,
        waiting=demand.waiting,
        running=demand.running,
        taken=demand.past.last.taken if demand.past.last else 0,
        up=tuple([runner for runner in fleet.runners if runner.state is RunnerState.UP]),
        booting=fleet.count(RunnerState.BOOTING),
        room=room(pool, fleet),
    )
