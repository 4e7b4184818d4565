"""How many runners should a pool have? Pure: values in, a plan out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from .config import PoolSettings
from .runner import Runner, RunnerState

#: Seconds without launches after one failed launch; doubled for each further one in a row, up to the second number.
FAILURE_PAUSE, LONGEST_PAUSE = 5.0, 600.0
#: States in which a runner takes work, or soon will.
CAPACITY = frozenset({RunnerState.BOOTING, RunnerState.UP})
#: Seconds a runner may outlive its deadline: its own timers go first, and they have margins too.
DEADLINE_GRACE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """What could not be measured, and why. It is not zero: hold, destroy nothing."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Tasks, by count: waiting in the queues, running on runners, and what the parent's own processes can take."""

    waiting: int
    running: int = 0
    local_free: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """Launches that brought no runner up, in a row; `at` is the last one, in seconds since the epoch."""

    count: int = 0
    at: float = 0.0
    cause: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """The runners of one pool that are not gone, launches not listed yet included.

    `listening_since` is when presence began to be heard (seconds since the epoch), None where no presence can be
    heard: then silence says nothing about a runner. `unclear` is how many more may exist, of unanswered launches.
    """

    runners: tuple[Runner, ...] = ()
    unclear: int = 0
    listening_since: float | None = None
    failures: Failures = field(default_factory=Failures)

    def count(self, *states: RunnerState) -> int:
        """Return how many runners are in one of these states."""
        return sum(runner.state in states for runner in self.runners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reap:
    """A runner that will not end itself, and why it must."""

    runner: Runner
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be done in this round, and why.

    `warm` of the `launch` make up the pool's min; `held` says that something kept the plan from doing what it wants.
    """

    launch: int = 0
    warm: int = 0
    reap: tuple[Reap, ...] = ()
    wanted: int | None = None
    held: bool = False
    reason: str


def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan one round. `pool.max_concurrency` must be known; `now` is seconds since the epoch."""
    if isinstance(fleet, Unknown):
        return Plan(held=True, reason=fleet.why)
    reap = tuple(_overdue(pool, fleet, now))
    if isinstance(demand, Unknown):
        return Plan(reap=reap, held=True, reason=demand.why)
    wanted, sum_in_words = _wanted(pool, demand)
    doomed = {item.runner.id for item in reap}
    capacity = sum(runner.state in CAPACITY and runner.id not in doomed for runner in fleet.runners)
    launch = min(wanted - capacity, pool.max - len(fleet.runners)) - fleet.unclear
    reason = f"{sum_in_words}; {_standing(fleet)}"
    if launch <= 0:
        return Plan(reap=reap, wanted=wanted, reason=reason)
    pause = _pause(fleet.failures, now)
    if pause > 0:
        reason = f"{reason}; {_pause_in_words(fleet.failures, pause)}"
        return Plan(reap=reap, wanted=wanted, held=True, reason=reason)
    warm = min(launch, max(0, pool.min - sum(runner.warm for runner in fleet.runners)))
    return Plan(launch=launch, warm=warm, reap=reap, wanted=wanted, reason=reason)


def _wanted(pool: PoolSettings, demand: Demand) -> tuple[int, str]:
    slots = pool.max_concurrency or 1
    tasks = max(0, demand.waiting - demand.local_free) + demand.running
    wanted = max(pool.min, min(pool.max, math.ceil(tasks / slots)))
    words = f"{demand.waiting} waiting, {demand.running} running on runners"
    if demand.local_free:
        words += f", {demand.local_free} free here"
    return wanted, f"{words}: {tasks} tasks at {slots} a runner want {wanted} (min {pool.min}, max {pool.max})"


def _standing(fleet: Fleet) -> str:
    counts = [(fleet.count(state), state.value) for state in RunnerState] + [(fleet.unclear, "launched perhaps")]
    return ", ".join(f"{count} {word}" for count, word in counts if count) or "no runner"


def _overdue(pool: PoolSettings, fleet: Fleet, now: float) -> Iterator[Reap]:
    for runner in fleet.runners:
        reason = _reason_to_reap(pool, runner, fleet.listening_since, now)
        if reason:
            yield Reap(runner=runner, reason=reason)


def _reason_to_reap(pool: PoolSettings, runner: Runner, listening_since: float | None, now: float) -> str | None:
    if runner.shutting_down:
        return None
    if runner.powered_off:
        return "its machine is powered off but not terminated"
    if runner.deadline is not None and now > runner.deadline + DEADLINE_GRACE:
        return f"it is {now - runner.deadline:.0f} s past its deadline"
    if runner.state is RunnerState.BOOTING and listening_since is not None:
        # A parent that listens only since a moment ago has not heard from runners that are well.
        silent = now - max(runner.launched_at, listening_since)
        if silent > pool.ec2.boot_timeout:
            return f"no hello within boot_timeout ({pool.ec2.boot_timeout:g} s)"
    return None


def _pause(failures: Failures, now: float) -> float:
    if not failures.count:
        return 0.0
    # The exponent is bounded before it is used: 2.0**1100 is an OverflowError, not a long pause.
    pause = min(LONGEST_PAUSE, FAILURE_PAUSE * 2.0 ** min(failures.count - 1, 16))
    # A clock that was set back must not make a pause longer than it is.
    return min(pause, failures.at + pause - now)


def _pause_in_words(failures: Failures, pause: float) -> str:
    launches = "launch" if failures.count == 1 else f"{failures.count} launches in a row"
    return f"next launch in {pause:.0f} s, after {launches} failed: {failures.cause}"
