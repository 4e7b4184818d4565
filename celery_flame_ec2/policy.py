"""How many runners should a pool have? Pure: values in, a plan out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .config import PoolSettings
from .runner import Runner, RunnerState

#: Seconds without launches after one failed launch; doubled for each further one in a row, up to the second number.
FAILURE_PAUSE, LONGEST_PAUSE = 5.0, 600.0
#: Seconds after which a failed launch says nothing about the next: twice the longest pause there is.
FORGET_AFTER = 2 * LONGEST_PAUSE
#: Launches in a row whose runners did not come up, after which only one is tried at a time.
PROBE_AFTER = 2
#: States in which a runner takes work, or soon will.
CAPACITY = frozenset({RunnerState.BOOTING, RunnerState.UP})


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """What could not be measured, and why. It is not zero: hold, destroy nothing."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Tasks, by count: waiting in the queues, running on runners, and what the parent's own processes can take.

    `taken` is how many runners accepted since some moment in the past: it only ever grows.
    """

    waiting: int
    running: int = 0
    local_free: int = 0
    taken: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Failures:
    """Launches that brought no runner up, in a row; `at` is the last one, in seconds since the epoch.

    `boots` of them gave machines that did not come up. `pause` is how long to wait after `at`, where the compute
    backend knows; None leaves it to the policy.
    """

    count: int = 0
    at: float = 0.0
    cause: str = ""
    boots: int = 0
    pause: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fleet:
    """The runners of one pool that are not gone, launches not listed yet included.

    `unclear` is how many more may exist, of launches that nobody has seen the outcome of.
    """

    runners: tuple[Runner, ...] = ()
    unclear: int = 0
    failures: Failures = field(default_factory=Failures)

    def count(self, *states: RunnerState) -> int:
        """Return how many runners are in one of these states."""
        return sum(runner.state in states for runner in self.runners)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be done in this round, and why.

    `warm` of the `launch` make up the pool's min; `held` says that something kept the plan from doing what it wants.
    `cordon` and `uncordon` are ids of runners that shall take no more work, or take it again: named in each round
    until their state shows it.
    """

    launch: int = 0
    warm: int = 0
    cordon: tuple[str, ...] = ()
    uncordon: tuple[str, ...] = ()
    wanted: int | None = None
    held: bool = False
    reason: str


def room(pool: PoolSettings, fleet: Fleet) -> int:
    """Return how many runners may be launched below `max`: all that is listed or launched counts, seen or not.

    A machine that shuts down does not: it is billed no more, and never comes back.
    """
    here = sum(not runner.shutting_down for runner in fleet.runners)
    return max(0, pool.max - here - fleet.unclear)


def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan one round. `pool.max_concurrency` must be known; `now` is seconds since the epoch."""
    unknown = fleet if isinstance(fleet, Unknown) else demand
    if isinstance(fleet, Unknown) or isinstance(demand, Unknown):
        return Plan(held=True, reason=unknown.why)  # type: ignore[union-attr]
    wanted, sum_in_words = _wanted(pool, demand)
    launch = min(wanted - fleet.count(*CAPACITY) - fleet.unclear, room(pool, fleet))
    reason = f"{sum_in_words}; {_standing(fleet)}"
    if launch <= 0:
        return Plan(wanted=wanted, reason=reason)
    held = _held(fleet, now)
    if held:
        return Plan(wanted=wanted, held=True, reason=f"{reason}; {held}")
    if _probes(fleet.failures, now):
        launch, reason = 1, f"{reason}; one to try, after {_in_a_row(fleet.failures)} failed"
    warm = min(launch, max(0, pool.min - sum(runner.warm for runner in fleet.runners)))
    return Plan(launch=launch, warm=warm, wanted=wanted, reason=reason)


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


def _held(fleet: Fleet, now: float) -> str:
    """Return why nothing is launched although more is wanted; empty when it may be."""
    failures = fleet.failures
    left = pause(failures, now)
    if left > 0:
        return f"next launch in {left:.0f} s, after {_in_a_row(failures)} failed: {failures.cause}"
    if _probes(failures, now) and fleet.count(RunnerState.BOOTING) + fleet.unclear:
        return f"the next when the one that boots is up, after {_in_a_row(failures)} failed: {failures.cause}"
    return ""


def _probes(failures: Failures, now: float) -> bool:
    return failures.boots >= PROBE_AFTER and now - failures.at < FORGET_AFTER


def pause(failures: Failures, now: float) -> float:
    """Return for how many seconds nothing is launched after these failures; 0 or less when it may be."""
    if not failures.count:
        return 0.0
    # The exponent is bounded before it is used: 2.0**1100 is an OverflowError, not a long pause.
    grown = min(LONGEST_PAUSE, FAILURE_PAUSE * 2.0 ** min(failures.count - 1, 16))
    whole = grown if failures.pause is None else failures.pause
    # A clock that was set back must not make a pause longer than it is.
    return min(whole, failures.at + whole - now)


def _in_a_row(failures: Failures) -> str:
    return "a launch" if failures.count == 1 else f"{failures.count} launches in a row"
