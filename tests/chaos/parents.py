"""What do parents do in a virtual world, and what is done to them?"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.errors import FlameError, LeaseError
from celery_flame_ec2.lease import Lease
from celery_flame_ec2.lease.base import LOOK, RENEW, REQUEST_TIMEOUT
from celery_flame_ec2.notes import LAUNCH
from celery_flame_ec2.reaper import SECOND_LOOK
from celery_flame_ec2.runner import Runner
from celery_flame_ec2.service import Service
from celery_flame_ec2.testing.store import Cell, MemoryStore
from celery_flame_ec2.testing.watch import MemoryWatch
from tests.chaos.ec2 import READ_TIMEOUT, Lost, VirtualClients, wire
from tests.chaos.world import DOUBT, OWNER, World

ACTS = frozenset({"RunInstances", "TerminateInstances"})
#: What a parent asks of the lease's store in the middle of a round.
NOTES = frozenset({"notes", "note"})
#: Seconds after which a request to the lease's store that nobody answers has failed: at once, or when time is up.
STORE_FAILS = (0.2, REQUEST_TIMEOUT)
#: Launches that can be foretold: what is tried here is launching, not deciding. It recalls what no sane policy would.
POLICY = "tests.depth:hasty"
LOGGER = logging.getLogger("celery_flame_ec2")


#: Seconds that a parent stands still at most between its leave to launch and the launch.
STILL = 25
#: Seconds within which a parent ends a silent machine of its own, once it is overdue, and tells it again that lives on.
SOON, TOLD_AGAIN = 20.0, 120.0


class Crash(BaseException):
    """Raised where a parent dies, in the middle of whatever it does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ambush:
    """What happens to the next call of an action, before EC2 (for NOTES the lease's store) does it or after.

    Its sender crashes, or stands still for so many `seconds`, and then its answer may be `lost`.
    """

    action: str
    done: bool
    crash: bool = False
    seconds: float = 0.0
    lost: bool = False


class Wall:
    """One machine's wall clock: it is off by `offset` seconds, and may be set."""

    def __init__(self, true: Callable[[], float], offset: float) -> None:
        self._true, self.offset = true, offset

    def __call__(self) -> float:
        return self._true() + self.offset


class BoardStore(MemoryStore):
    """One parent's way to the board. `meet` is told of each request that a round makes, before it is done and after."""

    def __init__(self, board: Cell, meet: Callable[[str, bool], None]) -> None:
        super().__init__(board)
        self._meet = meet

    def notes(self) -> dict[str, str]:
        with self._met("notes"):
            return super().notes()

    def note(self, changes: Mapping[str, str | None]) -> None:
        with self._met("note"):
            super().note(changes)

    def overrides(self) -> dict[str, str]:
        with self._met("overrides"):
            return super().overrides()  # no operator takes part

    @contextlib.contextmanager
    def _met(self, action: str) -> Iterator[None]:
        try:
            self._meet(action, False)
            yield
            self._meet(action, True)
        except Lost:
            raise LeaseError("the board's answer got lost") from None


class WatchedBackend(Ec2Backend):
    """A backend that remembers what it was asked: the last complete listing, and whom it was told to end when."""

    def watch(self, true: Callable[[], float]) -> WatchedBackend:
        self._true = true
        self.listed: frozenset[str] = frozenset()
        self.listed_at = float("-inf")
        self.told: dict[str, float] = {}
        return self

    def runners(self) -> tuple[Runner, ...]:
        found = super().runners()
        self.listed, self.listed_at = frozenset(runner.id for runner in found), self._true()
        return found

    def terminate(self, ids: Collection[str]) -> None:
        self.told |= dict.fromkeys(ids, self._true())
        super().terminate(ids)


@dataclass(kw_only=True, slots=True, eq=False)
class VirtualParent:
    """One parent process."""

    name: str
    service: Service
    lease: Lease
    store: BoardStore
    watch: MemoryWatch
    wall: Wall
    backend: WatchedBackend
    #: When each runner was first in a complete listing, and since when one is silent for longer than it may.
    first_listed: dict[str, float] = field(default_factory=dict)
    overdue: dict[str, float] = field(default_factory=dict)
    looked_at: float = 0.0
    paused: bool = False
    dead: bool = False

    @property
    def runs(self) -> bool:
        return not self.paused and not self.dead


class Deployment:
    """All parents of one owner, in one world; also what happens to their calls on the way."""

    def __init__(self, pools: tuple[PoolSettings, ...], *, seed: int) -> None:
        self.world = World(pools, seed=seed, around=self)
        self.board = Cell(self.world.clock)
        self.parents: list[VirtualParent] = []
        self.ambushes: list[Ambush] = []
        self.slow = False
        self.ticks = 0
        self._names = itertools.count(1)
        self.world.looked_at = lambda: self._caller().looked_at
        wire().ec2, wire().callers = self.world.ec2, []

    # parents

    def start(self, offset: float = 0.0) -> VirtualParent:
        """Start one more parent, with the settings as they are now, where the wall clock is off by `offset` seconds."""
        world, wall = self.world, Wall(self.world.clock, offset)
        settings = Settings(backend="ec2", owner=OWNER, policy=POLICY, pools=tuple(world.pools.values()))
        store = BoardStore(self.board, lambda action, done: self._meet(self._caller(), action, done=done))
        # Like the service's own clock: set once, at the start.
        lease, watch = Lease(store, clock=world.clock), MemoryWatch(world, Wall(world.clock, offset))
        backend = WatchedBackend(
            settings, environ={}, clock=wall, ticks=world.clock, jitter=world.random.random,
            clients=VirtualClients(),
        ).watch(world.clock)  # fmt: skip
        service = Service(
            _app(), settings, backend, lease=lease, watch=watch, clock=wall, monotonic=world.clock,  # type: ignore[arg-type]
        )  # fmt: skip
        name = f"parent {next(self._names)}"
        parent = VirtualParent(
            name=name, service=service, lease=lease, store=store, watch=watch, wall=wall, backend=backend
        )
        self.parents.append(parent)
        self._keep_lease(parent)
        watch.listen(0.0)
        return parent

    def crash(self, parent: VirtualParent) -> None:
        parent.dead = True
        self.parents.remove(parent)

    def stop(self, parent: VirtualParent) -> None:
        """Stop it as its user would: the lease is given up."""
        parent.lease.release()
        parent.service.close()
        self.crash(parent)

    def deafen(self, parent: VirtualParent, seconds: float) -> None:
        """Have this parent's connection stand for so long, and bring nothing."""
        parent.watch.deaf = True
        self.world.later(seconds, lambda: setattr(parent.watch, "deaf", False))

    def _keep_lease(self, parent: VirtualParent) -> None:
        """Renew it now and again and again, as the parent's own thread does while a round lasts."""
        if parent.dead:
            return
        if not parent.paused:
            parent.lease.renew()
        self.world.later(RENEW if parent.lease.holds() else LOOK, lambda: self._keep_lease(parent))

    # time

    def round(self, seconds: float) -> None:
        """Let every parent that runs do one round, then let time pass."""
        for parent in list(self.parents):
            if parent.runs:
                self._tick(parent)
        self.world.advance(seconds)
        for parent in self.parents:
            if parent.runs:
                parent.watch.listen(0.0)

    def _tick(self, parent: VirtualParent) -> None:
        self.ticks += 1
        parent.looked_at = self.world.clock.now
        wire().callers.append(parent.name)
        try:
            with self._telling():
                parent.service.tick()
            self._check_silent(parent)
        except Crash:
            self.crash(parent)
        except FlameError as exc:
            self.world.wrongs.append(f"a round of {parent.name} failed: {exc!r}")
        finally:
            wire().callers.pop()

    def _check_silent(self, parent: VirtualParent) -> None:
        """Note a machine that never spoke and lives for longer than it may, by what this parent saw in this round.

        Its reaper looks at some moment of a round: a while begins at a round's end, and ends at a listing.
        """
        backend, since = parent.backend, parent.watch.since
        if not parent.service._acts() or backend.listed_at < parent.looked_at:
            return
        now, ended = backend.listed_at, self.world.clock.now
        parent.first_listed = {one: parent.first_listed.get(one, ended) for one in backend.listed}
        silent = {}
        for one in backend.listed & self.world.machines.keys():
            machine = self.world.machines[one]
            if since is None or machine.speaks or not machine.alive or one in parent.watch.words:
                continue
            # `since` is by the parent's clock
            heard_from = max(parent.first_listed[one], since - parent.watch.clock.offset)
            if now - heard_from > machine.pool.ec2.boot_timeout:
                silent[one] = machine
        parent.overdue = {one: parent.overdue.get(one, ended) for one in silent}
        for one, since_when in parent.overdue.items():
            patience = SOON if self._launched(parent, one) else SECOND_LOOK
            told_at = backend.told.get(one, float("-inf"))
            if now - since_when > patience + DOUBT and now - told_at > TOLD_AGAIN:
                self.world.wrongs.append(f"{one} is silent for too long, and {parent.name} lets it live")

    def _launched(self, parent: VirtualParent, runner_id: str) -> bool:
        return any(pool.roster.is_ours(runner_id) for pool in parent.service.pools)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Note every error that the service caught although nobody raised it on purpose."""
        handler = _Unexpected(self.world.wrongs)
        LOGGER.addHandler(handler)
        try:
            yield
        finally:
            LOGGER.removeHandler(handler)

    # calls on their way

    def sent(self, action: str, body: Mapping[str, Any]) -> None:
        parent = self._caller()
        if action in ACTS and not parent.store.is_mine:
            self.world.wrongs.append(f"{parent.name} sent {action} and does not hold the lease")
        self._meet(parent, action, done=False)
        self.world.advance(self._latency())

    def answered(self, action: str, body: Mapping[str, Any]) -> None:
        self.world.advance(self._latency())
        self._meet(self._caller(), action, done=True)

    def _latency(self) -> float:
        return self.world.random.uniform(2.0, 6.0) if self.slow else self.world.random.uniform(0.01, 0.4)

    def _caller(self) -> VirtualParent:
        return next(parent for parent in self.parents if parent.name == wire().callers[-1])

    def _meet(self, parent: VirtualParent, action: str, *, done: bool) -> None:
        found = [each for each in self.ambushes if (each.action, each.done) == (action, done)]
        if not found:
            return
        ambush, began = found[0], self.world.clock.now
        self.ambushes.remove(ambush)
        if ambush.crash:
            raise Crash
        if ambush.seconds:
            self._stand_still(parent, ambush.seconds)
            if action in ACTS and not done and self.world.clock.now - began > STILL:
                raise Crash  # the others' calls took so long that nobody counts what it would launch now
        if ambush.lost:
            waits = STORE_FAILS if action in NOTES else (0.2, 0.2, READ_TIMEOUT)
            self.world.advance(self.world.random.choice(waits))
            raise Lost

    def _stand_still(self, parent: VirtualParent, seconds: float) -> None:
        """Let the other parents go on while one stands still in a call; their last round may last longer."""
        until = self.world.clock.now + seconds
        parent.paused = True
        while self.world.clock.now < until:
            self.round(min(5.0, seconds))
        parent.paused = False

    # the end

    def heal(self) -> None:
        """End every fault that is under way; machines that are ill stay so, and listings lag as they did."""
        world, conditions = self.world, self.world.ec2.conditions
        self.ambushes.clear()
        self.slow = self.board.silent = world.silent = world.slow_boots = False
        world.ills.clear()
        world.failures.clear()
        world.ec2.refusals.clear()
        world.ec2.fails_from_page = None
        for limits in (conditions.room, conditions.addresses, conditions.quotas):
            limits.clear()
        conditions.requests = conditions.resources = {}
        for parent in self.parents:
            parent.watch.deaf = False
        world.feed()

    def settle(self, horizon: float = 4 * 3600.0) -> str:
        """Heal everything and let time pass until nothing is left to do; return what is left, empty when nothing."""
        self.heal()
        self.world.busy = False
        for parent in self.parents:
            parent.paused = False
        if not self.parents:
            self.start()
        until, seconds = self.world.clock.now + horizon, 1.0
        while (left := self.left()) and self.world.clock.now < until:
            self.round(seconds)
            seconds = min(seconds * 1.1, 20.0)
        return left

    def left(self) -> str:
        """Return in words what is not as it should be in the end."""
        world = self.world
        problems = []
        for name, pool in world.pools.items():
            if tasks := world.outstanding(name):
                problems.append(f"{tasks} tasks of {name}")
            mine = [each for each in world.ec2.instances.values() if each.pool == name and each not in world.strangers]
            alive = [each.id for each in mine if each.state not in {"terminated", "shutting-down"}]
            if len(alive) != pool.min:
                problems.append(f"{len(alive)} instances of {name}, not {pool.min}: {alive}")
        notes = [name for name in self.board.notes if name.startswith(LAUNCH)]
        return "; ".join(problems + notes)


class _Unexpected(logging.Handler):
    """Notes what was logged with a traceback."""

    def __init__(self, wrongs: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._wrongs = wrongs

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            self._wrongs.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@functools.cache
def _app() -> Celery:
    return Celery("shop", broker="memory://", set_as_current=False)
