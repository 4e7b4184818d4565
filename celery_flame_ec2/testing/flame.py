"""How does a test drive an app's pools, and look at what they do?"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any

from celery import Celery

from .. import simulate as simulator
from ..config import Settings
from ..errors import SettingsError
from ..options import suggestion
from ..overview import Overview, PoolOverview
from ..policy import Plan
from ..pool import in_words
from ..service import copied_policy
from ..settings import laid_over, settings_of
from ..simulate import Conditions, Outcome, Runtime, fixed
from ..simulate.world import EPOCH, SETTLED
from .backend import ladder_of
from .clock import Clock
from .machine import Machine
from .parents import RunningParent
from .shortage import Shortage
from .store import Cell
from .task import Task
from .world import BadBoot, World

#: Seconds that a runner gets to be gone in, beside what its settings allow: the reaper looks twice.
PATIENCE = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What the parent that acts decided for a pool, `at` so many seconds after the test's start."""

    at: float
    pool: str
    plan: Plan

    def __str__(self) -> str:
        return f"{self.at:g} s, {self.pool}: {in_words(self.plan)}"


class Flame:
    """An app's pools, by its own settings and policy, over runners that are values, by a clock that a test advances.

    What decides and acts is what `flame serve` runs: its rounds, its policy, its reaper, its lease. Broker and EC2 are
    played. Times are seconds.
    """

    def __init__(
        self,
        app: Celery,
        changes: Mapping[str, Any] | None = None,
        *,
        conditions: Conditions | None = None,
        start: datetime | None = None,
        seed: int = 0,
    ) -> None:
        """Start one parent of an app at some moment, with `changes` laid over its `flame_` settings.

        Raises:
            SettingsError: they cannot work.
        """
        self.app, self.settings = app, _settings(app, changes or {})
        self._began = EPOCH if start is None else start.timestamp()
        self.clock = Clock(self._began)
        self._random = Random(seed)  # noqa: S311  nothing secret is drawn
        self._world = World(self.clock, conditions or Conditions(boot_spread=0.0), seed=seed)
        self._world.most = {pool.name: pool.max for pool in self.settings.pools}
        self._cell = Cell(self.clock)
        #: Parents that run.
        self.parents: list[RunningParent] = []
        #: What was decided that changed something, in order.
        self.decisions: list[Decision] = []
        #: Loads that have not come to their end.
        self._loads = 0
        self._last_news: dict[str, tuple[float, str]] = {}
        self.start_parent()

    def __str__(self) -> str:
        """Say how it stands, for the message of an assertion."""
        pools = [self._in_words(pool.name) for pool in self.settings.pools]
        return f"at {self.now:g} s: " + "; ".join(pools)

    # time

    @property
    def now(self) -> float:
        """Return how many seconds have passed since the test's start."""
        return self.clock() - self._began

    def advance(self, seconds: float) -> None:
        """Let time pass: tasks run, machines boot and end, parents do their rounds.

        Raises whatever a policy raised meanwhile, or a receiver of signals.
        """
        self.clock.advance(seconds)
        self._raise_unexpected()

    def until(self, condition: Callable[[], object], *, within: float = 600.0) -> float:
        """Let time pass until something holds, and return how many seconds that took.

        Raises:
            AssertionError: it does not hold in time.
        """
        began = self.now
        while not condition():
            if self.now - began >= within:
                raise AssertionError(f"it does not hold within {within:g} s; {self}")
            self.advance(min(self.settings.interval, within - (self.now - began)))
        return self.now - began

    def settle(self, *, within: float = 3600.0) -> float:
        """Let time pass until all tasks are over and no runner is left beyond `min`; return how long that took.

        Raises:
            AssertionError: some are still there.
        """
        return self.until(lambda: not (self._loads or self._world.outstanding or self._beyond_min()), within=within)

    # work

    def push(self, queue: str | Any, tasks: int = 1, *, runtime: float | Runtime = 10.0) -> list[Task]:
        """Send so many tasks at once to a queue, or for a task of the app's to the queue that its routes name."""
        draw = runtime if callable(runtime) else fixed(runtime)
        return [self._arrive(queue, draw(self._random, self.now)) for _ in range(tasks)]

    def play(self, queue: str | Any, load: Iterable[simulator.Task]) -> None:
        """Send the tasks of a load when they arrive, counted from now; see `celery_flame_ec2.simulate`."""
        self._loads += 1
        self._play(queue, iter(load), self.now)

    @property
    def tasks(self) -> list[Task]:
        """Return all tasks that were sent, in the order of their arrival."""
        return list(self._world.tasks)

    def waits(self, queue: str | Any | None = None) -> list[float]:
        """Return how long tasks waited that have begun: all, or those of a queue, or of the one a task goes to."""
        name = None if queue is None else self._queue(queue)
        return [task.wait for task in self._world.tasks if name in (None, task.queue) and task.wait is not None]

    # what there is

    @property
    def overview(self) -> Overview:
        """Return how the deployment stands as the parent that acts sees it: what `flame status --json` shows."""
        acting = [parent.service for parent in self.parents if parent.service.acts]
        if not acting and not self.parents:
            raise AssertionError("no parent runs: start_parent() starts one")
        return (acting or [self.parents[0].service])[0].overview()

    def pool(self, name: str) -> PoolOverview:
        """Return how one pool stands as the parent that acts sees it."""
        self.settings.pool(name)
        return next(pool for pool in self.overview.pools if pool.name == name)

    def runners(self, pool: str | None = None) -> list[Machine]:
        """Return the runners there really are, whatever a parent sees of them."""
        return self._world.living(None if pool is None else self.settings.pool(pool).name)

    @property
    def launched(self) -> list[Machine]:
        """Return every runner that ever was, in the order of their launch."""
        return list(self._world.machines.values())

    def peak(self, pool: str) -> int:
        """Return the most runners a pool had at once."""
        return self._world.peak[self.settings.pool(pool).name]

    # what goes wrong

    @property
    def conditions(self) -> Conditions:
        """How machines behave; set others at any time."""
        return self._world.conditions

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        self._world.conditions = conditions

    def refuse(self, code: str, **what: Any) -> Shortage:
        """Have EC2 refuse launches by one of its codes, such as "InsufficientInstanceCapacity"; see `Shortage`.

        It lasts until its `end()`, or for a `with` block.

        Raises:
            ValueError: it would never hold, or the code is none that is known.
        """
        shortage = Shortage(code=code, **what)
        pools = [pool.name for pool in self.settings.pools]
        shortage.check((name, offer) for name in pools for offer in ladder_of(self.settings, name))
        self._world.shortages.append(shortage)
        return shortage

    def lose_answers(self, times: int = 1, **what: Any) -> Shortage:
        """Have launches go well whose answers get lost."""
        return self.refuse("RequestTimeout", times=times, unanswered=True, **what)

    def fail_boots(self, count: int = 1, *, cause: str = "", after: float | None = None) -> None:
        """Have the next boots fail, with the cause a runner prints; without one they say nothing, until boot_timeout.

        A cause is a step and what went wrong there, as in "fetch: s3://releases/proj.tar.gz is not there".
        """
        after = (20.0 if cause else float("inf")) if after is None else after
        self._world.bad_boots += [BadBoot(cause=cause, after=after)] * count

    def interrupt(self, runner: Machine | None = None) -> Machine:
        """Have EC2 give notice to a runner, by default the oldest that is up, and take it two minutes later."""
        found = runner or next((each for each in self.runners() if each.takes_work), None)
        if found is None:
            raise AssertionError(f"no runner is up that could be interrupted; {self}")
        self._world.interrupt(found)
        return found

    @contextlib.contextmanager
    def broker_down(self) -> Iterator[None]:
        """Have the broker answer nobody meanwhile."""
        self._world.silence()
        try:
            yield
        finally:
            self._world.speak()

    @contextlib.contextmanager
    def listing_down(self, why: str = "ec2:DescribeInstances: UnauthorizedOperation") -> Iterator[None]:
        """Have EC2 list no runners meanwhile."""
        self._world.unlistable = why
        try:
            yield
        finally:
            self._world.unlistable = ""

    @contextlib.contextmanager
    def lease_down(self) -> Iterator[None]:
        """Have the lease's store answer nobody meanwhile."""
        self._cell.silent = True
        try:
            yield
        finally:
            self._cell.silent = False

    # parents

    def start_parent(self) -> RunningParent:
        """Start one more parent."""
        parent = RunningParent(self.settings, self._world, self._cell, self._note)
        self.parents.append(parent)
        self._raise_unexpected()
        return parent

    def kill_parent(self, parent: RunningParent | None = None) -> None:
        """End a parent as SIGKILL would, by default the one that acts."""
        self._leave(parent).kill()

    def stop_parent(self, parent: RunningParent | None = None) -> None:
        """End a parent as its user would, by default the one that acts."""
        self._leave(parent).stop()

    # before and after

    def simulate(
        self, pool: str, load: Iterable[simulator.Task], *, conditions: Conditions | None = None, seed: int = 0
    ) -> Outcome:
        """Play a load for a pool as `flame simulate` does, which is faster than rounds and is the policy alone."""
        return simulator.simulate(
            load, self.settings.pool(pool), copied_policy(self.settings.policy),
            conditions=conditions or self.conditions, interval=self.settings.interval, seed=seed, settled=SETTLED,
        )  # fmt: skip

    def finish(self, *, leaves: int = 0) -> None:
        """Take all work and all faults away, and see that every runner ends but `leaves` and those of `min`.

        Raises:
            AssertionError: some live on, or a pool had more than `max`.
        """
        self._heal()
        if not self.parents:
            self.start_parent()
        with contextlib.suppress(AssertionError):
            self.until(lambda: len(self._beyond_min()) <= leaves, within=self._longest_end())
        if self._world.wrongs:
            raise AssertionError("; ".join(dict.fromkeys(self._world.wrongs)))
        if len(left := self._beyond_min()) > leaves:
            after = f"{self._longest_end():g} s after the last task was gone"
            raise AssertionError(f"{len(left)} of these runners live on {after}; {self}")

    def _heal(self) -> None:
        world = self._world
        world.shortages.clear()
        world.bad_boots.clear()
        world.conditions = dataclasses.replace(world.conditions, failed_boots=0.0, interruptions=0.0)
        world.unlistable, self._cell.silent = "", False
        if world.silent:
            world.speak()
        world.drop_tasks()

    def _longest_end(self) -> float:
        """Return in how many seconds a runner without work must be gone, by the pools' settings."""
        return PATIENCE + max(
            pool.ec2.boot_timeout + pool.shutdown_timeout + (pool.idle_shutdown_after or 0.0)
            for pool in self.settings.pools
        )

    def _beyond_min(self) -> list[Machine]:
        """Return the runners that no `min` keeps."""
        beyond: list[Machine] = []
        for pool in self.settings.pools:
            here = sorted(self.runners(pool.name), key=lambda machine: not machine.runner.warm)
            beyond += here[pool.min :]
        return beyond

    # work

    def _arrive(self, queue: str | Any, runtime: float) -> Task:
        task = Task(
            queue=self._queue(queue), runtime=runtime, arrived_at=self.clock(), acks_late=self._acks_late(queue)
        )
        self._world.arrive(task)
        return task

    def _play(self, queue: str | Any, load: Iterator[simulator.Task], began: float) -> None:
        """Wait for the next task of a load, send it, and go on."""
        task = next(load, None)
        if task is None:
            self._loads -= 1
        else:
            self.clock.later(max(0.0, began + task.arrival - self.now), lambda: self._go_on(queue, load, began, task))

    def _go_on(self, queue: str | Any, load: Iterator[simulator.Task], began: float, task: simulator.Task) -> None:
        self._arrive(queue, task.runtime)
        self._play(queue, load, began)

    def _queue(self, queue: str | Any) -> str:
        name = queue if isinstance(queue, str) else _queue_of(self.app, queue.name)
        known = [each for pool in self.settings.pools for each in pool.queues]
        if name not in known:
            whose = "" if isinstance(queue, str) else f" of task {queue.name!r}"
            there = f"{suggestion(name, known)} (known: {', '.join(known)})"
            raise ValueError(f"no flame pool takes from queue {name!r}{whose}{there}")
        return name

    def _acks_late(self, queue: str | Any) -> bool:
        own = None if isinstance(queue, str) else getattr(queue, "acks_late", None)
        return bool(self.app.conf.task_acks_late if own is None else own)

    # parents

    def _leave(self, parent: RunningParent | None) -> RunningParent:
        found = parent or next((each for each in self.parents if each.service.acts), None)
        if found is None:
            raise AssertionError(f"no parent acts; {self}")
        self.parents.remove(found)
        return found

    def _note(self, parent: RunningParent) -> None:
        """Keep what this round decided that changed something."""
        for pool in parent.service.pools:
            name, news = pool.settings.name, (pool.news_at, pool.news)
            if parent.service.acts and pool.plan is not None and pool.news and self._last_news.get(name) != news:
                self._last_news[name] = news
                self.decisions.append(Decision(at=self.now, pool=name, plan=pool.plan))

    def _raise_unexpected(self) -> None:
        for parent in self.parents:
            if parent.service.unexpected:
                found, parent.service.unexpected = parent.service.unexpected[0], []
                raise found

    def _in_words(self, pool: str) -> str:
        queues = self.settings.pool(pool).queues
        waiting = sum(depth.waiting for depth in self._world.measure(queues).depths.values())
        runners = ", ".join(map(repr, self.runners(pool))) or "no runner"
        last = next((str(each) for each in reversed(self.decisions) if each.pool == pool), "nothing")
        return f"pool {pool!r}: {waiting} waiting; {runners}; last decided: {last}"


def _settings(app: Celery, changes: Mapping[str, Any]) -> Settings:
    """Read the app's settings; whether runners reach its broker is not asked here, where there is another in tests."""
    settings = settings_of(app, laid_over({"ec2": {"allow_local_broker": True}}, changes))
    unknown = [pool.name for pool in settings.pools if pool.max_concurrency is None and settings.backend == "ec2"]
    if unknown:
        raise SettingsError(
            f"pool {name!r}: option 'max_concurrency' is not set, and no machine is here to tell it: say for tests how "
            "many tasks a runner takes"
            for name in unknown
        )
    return settings


def _queue_of(app: Celery, task: str) -> str:
    """Return the queue that the app's routes name for a task."""
    queue = app.amqp.router.route({}, task)["queue"]
    return str(getattr(queue, "name", queue))
