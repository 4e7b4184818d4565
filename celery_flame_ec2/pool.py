"""What does one round do for one pool: look, decide, act?"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping

from . import boot, signals
from .backends.base import Backend
from .config import PoolSettings, Settings
from .errors import LaunchError, LaunchUnclear
from .parent import Parent
from .policy import Demand, Fleet, Plan, Unknown
from .presence import Word
from .roster import Change, Event, Roster
from .runner import Runner

logger = logging.getLogger(__name__)

#: What `flame_policy` names.
Policy = Callable[[PoolSettings, Demand | Unknown, Fleet | Unknown, float], Plan]


class Pool:
    """The runners of one flame pool, as its parent handles them. `settings.max_concurrency` is known."""

    def __init__(self, settings: PoolSettings, *, deployment: Settings, backend: Backend, policy: Policy) -> None:
        self.settings = settings
        self.roster = Roster(settings.name)
        self.plan: Plan | None = None
        self._changes: tuple[Change, ...] = ()
        self._deployment = deployment
        self._backend = backend
        self._policy = policy

    def look(self, listed: Iterable[Runner] | None, words: Mapping[str, Word], now: float) -> None:
        """Take in what the backend lists (None: nothing new) and what the runners say."""
        self._changes = self.roster.update(listed, words, now)

    def tell(self, now: float, *, hears: bool) -> None:
        """Log and signal what the last look found; for the one parent that acts, or all would say the same."""
        for change in self._changes:
            self._tell(change, now, hears=hears)

    def decide(self, demand: Demand | Unknown, now: float, *, listing: Unknown | None, since: float | None) -> Plan:
        """Plan this round. `listing` says why the fleet is unknown; `since` is when presence began to be heard."""
        roster = self.roster
        fleet = Fleet(
            runners=roster.runners, unclear=roster.unclear(now), listening_since=since, failures=roster.failures
        )
        plan = self._policy(self.settings, demand, listing or fleet, now)
        log = logger.info if self._is_news(plan) else logger.debug
        log("pool %s: %s: %s", self.settings.name, _in_words(plan), plan.reason)
        self.plan = plan
        return plan

    def act(self, plan: Plan, now: float) -> bool:
        """Do what the plan says; return whether anything was done. A runner that cannot be reaped stops no launch."""
        for warm, count in ((True, plan.warm), (False, plan.launch - plan.warm)):
            if count > 0:
                self._launch(count, plan.reason, now, warm=warm)
        if plan.reap:
            self._reap(plan)
        return bool(plan.reap or plan.launch)

    def _reap(self, plan: Plan) -> None:
        for item in plan.reap:
            logger.warning("pool %s: reaping %s: %s", self.settings.name, item.runner.id, item.reason)
        self._backend.terminate([item.runner.id for item in plan.reap])
        signals.pool_shrank.send(sender=self.settings.name, count=len(plan.reap), reason=plan.reap[0].reason)

    def _launch(self, count: int, reason: str, now: float, *, warm: bool) -> None:
        try:
            runners = self._backend.launch(letter(self._deployment, self.settings, warm=warm), count)
        except LaunchError as exc:
            self._fail(str(exc), now)
            return
        except LaunchUnclear as exc:
            self._count(exc.launched, reason)
            self.roster.may_exist(len(exc.tokens), now)
            self._fail(str(exc), now)
            return
        self._count(runners, reason)

    def _count(self, runners: tuple[Runner, ...], reason: str) -> None:
        self.roster.launched(runners)
        for runner in runners:
            signals.runner_launched.send(sender=self.settings.name, runner=runner, reason=reason)
        if runners:
            signals.pool_grew.send(sender=self.settings.name, count=len(runners), reason=reason)
            logger.info("pool %s: launched %s", self.settings.name, ", ".join(runner.id for runner in runners))

    def _tell(self, change: Change, now: float, *, hears: bool) -> None:
        runner, name = change.runner, self.settings.name
        if change.event is Event.UP:
            seconds = now - runner.launched_at
            if not change.ours and seconds > self.settings.ec2.boot_timeout:
                logger.info("pool %s: adopted %s", name, runner.id)  # it came up for another parent
                return
            logger.info("pool %s: %s is up, %.1f s after its launch", name, runner.id, seconds)
            signals.runner_up.send(sender=name, runner=runner, seconds=seconds)
            return
        cause = "" if change.heard else self._boot_failure(runner, certain=change.ours and hears)
        if cause:
            self._fail(f"{runner.id} did not come up: {cause}", now)
        else:
            logger.info("pool %s: %s ended: %s", name, runner.id, change.reason or "it gave no reason")
        signals.runner_ended.send(sender=name, runner=runner, reason=cause or change.reason)

    def _boot_failure(self, runner: Runner, *, certain: bool) -> str:
        """Return why a runner that never spoke failed to boot; empty when it may have been well."""
        words = self._backend.last_words(runner.id)
        told = boot.failure(words)
        if told or not certain:
            return told or ""
        last = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "it left no output")
        return f"it was gone before its hello; last line: {last}"

    def _fail(self, cause: str, now: float) -> None:
        self.roster.failed(cause, now)
        logger.error("pool %s: launch failed: %s", self.settings.name, cause)
        signals.launch_failed.send(sender=self.settings.name, reason=cause)

    def _is_news(self, plan: Plan) -> bool:
        if plan.launch or plan.reap:
            return True
        return plan.held != (self.plan is not None and self.plan.held)


def _in_words(plan: Plan) -> str:
    parts = [f"launch {plan.launch}"] if plan.launch else []
    if plan.reap:
        parts.append(f"reap {len(plan.reap)}")
    return ", ".join(parts) or ("hold" if plan.held else "nothing to do")


def letter(deployment: Settings, pool: PoolSettings, *, warm: bool) -> Parent:
    """Return what a runner of this pool is told; `warm` for one of those that make up `min`."""
    return Parent(
        owner=deployment.owner,
        pool=pool.name,
        backend=deployment.backend,
        queues=pool.queues,
        concurrency=pool.max_concurrency or 1,
        limits=pool.limits(warm=warm),
        worker_options=pool.worker_options,
        warm=warm,
    )


def with_concurrency(settings: PoolSettings, backend: Backend) -> PoolSettings:
    """Return the pool with `max_concurrency` filled in by what the backend knows of its machines."""
    return dataclasses.replace(settings, max_concurrency=backend.concurrency(settings))
