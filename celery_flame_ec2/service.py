"""What does a parent do, round after round?"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from celery import Celery

from .backends.base import Backend
from .config import DAY, LONGEST_BOOT, Settings
from .errors import BackendError, DemandUnknown, FlameError, LeaseDenied, LeaseError, ListingPartial, SettingsError
from .holdings import open_holdings
from .lease import Guarded, Lease
from .notes import Left, Notes, Standing, me, read_overrides, write_overrides
from .orders import Order
from .override import Decisions, Request
from .overview import LeaseOverview, Overview, PoolOverview, pool_overview, total
from .policy import Demand, Unknown
from .pool import Policy, Pool, with_concurrency
from .presence import INSTANT, REPEAT, Word
from .queues import Depth, Measurement
from .reaper import Reaper, Sight
from .runner import Launch, Limits, Runner, RunnerState
from .salvage import Listing, Salvage
from .watch import Watch

logger = logging.getLogger(__name__)

#: Seconds between two lines about the same trouble.
COMPLAIN_EVERY = 60.0
#: Seconds a listing may be trusted while a runner boots or ends: a failed boot, or room below max, is seen soon.
CHANGING_TTL = 2.0
#: The same for each runner that is listed, and twice that in a steady fleet: to read one costs a hundredth of it. At
#: most the second number.
LISTED_TTL, LONGEST_TTL = 0.01, 30.0
#: What a runner may have been told whose pool the settings do not name any more: as long as they allow.
STRANGER = Limits(boot_timeout=LONGEST_BOOT, shutdown_timeout=DAY)
#: Seconds between two looks of a parent that stands by at what the one that acts noted.
NOTES_TTL = 10.0
#: Seconds between two looks at the messages that wait longest, which are taken whole.
WAITS_TTL = 5.0
#: Seconds between two looks of the parent that acts at what operators decided.
OVERRIDES_TTL = 3.0
NOT_YET = Unknown(why="the queues were not measured yet")


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """The parent's own `processes`: tasks they hold, how many more they could take now, and from which queues.

    `active` tasks run in them, and `taken` ever did.
    """

    held: int = 0
    free: int = 0
    queues: frozenset[str] = frozenset()
    processes: int = 0
    active: int = 0
    taken: int = 0

    def takes_only(self, queues: Iterable[str]) -> bool:
        """Tell whether they take tasks, and from no other queues than these."""
        return bool(self.queues) and self.queues <= set(queues)


class Service:
    """Looks, decides and acts for all pools of a deployment, once an interval. Belongs to the thread that runs it."""

    def __init__(
        self,
        app: Celery,
        settings: Settings,
        backend: Backend,
        *,
        lease: Lease | None = None,
        watch: Watch | None = None,
        local: Callable[[], Local] = Local,
        after_round: Callable[[Overview, float], None] | None = None,
        policy: Policy | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._lease = lease or Lease()
        self._notes = Notes(self._lease)
        #: What the parent that acts noted, and when that was read.
        self._left, self._left_at = Left(), float("-inf")
        #: What operators ask of this parent, from other threads, and when it was last read what they decided.
        self._requests: deque[Request] = deque()
        self._overrides_at = float("-inf")
        self._decisions = Decisions()
        self._term: int | None = None
        self._backend = Guarded(backend, self._acts, self._announce)
        self._local = local
        #: Told after each round how it stands and how long the round took; it must not wait for anything.
        self._after_round = after_round
        self._clock, self._monotonic = clock, monotonic
        self._stop = threading.Event()
        self._epoch = clock() - monotonic()
        holdings = open_holdings(app, settings.owner)
        self._watch = watch or Watch(app, owner=settings.owner, board=settings.board, holdings=holdings, clock=self.now)
        self._salvage = Salvage(holdings) if holdings is not None else None
        self._reaper = Reaper()
        decide = policy or load_policy(settings.policy)
        self.pools = [
            Pool(pool, deployment=settings, backend=self._backend, policy=decide, tell=self._tell, recall=self._recall)
            for pool in settings.pools
        ]
        self._by_name = {pool.settings.name: pool for pool in self.pools}
        #: The last time the queues answered.
        self.measurement: Measurement | None = None
        #: When the messages that wait longest were published, by queue, as far as known, and when that was read.
        self._published: Mapping[str, float] = {}
        self._published_at = float("-inf")
        self._last_demands: Mapping[str, Demand | Unknown] = {}
        #: Why it is unknown which runners a pool has, by its name.
        self._unlisted = dict.fromkeys(self._by_name, Unknown(why="the runners were not listed yet"))
        self._listed: tuple[Runner, ...] | None = None
        self._listed_at = float("-inf")
        #: Since when runners are heard, as of the last round, and when that was last found to be over.
        self._heard_since: float | None = None
        self._lost_at = float("-inf")
        self._complaints: dict[str, tuple[str, float]] = {}

    def run(self) -> None:
        """Do rounds until `stop`; an error in one is logged and the next is tried."""
        with self._lease.kept():
            with self._going_on("compute backend"):
                self._backend.prepare()
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
        self._watch.close()
        if self._salvage is not None:
            self._salvage.close()
        self._backend.close()

    def tick(self) -> None:
        """Do one round, and tell how it stands then."""
        began = self._monotonic()
        self._look_and_act()
        if self._after_round is not None:
            with self._going_on("status page"):
                self._after_round(self.overview(), self._monotonic() - began)

    def _look_and_act(self) -> None:
        """Look, then reap, decide and act pool by pool; trouble in one pool leaves the others alone.

        Without the lease it is only looked, so that the round with which this parent takes over knows the runners.
        """
        self._take_over()
        with self._going_on("what operators decided"):
            self._overrule()
        demands = self.look()
        if not self._acts():
            return
        with self._going_on("what runners held"):
            self._give_back()
        with self._going_on("reaper"):
            self._reap(demands)
        for pool in self.pools:
            with self._going_on(f"pool {pool.settings.name}"):
                self._round(pool, demands[pool.settings.name])
        with self._going_on("words of runners that are gone"):
            self._watch.tidy()
        with self._going_on("lease"):
            self._keep_notes()

    def look(self) -> Mapping[str, Demand | Unknown]:
        """Measure queues and list runners; return each pool's demand by its name."""
        began = self.now()  # a listing may take long, and shows what there was when it began
        mine = self._list(self._monotonic())
        self._watch.catch_up(anew=self._misses_some())
        words, since = self._watch.words, self._attends_since()
        for pool in self.pools:
            pool.look(mine.get(pool.settings.name), words, began, hears=self._hears(pool), since=since)
        self._last_demands = self._demands()
        return self._last_demands

    def request(self, request: Request) -> None:
        """Note in the next round what an operator asks for; from any thread."""
        self._requests.append(request)

    def listen(self, seconds: float) -> None:
        """Hear runners for so long; returns early where nothing can be heard."""
        self._watch.wait(seconds)

    @property
    def listing(self) -> Unknown | None:
        """Why it is unknown which runners exist; None when it is known of all pools."""
        return next(iter(self._unlisted.values()), None)

    def unlisted(self, pool: str) -> Unknown | None:
        """Why it is unknown which runners a pool has; None when it is known."""
        return self._unlisted.get(pool)

    def overview(self, left: Left | None = None) -> Overview:
        """Return how the deployment stands as of the last round; cheap, and from any thread.

        `left` is what the parent that acts noted. This one knows it if it acts itself, or else from its last look.
        """
        acts, now = self._acts(), self.now()
        if left is None:
            left = self._own_left() if acts else self._left
        pools = tuple(self._pool_overview(pool, left, now) for pool in self.pools)
        return Overview(
            at=round(now, 1),
            owner=self._settings.owner,
            backend=self._settings.backend,
            acts=acts,
            leader=left.leader or None,
            lease=self._lease_overview(),
            notes_unknown=None,
            overrides_unknown=left.decisions.doubt(self._by_name) or None,
            runners_unknown=self.listing.why if self.listing is not None else None,
            held=self.measurement.held if self.measurement is not None else None,
            cost=total(pool.cost for pool in pools),
            pools=pools,
        ).with_waits(self._published)

    def _pool_overview(self, pool: Pool, left: Left, now: float) -> PoolOverview:
        name = pool.settings.name
        standing = left.standings.get(name, Standing())
        return pool_overview(pool, self._last_demands.get(name, NOT_YET), self.measurement, standing, now)

    def _own_left(self) -> Left:
        standings = {pool.settings.name: pool.standing for pool in self.pools}
        return Left(leader=me(), standings=standings, decisions=self._decisions)

    def _lease_overview(self) -> LeaseOverview:
        left = self._lease.left
        bounded = left is not None and 0 < left < math.inf
        return LeaseOverview(
            place=self._lease.place,
            held=None if left is None else left > 0,
            seconds_left=round(left, 1) if left is not None and bounded else None,
        )

    def _hears(self, pool: Pool) -> bool:
        """Tell whether runners of a pool can be heard at all, as far as is known."""
        return pool.speaks and self._watch.hears(pool.settings.name)

    def now(self) -> float:
        """Return the seconds since the epoch, by a clock that is not set while the service runs."""
        return self._epoch + self._monotonic()

    # who acts

    def _take_over(self) -> None:
        before, self._term = self._term, self._lease.term if self._lease.holds() else None
        if self._term is None:
            for pool in self.pools:
                pool.plan = None
            self._read_along()
        elif self._term != before:
            self._listed_at = float("-inf")  # the parent that acted before may have done so a moment ago
            term, self._term = self._term, None  # until it is known what the parent before left
            with self._going_on("lease"):
                self._adopt()
                self._term = term  # not of the lease: it may have been another's while the notes were read

    def _overrule(self) -> None:
        """Note what operators ask for, and take in what they decided; what is not known stays as it was."""
        try:
            while self._requests:
                self._settle(self._requests[0])
                self._requests.popleft()
                self._overrides_at = float("-inf")
        finally:  # who may not write may read
            if self._monotonic() - self._overrides_at >= OVERRIDES_TTL:
                self._read_overrides()

    def _settle(self, request: Request) -> None:
        try:
            write_overrides(self._lease, request, self.now())
        except LeaseDenied:  # asked for again it would hold up the next, and one day overrule what was decided since
            self._requests.popleft()
            raise

    def _read_overrides(self) -> None:
        self._overrides_at = self._monotonic()
        self._heed(read_overrides(self._lease))

    def _heed(self, decided: Decisions) -> None:
        for pool in self.pools:
            pool.overrule(decided.of(pool.settings.name, pool.override))
        self._note_decisions(decided)

    def _note_decisions(self, decided: Decisions) -> None:
        before, self._decisions = self._decisions.doubt(self._by_name), decided
        if (doubt := decided.doubt(self._by_name)) != before:
            told = doubt or "known again"
            logger.warning("what operators decided: %s", told, extra={"event": "trouble", "reason": told})

    def _read_along(self) -> None:
        """Read now and then what the parent that acts notes, for who asks this one how it stands."""
        if self._monotonic() - self._left_at >= NOTES_TTL:
            self._left_at = self._monotonic()
            try:
                self._left = self._notes.read()
            except LeaseError as exc:
                self._complain("lease", exc)

    def _adopt(self) -> None:
        """Go on where the parent before stopped: with what it launched and nobody sees yet, and its failures."""
        left, now = self._notes.read(), self.now()
        for pool in self.pools:
            pool.adopt(left, now)
        self._note_decisions(left.decisions)

    @property
    def acts(self) -> bool:
        """Whether this parent is the one that acts; from any thread."""
        return self._acts()

    def _acts(self) -> bool:
        """Tell whether this parent has held the lease since this round began to look."""
        return self._lease.holds() and self._lease.term == self._term

    def _announce(self, launch: Launch) -> None:
        """Note a launch before it is asked for: whoever acts next must count it, seen or not."""
        self._notes.announce(launch)
        self._by_name[launch.pool].roster.asked(launch, self.now())

    def _keep_notes(self) -> None:
        now = self.now()
        in_flight = {token for pool in self.pools for token in pool.roster.in_flight(now)}
        self._notes.keep(in_flight, {pool.settings.name: pool.standing for pool in self.pools})

    # acting

    def _round(self, pool: Pool, demand: Demand | Unknown) -> None:
        pool.tell(self.now(), hears=self._watch.since is not None and self._hears(pool))
        plan = pool.decide(demand, self.now(), listing=self.unlisted(pool.settings.name))
        if pool.act(plan, self.now(), since=self._attends_since()):
            self._listed_at = float("-inf")

    def _give_back(self) -> None:
        """Give back what runners held that are gone; only ever on a complete listing, and a fresh one."""
        if self._listed is None or self._salvage is None:
            return
        listing = Listing(
            runner_ids={runner.id for runner in self._listed},
            place=self._backend.place() or self._settings.backend,
            age=self._monotonic() - self._listed_at,
            visible_within=self._backend.visible_within,
        )
        self._salvage.look(listing)

    def _tell(self, order: Order, queues: Sequence[str], runner_ids: Collection[str]) -> bool:
        try:
            self._watch.order(order, queues=queues, runner_ids=runner_ids)
        except FlameError as exc:
            self._complain("remote control", exc)
            return False
        return True

    def _recall(self, runner_ids: Collection[str]) -> Collection[str]:
        if not self._acts():  # the parent that acts now may count on them
            return ()
        try:
            return self._watch.recall(runner_ids)
        except FlameError as exc:
            self._complain("recall", exc)
            return ()

    def _reap(self, demands: Mapping[str, Demand | Unknown]) -> None:
        """End runners that will not end themselves; only ever on a complete listing, and a fresh one."""
        if self._listed is None:
            return
        reaped = self._reaper.look(self._sights(self._listed, demands), self.now(), self._clock())
        for reap in reaped:
            runner = reap.runner
            told = {"event": "reaping", "pool": runner.pool, "runner": runner.id, "reason": reap.reason}
            logger.warning("pool %s: reaping %s: %s", runner.pool, runner.id, reap.reason, extra=told)
        if reaped:
            self._listed_at = float("-inf")
            for reap in reaped:
                if pool := self._by_name.get(reap.runner.pool):
                    pool.roster.reaped(reap.runner.id, reap.reason)
            self._backend.terminate([reap.runner.id for reap in reaped])

    def _sights(self, listed: tuple[Runner, ...], demands: Mapping[str, Demand | Unknown]) -> Iterator[Sight]:
        """Yield every runner there is, also those of pools that the settings do not name any more."""
        words, since = self._watch.words, self._watch.attends(listed)
        waits = {name for name, demand in demands.items() if isinstance(demand, Demand) and demand.waiting}
        if self.measurement is not None and self.measurement.approximate:
            waits.clear()
        known = {runner.id: runner for pool in self.pools for runner in pool.roster.runners}
        for each in listed:
            pool, word = self._by_name.get(each.pool), words.get(each.id)
            yield Sight(
                runner=known.get(each.id, each),
                limits=pool.settings.limits(warm=each.warm) if pool else STRANGER,
                ours=pool is not None and pool.roster.is_ours(each.id),
                heard_at=word.heard_at if word else None,
                since=since[each.id] if each.speaks and (pool is None or pool.speaks) else None,
                taken=word.taken if word else 0,
                waits=each.pool in waits,
            )

    # looking

    def _wait(self, until: float) -> None:
        """Wait for the next round. It hears at once what runners said: by itself each word costs several times more."""
        self._watch.listen(INSTANT)  # so that they are heard from now on
        self._stop.wait(max(until - time.monotonic(), 0.0))

    def _list(self, now: float) -> dict[str, list[Runner]]:
        """List the runners, by pool, if the last listing is too old; a pool is left out where there is nothing new.

        `_listed` are all runners where this listing is a complete one, else None.
        """
        self._listed = None
        if now - self._listed_at < self._listing_ttl():
            return {}
        self._listed_at = now
        try:
            listed = self._listed = self._backend.runners()
            unlisted: Mapping[str, str] = {}
        except ListingPartial as exc:
            listed, unlisted = exc.runners, exc.unknown
            self._complain("compute backend", exc)
        except BackendError as exc:
            listed, unlisted = (), dict.fromkeys(self._by_name, str(exc))
            self._complain("compute backend", exc)
        unknown = {name: Unknown(why=f"the runners cannot be listed: {why}") for name, why in unlisted.items()}
        self._unlisted = {**self._complete(), **unknown}
        if self._listed is not None:
            self._watch.keep({runner.id for runner in listed} | self._known())
        return _by_pool(listed, self._by_name.keys() - unlisted.keys())

    def _listing_ttl(self) -> float:
        """Return for how long a listing is trusted: shorter while a runner comes or goes, longer the more there are."""
        states = [runner.state for pool in self.pools for runner in pool.roster.runners]
        steady_ttl = max(self._backend.listing_ttl, min(LONGEST_TTL, 2 * LISTED_TTL * len(states)))
        if all(state is RunnerState.UP for state in states):
            return steady_ttl
        return min(steady_ttl, max(CHANGING_TTL, LISTED_TTL * len(states)))

    def _misses_some(self) -> bool:
        """Tell whether a fresh listing lacks a runner: what it said last must be known before it is taken for gone."""
        return self._listed is not None and not self._known() <= {runner.id for runner in self._listed}

    def _known(self) -> set[str]:
        return {runner.id for pool in self.pools for runner in pool.roster.runners}

    def _complete(self) -> dict[str, Unknown]:
        """Find out what the settings leave to the machines; return why that is unknown, by pool."""
        unknown: dict[str, Unknown] = {}
        for pool in self.pools:
            try:
                if pool.settings.max_concurrency is None:
                    pool.settings = with_concurrency(pool.settings, self._backend)
            except BackendError as exc:
                self._complain("compute backend", exc)
                unknown[pool.settings.name] = Unknown(why=f"how many tasks a runner takes is unknown: {exc}")
        return unknown

    def _demands(self) -> Mapping[str, Demand | Unknown]:
        queues = [queue for pool in self.pools for queue in pool.settings.queues]
        try:
            measurement = self.measurement = self._watch.measure(queues)
        except DemandUnknown as exc:
            self._complain("broker", exc)
            for pool in self.pools:
                pool.miss()
            return {pool.settings.name: Unknown(why=f"the queues' depth is unknown: {exc}") for pool in self.pools}
        self._look_at_oldest(measurement.depths)
        local, demands = self._local(), {}
        words = self._watch.words
        self._notice_deafness()
        for pool in self.pools:
            demand = self._demand(pool, measurement, local)
            self._learn(pool, demand, local, words)
            demand = dataclasses.replace(demand, past=pool.past)
            # What the parent's processes will take from this pool they cannot take from the next.
            local = dataclasses.replace(local, free=local.free - demand.local_free)
            demands[pool.settings.name] = demand
        return demands

    def _look_at_oldest(self, depths: Mapping[str, Depth]) -> None:
        """Look now and then since when tasks wait; no decision rests on it, so that trouble is only told."""
        now = self._monotonic()
        if now - self._published_at < WAITS_TTL:
            return
        self._published_at, self._published = now, {}
        try:
            self._published = self._watch.published([queue for queue, depth in depths.items() if depth.waiting])
        except DemandUnknown as exc:
            self._complain("since when tasks wait", exc)

    def _demand(self, pool: Pool, measurement: Measurement, local: Local) -> Demand:
        depths = [measurement.depths[queue] for queue in pool.settings.queues]
        running = sum(runner.active for runner in pool.roster.runners if runner.state is not RunnerState.ENDING)
        held = [depth.held for depth in depths if depth.held is not None]
        if len(held) == len(depths):  # of the same answer as what waits, and so no task is in both or in neither
            running = max(0, sum(held) - local.held)
        here = sum(measurement.depths[queue].waiting for queue in pool.settings.queues if queue in local.queues)
        waiting = sum(depth.waiting for depth in depths)
        alone = local.processes if local.takes_only(pool.settings.queues) else 0
        return Demand(waiting=waiting, running=running, local_free=min(local.free, here), local=alone)

    def _learn(self, pool: Pool, demand: Demand, local: Local, words: Mapping[str, Word]) -> None:
        now = self.now()
        if not self._knows(pool, words, now):
            return pool.miss()
        own = (local.active, local.taken) if local.takes_only(pool.settings.queues) else None
        return pool.learn(now, waiting=demand.waiting, running=demand.running, local=own)

    def _notice_deafness(self) -> None:
        if self._heard_since is not None and self._watch.since != self._heard_since:
            self._lost_at = self.now()
        self._heard_since = self._watch.since

    def _attends_since(self) -> float | None:
        """Return since when runners are heard without a break: 0 where there was none yet, None while there is one."""
        return self._watch.since if self._lost_at > float("-inf") else 0.0

    def _knows(self, pool: Pool, words: Mapping[str, Word], now: float) -> bool:
        """Tell whether what runners of a pool took is known: nothing, or each of them told it since it is heard."""
        runners, since = pool.roster.runners, self._watch.since
        if all(each.state is RunnerState.BOOTING for each in runners):
            return True
        if since is None or not self._hears(pool):
            return False
        last_words = (words[each.id].heard_at for each in runners if each.id in words)
        return now - since > 2 * REPEAT or all(at >= self._lost_at for at in last_words)

    # trouble

    @contextlib.contextmanager
    def _going_on(self, about: str) -> Iterator[None]:
        """Complain of what goes wrong and go on, with a new listing; a policy or receiver of the user's may raise."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001  whatever it is, it must not stop the rest of the round
            self._listed_at = float("-inf")
            self._complain(about, exc)

    def _complain(self, about: str, exc: Exception) -> None:
        text, now = str(exc), self._monotonic()
        before, at = self._complaints.get(about, ("", float("-inf")))
        if text != before or now - at >= COMPLAIN_EVERY:
            self._complaints[about] = (text, now)
            shown = None if isinstance(exc, FlameError) else exc
            logger.error("%s: %s", about, text, exc_info=shown, extra={"event": "trouble", "reason": text})


def _by_pool(runners: Iterable[Runner], names: Iterable[str]) -> dict[str, list[Runner]]:
    found: dict[str, list[Runner]] = {name: [] for name in names}
    for runner in runners:
        if runner.pool in found:
            found[runner.pool].append(runner)
    return found


def copied_policy(path: str) -> Policy:
    """Load a policy for a run that begins without memories: it may be an object that keeps what it saw.

    Raises:
        SettingsError: there is none, or it cannot be copied.
    """
    try:
        return copy.deepcopy(load_policy(path))
    except (TypeError, RecursionError) as exc:  # the latter from a client of boto3
        raise SettingsError(
            [
                f"settings flame_*: option 'policy' names {path!r}, which cannot be copied, as tests and simulations "
                f"do: {exc}; give it __deepcopy__"
            ]
        ) from exc


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
