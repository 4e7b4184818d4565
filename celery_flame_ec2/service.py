"""What does a parent do, round after round?"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery import Celery
from kombu.connection import Connection

from .backends.base import Backend
from .broker import has_fanout, open_connection
from .config import Settings
from .errors import BackendError, DemandUnknown, FlameError, SettingsError
from .lease import Guarded, Lease
from .policy import CAPACITY, Demand, Unknown
from .pool import Policy, Pool, with_concurrency
from .presence import INSTANT, Presence, Word
from .queues import Measurement, measure
from .runner import Runner, RunnerState

logger = logging.getLogger(__name__)

#: Seconds any one wait for the broker may last.
BROKER_TIMEOUT = 5.0
#: Seconds between two lines about the same trouble.
COMPLAIN_EVERY = 60.0
#: Seconds a listing may be trusted while a runner boots or ends: a failed boot, or room below max, is seen soon.
CHANGING_TTL = 2.0
#: Seconds between two looks at whether the service was told to stop.
PATIENCE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """The parent's own processes: tasks they hold, how many more they could take now, and from which queues."""

    held: int = 0
    free: int = 0
    queues: frozenset[str] = frozenset()


class Service:
    """Looks, decides and acts for all pools of a deployment, once an interval. Belongs to the thread that runs it."""

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        backend: Backend,
        *,
        lease: Lease | None = None,
        local: Callable[[], Local] = Local,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._lease = lease or Lease()
        self._term: int | None = None
        self._backend = Guarded(backend, self._acts)
        self._local = local
        self._clock, self._monotonic = clock, monotonic
        self._stop = threading.Event()
        self._connection: Connection = open_connection(app, timeout=BROKER_TIMEOUT)
        self._presence = _presence(app, self._connection, settings, clock)
        policy = load_policy(settings.policy)
        self.pools = [Pool(pool, deployment=settings, backend=self._backend, policy=policy) for pool in settings.pools]
        #: The last time the queues answered.
        self.measurement: Measurement | None = None
        self._listing: Unknown | None = Unknown(why="the runners were not listed yet")
        self._listed_at = float("-inf")
        self._complaints: dict[str, tuple[str, float]] = {}

    def run(self) -> None:
        """Do rounds until `stop`; an error in one is logged and the next is tried."""
        with self._lease.kept():
            while not self._stop.is_set():
                next_round = time.monotonic() + self._settings.interval
                try:
                    self.tick()
                except Exception:  # the thread must outlive whatever a round meets: children depend on being counted
                    logger.exception("a round failed; the next one follows in %g s", self._settings.interval)
                self._wait(next_round)
        self.close()

    def stop(self) -> None:
        """Ask `run` to return, from any thread. Runners go on."""
        self._stop.set()

    def close(self) -> None:
        """Let go of broker and backend."""
        if self._presence is not None:
            self._presence.close()
        self._connection.release()
        self._backend.close()

    def tick(self) -> None:
        """Do one round: look, then decide and act pool by pool; trouble in one pool leaves the others alone.

        Without the lease it is only looked, so that the round with which this parent takes over knows the runners.
        """
        self._take_over()
        demands = self.look()
        for pool in self.pools if self._acts() else ():
            try:
                self._round(pool, demands[pool.settings.name])
            except Exception as exc:  # noqa: BLE001  a policy or a receiver of the user's own may raise anything
                self._listed_at = float("-inf")
                self._complain(f"pool {pool.settings.name}", exc)

    def _round(self, pool: Pool, demand: Demand | Unknown) -> None:
        pool.tell(self._clock(), hears=self.since is not None)
        plan = pool.decide(demand, self._clock(), listing=self._listing, since=self.since)
        if pool.act(plan, self._clock()):
            self._listed_at = float("-inf")

    def look(self) -> Mapping[str, Demand | Unknown]:
        """Measure queues and list runners; return each pool's demand by its name."""
        listed = self._list(self._monotonic())
        words: Mapping[str, Word] = {}
        if self._presence is not None:
            self._presence.catch_up()
            words = self._presence.words
        for pool in self.pools:
            mine = None if listed is None else [runner for runner in listed if runner.pool == pool.settings.name]
            pool.look(mine, words, self._clock())
        return self._demands()

    def listen(self, seconds: float) -> None:
        """Hear runners for so long; returns early where nothing can be heard."""
        deadline = time.monotonic() + seconds
        while self._presence is not None and (left := deadline - time.monotonic()) > 0:
            if not self._presence.listen(left) and self.since is None:
                return

    @property
    def since(self) -> float | None:
        """When presence began to be heard, in seconds since the epoch; None while it is not."""
        return self._presence.listening_since if self._presence is not None else None

    @property
    def listing(self) -> Unknown | None:
        """Why it is unknown which runners exist; None when it is known."""
        return self._listing

    def snapshot(self) -> dict[str, Any]:
        """Return the last round as plain values, for `celery inspect stats`; cheap, from any thread."""
        return {pool.settings.name: _standing(pool) for pool in self.pools}

    def _take_over(self) -> None:
        before, self._term = self._term, self._lease.term if self._lease.holds() else None
        if self._term is None:
            for pool in self.pools:
                pool.plan = None
        elif self._term != before:
            self._listed_at = float("-inf")  # the parent that acted before may have done so a moment ago

    def _acts(self) -> bool:
        """Tell whether this parent has held the lease since this round began to look."""
        return self._lease.holds() and self._lease.term == self._term

    def _wait(self, until: float) -> None:
        """Hear runners until the next round; at least for a moment, however late this one was."""
        while not self._stop.is_set():
            patience = min(max(until - time.monotonic(), INSTANT), PATIENCE)
            if self._presence is not None:
                self._presence.listen(patience)
            if self.since is None:
                self._stop.wait(patience)
            if time.monotonic() >= until:
                return

    def _list(self, now: float) -> tuple[Runner, ...] | None:
        """List the runners if the last listing is too old; None where there is nothing new."""
        if now - self._listed_at < self._listing_ttl():
            return None
        self._listed_at = now
        try:
            listed = self._backend.runners()
        except BackendError as exc:
            self._listing = Unknown(why=f"the runners cannot be listed: {exc}")
            self._complain("compute backend", exc)
            return None
        self._listing = self._complete()
        if self._presence is not None:
            self._presence.forget(self._presence.words.keys() - {runner.id for runner in listed} - self._known())
        return listed

    def _listing_ttl(self) -> float:
        """Return for how long a listing may be trusted: shorter while a runner comes or goes."""
        changing = any(runner.state is not RunnerState.UP for pool in self.pools for runner in pool.roster.runners)
        return min(self._backend.listing_ttl, CHANGING_TTL) if changing else self._backend.listing_ttl

    def _known(self) -> set[str]:
        return {runner.id for pool in self.pools for runner in pool.roster.runners}

    def _complete(self) -> Unknown | None:
        """Find out what the settings leave to the machines; return why that is unknown."""
        try:
            for pool in self.pools:
                if pool.settings.max_concurrency is None:
                    pool.settings = with_concurrency(pool.settings, self._backend)
        except BackendError as exc:
            self._complain("compute backend", exc)
            return Unknown(why=f"how many tasks a runner takes is unknown: {exc}")
        return None

    def _demands(self) -> Mapping[str, Demand | Unknown]:
        queues = [queue for pool in self.pools for queue in pool.settings.queues]
        try:
            measurement = self.measurement = measure(self._connection, queues)
        except DemandUnknown as exc:
            self._complain("broker", exc)
            if self._presence is not None:
                self._presence.close()  # a broker that stands still drops no connection, and its silence says nothing
            return {pool.settings.name: Unknown(why=f"the queues' depth is unknown: {exc}") for pool in self.pools}
        local, demands = self._local(), {}
        for pool in self.pools:
            demand = self._demand(pool, measurement, local)
            # What the parent's processes will take from this pool they cannot take from the next.
            local = dataclasses.replace(local, free=local.free - demand.local_free)
            demands[pool.settings.name] = demand
        return demands

    def _demand(self, pool: Pool, measurement: Measurement, local: Local) -> Demand:
        depths = [measurement.depths[queue] for queue in pool.settings.queues]
        running = sum(runner.active for runner in pool.roster.runners if runner.state in CAPACITY)
        if self._presence is None:
            running = max(0, sum(depth.held or 0 for depth in depths) - local.held)
        here = sum(measurement.depths[queue].waiting for queue in pool.settings.queues if queue in local.queues)
        waiting = sum(depth.waiting for depth in depths)
        return Demand(waiting=waiting, running=running, local_free=min(local.free, here))

    def _complain(self, about: str, exc: Exception) -> None:
        text, now = str(exc), self._monotonic()
        before, at = self._complaints.get(about, ("", float("-inf")))
        if text != before or now - at >= COMPLAIN_EVERY:
            self._complaints[about] = (text, now)
            logger.error("%s: %s", about, text, exc_info=None if isinstance(exc, FlameError) else exc)


def load_policy(path: str) -> Policy:
    """Import the callable that `flame_policy` names.

    Raises:
        SettingsError: there is none.
    """
    module, _, name = path.partition(":")
    try:
        policy: Policy = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise SettingsError(
            [f"settings flame_*: option 'policy' names {path!r}, which cannot be loaded: {exc}"]
        ) from exc
    return policy


def _presence(app: Celery, connection: Connection, settings: Settings, clock: Callable[[], float]) -> Presence | None:
    if not has_fanout(connection):
        return None
    return Presence(
        app, owner=settings.owner, connect=lambda: open_connection(app, timeout=BROKER_TIMEOUT), clock=clock
    )


def _standing(pool: Pool) -> dict[str, Any]:
    states, plan = [runner.state.value for runner in pool.roster.runners], pool.plan
    return {
        "runners": {state: states.count(state) for state in sorted(set(states))},
        "decision": plan.reason if plan is not None else None,
    }
