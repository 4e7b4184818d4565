"""How does a deployment stand: who acts, what waits, which runners are there, what was decided, what did it cost?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .notes import Bill, Ended, Learned, Standing, billed
from .override import Override
from .policy import Demand, Unknown, pause
from .pool import Pool, in_words
from .queues import Depth, Measurement
from .runner import Runner, RunnerState


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseOverview:
    """Where it is settled who acts; whether somebody has it (None: not known), and for how long if nobody renews it."""

    place: str
    held: bool | None = None
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueOverview:
    """Messages of one queue; each but `waiting` is None where the broker does not tell."""

    name: str
    waiting: int | None
    held: int | None = None
    delayed: int | None = None
    oldest_wait: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunnerOverview:
    """One runner that is not gone; `reason` is why it ends, once it said so."""

    id: str
    state: str
    tasks: int
    launched_at: float
    age: float
    deadline: float | None
    warm: bool
    instance_type: str | None
    market: str | None
    zone: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedOverview:
    """One runner that is gone; `seconds` from its launch until that was seen, None where an older parent noted it."""

    id: str
    reason: str
    at: float
    ago: float
    seconds: float | None
    instance_type: str | None
    market: str | None
    zone: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerOverview:
    """Launches that failed in a row, and in how many seconds the next may be tried."""

    failed: int
    cause: str
    at: float
    retry_in: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionOverview:
    """What was decided and why, in words; of one that changed something, also when."""

    reason: str
    at: float | None
    ago: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnedOverview:
    """What the queue taught: seconds a task runs (None: not known yet), a boot takes, and tasks that come a second."""

    runtime: float | None
    boot: float
    arriving: float
    at: float
    ago: float


@dataclass(frozen=True, kw_only=True, slots=True)
class OverrideOverview:
    """What an operator decided for the pool: nothing is launched, or it has so many runners."""

    paused: bool
    wanted: int | None
    by: str
    at: float | None
    ago: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CostOverview:
    """Seconds that runners are billed for, those alive until now and the `ended` ones that ended `since`.

    `cost` is by `hourly_price`, `hourly` what those alive cost an hour; None without a price.
    """

    since: float | None
    ended: int
    seconds: float
    hourly_price: float | None
    cost: float | None
    hourly: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolOverview:
    """One pool. `unknown` says why what waits is not known; `unclear` runners may exist that nobody has seen.

    `plan` is what this round decides, known to the parent that acts alone.
    """

    name: str
    queues: tuple[QueueOverview, ...]
    waiting: int | None
    running: int | None
    unknown: str | None
    min: int
    max: int
    concurrency: int | None
    states: Mapping[str, int]
    unclear: int
    override: OverrideOverview | None
    breaker: BreakerOverview | None
    plan: str | None
    last_decision: DecisionOverview | None
    learned: LearnedOverview | None
    cost: CostOverview
    runners: tuple[RunnerOverview, ...]
    ended: tuple[EndedOverview, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """A whole deployment at one moment. Times are seconds since the epoch, durations seconds.

    `acts` says whether the parent that tells this is the one that acts, None where a command looked. `held` are tasks
    that consumers hold unacknowledged. What is not known is None, and `..._unknown` says why.
    """

    at: float
    owner: str
    backend: str
    acts: bool | None
    leader: str | None
    lease: LeaseOverview
    notes_unknown: str | None
    overrides_unknown: str | None
    runners_unknown: str | None
    held: int | None
    cost: CostOverview
    pools: tuple[PoolOverview, ...]

    def with_waits(self, published: Mapping[str, float]) -> Overview:
        """Return it with how long tasks wait that were published then, by queue."""
        pools = tuple(
            dataclasses.replace(pool, queues=tuple(_waited(queue, published, self.at) for queue in pool.queues))
            for pool in self.pools
        )
        return dataclasses.replace(self, pools=pools)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it, with pools by name; docs/status.md has each key."""
        fields = dataclasses.asdict(self)
        return {**fields, "pools": {pool["name"]: pool for pool in fields["pools"]}}

    def brief(self) -> dict[str, Any]:
        """Return the little of it that stands in `celery inspect stats`."""
        return {pool.name: {"runners": pool.states, "plan": pool.plan} for pool in self.pools}


def pool_overview(
    pool: Pool, demand: Demand | Unknown, measurement: Measurement | None, standing: Standing, now: float
) -> PoolOverview:
    """Return how it stands with one pool, by what was seen, and by what the parent that acts noted of it."""
    known, settings = demand if isinstance(demand, Demand) else None, pool.settings
    depths = measurement.depths if measurement is not None and known else {}
    runners = pool.roster.runners
    return PoolOverview(
        name=settings.name,
        queues=tuple(_queue(name, depths.get(name)) for name in settings.queues),
        waiting=known.waiting if known else None,
        running=known.running if known else None,
        unknown=demand.why if isinstance(demand, Unknown) else None,
        min=settings.min,
        max=settings.max,
        concurrency=settings.max_concurrency,
        states={state.value: sum(runner.state is state for runner in runners) for state in RunnerState},
        unclear=pool.roster.unclear(now),
        override=_override(pool.override, now),
        breaker=_breaker(standing, now),
        plan=None if (plan := pool.plan) is None else in_words(plan),
        last_decision=_decision(standing, now),
        learned=_learned(standing.learned, now),
        cost=_cost(runners, standing.bill, settings.ec2.hourly_price, now),
        runners=tuple(_runner(runner, pool.roster.reason(runner.id), now) for runner in runners),
        ended=tuple(_ended(each, now) for each in reversed(standing.endings)),
    )


def total(costs: Iterable[CostOverview]) -> CostOverview:
    """Add up what pools cost; without a price where one of them that had runners has none."""
    had = [each for each in costs if each.seconds]
    begun = [each.since for each in had if each.since is not None]
    prices = {each.hourly_price for each in had}
    return CostOverview(
        since=min(begun, default=None),
        ended=sum(each.ended for each in had),
        seconds=round(sum(each.seconds for each in had), 1),
        hourly_price=prices.pop() if len(prices) == 1 else None,
        cost=_sum(each.cost for each in had),
        hourly=_sum(each.hourly for each in had),
    )


def _sum(figures: Iterable[float | None]) -> float | None:
    found = list(figures)
    known = [each for each in found if each is not None]
    return round(sum(known), 4) if found and len(known) == len(found) else None


def _queue(name: str, depth: Depth | None) -> QueueOverview:
    if depth is None:
        return QueueOverview(name=name, waiting=None)
    return QueueOverview(name=name, waiting=depth.waiting, held=depth.held, delayed=depth.delayed)


def _waited(queue: QueueOverview, published: Mapping[str, float], now: float) -> QueueOverview:
    if queue.name not in published or not queue.waiting:
        return queue
    return dataclasses.replace(queue, oldest_wait=_ago(published[queue.name], now))


def _runner(runner: Runner, reason: str, now: float) -> RunnerOverview:
    return RunnerOverview(
        id=runner.id,
        state=runner.state.value,
        tasks=runner.active,
        launched_at=runner.launched_at,
        age=_ago(runner.launched_at, now),
        deadline=runner.deadline,
        warm=runner.warm,
        instance_type=runner.instance_type,
        market=runner.market,
        zone=runner.zone,
        reason=reason or None,
    )


def _ended(ended: Ended, now: float) -> EndedOverview:
    lived = None if ended.launched_at is None else _ago(ended.launched_at, ended.at)
    return EndedOverview(
        id=ended.runner_id,
        reason=ended.reason,
        at=ended.at,
        ago=_ago(ended.at, now),
        seconds=lived,
        instance_type=ended.instance_type,
        market=ended.market,
        zone=ended.zone,
    )


def _breaker(standing: Standing, now: float) -> BreakerOverview | None:
    failures = standing.failures
    if not failures.count:
        return None
    retry_in = round(max(0.0, pause(failures, now)), 1)
    return BreakerOverview(failed=failures.count, cause=failures.cause, at=failures.at, retry_in=retry_in)


def _override(override: Override, now: float) -> OverrideOverview | None:
    if not override:
        return None
    at = override.at if math.isfinite(override.at) else None
    ago = None if at is None else _ago(at, now)
    return OverrideOverview(paused=override.paused, wanted=override.wanted, by=override.by, at=at, ago=ago)


def _decision(standing: Standing, now: float) -> DecisionOverview | None:
    if not standing.decision:
        return None
    at = standing.decided_at or None
    return DecisionOverview(reason=standing.decision, at=at, ago=None if at is None else _ago(at, now))


def _learned(learned: Learned | None, now: float) -> LearnedOverview | None:
    if learned is None:
        return None
    return LearnedOverview(
        runtime=learned.runtime,
        boot=learned.boot,
        arriving=learned.arriving,
        at=learned.at,
        ago=_ago(learned.at, now),
    )


def _cost(runners: Iterable[Runner], bill: Bill, price: float | None, now: float) -> CostOverview:
    here = tuple(runners)  # one that shuts down counts until it is gone: a sum that fell would count anew in Prometheus
    running = [runner for runner in here if not (runner.shutting_down or runner.powered_off)]
    seconds = round(bill.seconds + sum(billed(runner.launched_at, now) for runner in here), 1)
    return CostOverview(
        since=bill.since or None,
        ended=bill.runners,
        seconds=seconds,
        hourly_price=price,
        cost=None if price is None else round(seconds / 3600 * price, 4),
        hourly=None if price is None else round(len(running) * price, 4),
    )


def _ago(at: float, now: float) -> float:
    return round(max(0.0, now - at), 1)
