"""How many runners should a pool have? Pure: values in, a plan out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

from .config import PoolSettings
from .experience import Experience
from .runner import Runner, RunnerState

#: Seconds without launches after one failed launch; doubled for each further one in a row, up to the second number.
FAILURE_PAUSE, LONGEST_PAUSE = 5.0, 600.0
#: Seconds after which a failed launch says nothing about the next: twice the longest pause there is.
FORGET_AFTER = 2 * LONGEST_PAUSE
#: Launches in a row whose runners did not come up, after which only one is tried at a time.
PROBE_AFTER = 2
#: Slots kept free for arrivals that come thicker than on average, for each standard deviation of theirs within a boot
#: or a runtime, whichever is shorter (Poisson).
SPARE = 4.0
#: No more are kept free than let a task wait for longer than target_wait once in exp(TAIL) times, where runtimes are
#: exponential; they seldom are, and so it is more.
TAIL = 6.0
#: Slots kept beyond those at work: tasks come and go, and what one look cordons the next would want back. Fewer where
#: tasks run for longer than a boot takes.
SLACK = 4.0
#: Runners launched beyond need where no task shall wait, for each one needed: some boots take longer, or fail.
HEDGE = 0.1
#: Runners there may be before ENOUGH tasks were seen to their ends, where tasks may wait: how many it takes is a guess.
FIRST_RUNNERS = 25
#: Seconds billed for each launch, however early it ends, by EC2's price per second (aws.amazon.com/ec2/pricing).
BILLED_AT_LEAST = 60.0
#: Runners that are up, for each that arrivals need, beside which nobody needs those that still boot: what arrivals need
#: goes up and down, and who was recalled does not come back.
AMPLE = 1.5
#: What a sum of floats may be off, in runners.
ROUNDING = 1e-9
#: States in which a runner takes work, or soon will.
CAPACITY = frozenset({RunnerState.BOOTING, RunnerState.UP})
#: Each state and how it is told, in this order.
STATES = tuple((state, state.value) for state in RunnerState)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """What could not be measured, and why. It is not zero: hold, destroy nothing."""

    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """Tasks, by count: waiting in the queues, running on runners, and what the parent's own processes can take.

    `local` counts those of its processes that take from these queues alone, free or not. `past` is what the pool's
    queue taught until now.
    """

    waiting: int
    running: int = 0
    local_free: int = 0
    local: int = 0
    past: Experience = field(default_factory=Experience)

    @property
    def unserved(self) -> int:
        """Return how many tasks wait that the parent's own processes do not take at once."""
        return max(0, self.waiting - self.local_free)


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
        found = [runner.state for runner in self.runners]
        return sum([found.count(state) for state in states])


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be done in this round, and why.

    `warm` of the `launch` make up the pool's min; `held` says that something kept the plan from doing what it wants.
    `cordon` and `uncordon` are ids of runners that shall take no more work, or take it again: named in each round
    until their state shows it. `recall` are ids of runners that boot and are to end before they take any: where they
    cannot be kept from it for certain they come up all the same.
    """

    launch: int = 0
    warm: int = 0
    cordon: tuple[str, ...] = ()
    uncordon: tuple[str, ...] = ()
    recall: tuple[str, ...] = ()
    wanted: int | None = None
    held: bool = False
    reason: str

    @property
    def orders(self) -> dict[str, tuple[str, ...]]:
        """Return whom it wants what of, by what that is."""
        return {"cordon": self.cordon, "uncordon": self.uncordon, "recall": self.recall}


def room(pool: PoolSettings, fleet: Fleet) -> int:
    """Return how many runners may be launched below `max`: all that is listed or launched counts, seen or not.

    A machine that shuts down does not: it is billed no more, and never comes back.
    """
    here = sum(not runner.shutting_down for runner in fleet.runners)
    return max(0, pool.max - here - fleet.unclear)


def plan(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan one round. `pool.max_concurrency` must be known; `now` is seconds since the epoch.

    Launch what still finds work when it is up; take back what was cordoned first; cordon what arrivals do not need.
    """
    unknown = fleet if isinstance(fleet, Unknown) else demand
    if isinstance(fleet, Unknown) or isinstance(demand, Unknown):
        return Plan(held=True, reason=unknown.why)  # type: ignore[union-attr]
    outlook = _outlook(pool, demand, fleet, now)
    here, up = _here(fleet), fleet.count(RunnerState.UP)
    uncordon = _cordoned(fleet)[: max(0, min(max(outlook.keep - up, outlook.missing), pool.max - here))]
    wanted = min(pool.max, max(pool.min, here + outlook.missing))
    launch = min(wanted - here - len(uncordon), room(pool, fleet))
    short = outlook.missing - len(uncordon) > max(0, launch)
    reason = f"{_in_words(demand, outlook)}; {_standing(fleet)}{f'; max is {pool.max}' if short else ''}"
    if launch > 0:
        return _launch(pool, fleet, launch, Plan(wanted=wanted, uncordon=uncordon, reason=reason), now)
    settled = demand.past.arrivals.known and not uncordon
    surplus = up - (min(outlook.keep, pool.max) if settled else pool.max)  # max may have been lowered
    in_vain = settled and up >= max(outlook.keep * AMPLE, outlook.keep + 1) and not demand.unserved
    return Plan(
        wanted=wanted,
        uncordon=uncordon,
        cordon=_least_busy(fleet, surplus),
        recall=_still_booting(fleet, now) if in_vain else (),
        reason=reason,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outlook:
    """How many runners more would find work once they are up, and how many that are up must be kept."""

    missing: int
    keep: int
    runtime: float
    arriving: float


def _outlook(pool: PoolSettings, demand: Demand, fleet: Fleet, now: float) -> _Outlook:
    past, slots, runtime = demand.past, pool.max_concurrency or 1, demand.past.runtime
    arriving = past.arrivals.rate
    needed = max(_expected(pool, demand, arriving), _present(pool, demand))
    return _Outlook(
        missing=_missing(pool, demand, fleet, now) if demand.unserved else 0,
        keep=max(pool.min, math.ceil(needed / slots - ROUNDING)),
        runtime=runtime,
        arriving=arriving,
    )


def _expected(pool: PoolSettings, demand: Demand, arriving: float) -> float:
    """Return how many slots of runners it takes to serve what arrives, with some free for when more does.

    In a queue that Poisson arrivals fill slots are busy as arrivals a second times runtime, and vary by its root. Only
    what may come within a boot needs free ones: for what comes later there is time to launch.
    """
    runtime, target = demand.past.runtime, pool.target_wait
    busy = arriving * runtime
    spare = SPARE * math.sqrt(busy * _turnover(demand.past))
    if target > 0:
        spare = min(spare, TAIL * runtime / target)
    return max(0.0, busy - demand.local) + spare


def _turnover(past: Experience) -> float:
    """Return which share of the tasks at work, at most all, makes way for others within a boot."""
    return min(1.0, past.boot / past.runtime)


def _present(pool: PoolSettings, demand: Demand) -> float:
    """Return how many slots it takes to go on with what runs on runners and start what waits within `target_wait`."""
    runtime = demand.past.runtime
    needed = demand.running + demand.unserved * runtime / (pool.target_wait + runtime)
    return needed + SLACK * _turnover(demand.past) if needed else 0.0


def _missing(pool: PoolSettings, demand: Demand, fleet: Fleet, now: float) -> int:
    """Return how many runners more would find work once they are up.

    Before enough tasks have ended their runtime is a guess, and few are launched on a guess. But a task that runs for
    some time already lasts for as long at least. Slots that take one task each start no other, however short it is.
    """
    past = demand.past
    if pool.target_wait == 0 or pool.single_use:
        return _at_once(pool, demand, fleet)
    guess = _in_time(pool, demand, fleet, past.runtime, now)
    if past.at_least is None:
        return guess
    known = _in_time(pool, demand, fleet, past.at_least, now) if past.at_least else 0
    return max(known, min(guess, FIRST_RUNNERS - _here(fleet)))


def _at_once(pool: PoolSettings, demand: Demand, fleet: Fleet) -> int:
    """Return how many runners more it takes for each task that waits to have a slot of its own, with HEDGE at 0."""
    needed = math.ceil(demand.unserved / (pool.max_concurrency or 1))
    hedge = int(needed * HEDGE) if pool.target_wait == 0 else 0
    return max(0, needed + hedge - fleet.count(RunnerState.BOOTING) - fleet.unclear)


def _in_time(pool: PoolSettings, demand: Demand, fleet: Fleet, runtime: float, now: float) -> int:
    """Return how many runners more it takes for all that waits when they are up to start within `target_wait` then.

    Slots that are there start one task each runtime; a new one starts one at once, and then so too.
    """
    past, slots, target = demand.past, pool.max_concurrency or 1, pool.target_wait
    serving = slots * fleet.count(RunnerState.UP) + demand.local
    #: Seconds for which each that boots now will have been up when one launched now is.
    early = [min(past.boot, max(0.0, now - r.launched_at)) for r in fleet.runners if r.state is RunnerState.BOOTING]
    coming = slots * (len(early) + fleet.unclear)
    started = coming + (serving * past.boot + slots * sum(early)) / runtime
    steady = past.arrivals.steady
    left = demand.unserved + steady * past.boot - started
    if left <= 0:
        return 0
    more = (left * runtime + (steady * runtime - serving - coming) * target) / (target + runtime)
    return max(0, math.ceil(more / slots - ROUNDING))


def _here(fleet: Fleet) -> int:
    """Return how many runners take work or will, as far as is known."""
    return fleet.count(*CAPACITY) + fleet.unclear


def _launch(pool: PoolSettings, fleet: Fleet, launch: int, plan: Plan, now: float) -> Plan:
    held = _held(fleet, now)
    if held:
        return dataclasses.replace(plan, held=True, reason=f"{plan.reason}; {held}")
    if _probes(fleet.failures, now):
        reason = f"{plan.reason}; one to try, after {_in_a_row(fleet.failures)} failed"
        launch, plan = 1, dataclasses.replace(plan, reason=reason)
    warm = min(launch, max(0, pool.min - sum(runner.warm for runner in fleet.runners)))
    return dataclasses.replace(plan, launch=launch, warm=warm)


def _cordoned(fleet: Fleet) -> tuple[str, ...]:
    """Return the ids of cordoned runners, those first that still work: the others are about to end."""
    found = [runner for runner in fleet.runners if runner.state is RunnerState.CORDONED]
    return tuple(runner.id for runner in sorted(found, key=lambda runner: -runner.active))


def _least_busy(fleet: Fleet, count: int) -> tuple[str, ...]:
    """Return the ids of so many runners that are up; those that do not idle out last."""
    up = [runner for runner in fleet.runners if runner.state is RunnerState.UP]
    up.sort(key=lambda runner: (runner.warm, runner.active, runner.launched_at))
    return tuple(runner.id for runner in up[: max(0, count)])


def _still_booting(fleet: Fleet, now: float) -> tuple[str, ...]:
    """Return the ids of those whose boots cost more from now on; warm ones are there to stay."""
    boots = [runner for runner in fleet.runners if runner.state is RunnerState.BOOTING and not runner.warm]
    return tuple(runner.id for runner in boots if now - runner.launched_at >= BILLED_AT_LEAST)


def _in_words(demand: Demand, outlook: _Outlook) -> str:
    words = f"{demand.waiting} waiting, {demand.running} running on runners"
    if demand.local_free:
        words += f", {demand.local_free} free here"
    runtime = f"{_rounded(outlook.runtime)} s{'' if demand.past.at_least is None else ', by a first guess'}"
    arriving = (
        f"{_rounded(outlook.arriving)} a second arrive" if demand.past.arrivals.known else "arrivals not known yet"
    )
    return f"{words}; {arriving}, each runs {runtime}: {outlook.missing} more would find work, {outlook.keep} to keep"


def _rounded(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


def _standing(fleet: Fleet) -> str:
    states = [runner.state for runner in fleet.runners]
    counts = [(states.count(state), word) for state, word in STATES] + [(fleet.unclear, "launched perhaps")]
    return ", ".join([f"{count} {word}" for count, word in counts if count]) or "no runner"


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
