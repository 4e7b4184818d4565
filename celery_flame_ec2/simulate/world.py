"""What do queue and runners do while a policy decides? Discrete events on a virtual clock."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..config import PoolSettings
from ..policy import Demand, Fleet, Plan, Unknown, room
from ..runner import Runner, RunnerState
from .load import Task
from .outcome import Moment, Outcome

#: What `flame_policy` names.
Policy = Callable[[PoolSettings, Demand | Unknown, Fleet | Unknown, float], Plan]

#: The clock at the start, in seconds since the epoch: any will do, as long as it is always the same.
EPOCH = 1_000_000_000.0
#: Seconds between EC2's notice of a spot interruption and the moment it takes the machine.
NOTICE = 120.0
#: Moments kept for pictures, at most.
MOMENTS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How machines behave. Times are seconds.

    A boot takes `boot` on average, log-normally spread with a standard deviation of its logarithm of `boot_spread`;
    a share of `failed_boots` never comes up and is ended at the pool's `boot_timeout`. A machine that is up gets a spot
    notice `interruptions` times an hour on average. From its decision to end until it is billed no more a runner
    takes `ending`. `cordoned_patience` is the idle time of a cordoned runner, None for the pool's own. At least
    `billed_at_least` is billed for each launch: EC2's minimum for Linux.
    """

    boot: float = 60.0
    boot_spread: float = 0.1
    failed_boots: float = 0.0
    interruptions: float = 0.0
    ending: float = 3.0
    cordoned_patience: float | None = None
    billed_at_least: float = 60.0


class _Machine:
    """One runner of the world: what it is billed for, and what it does."""

    __slots__ = (
        "active", "cordoned", "generation", "id", "launched_at", "runner", "runs", "seen", "slots", "stamp", "state",
        "warm",
    )  # fmt: skip

    def __init__(self, number: int, now: float, slots: int, *, warm: bool) -> None:
        self.id = f"i-{number:08x}"
        self.launched_at = now
        self.slots = slots
        self.warm = warm
        self.state = RunnerState.BOOTING
        self.active = 0
        self.runs: dict[int, Task] = {}
        self.stamp = 0  # changes whenever it becomes busy or idle
        self.generation = 0  # changes whenever its free slots are not to be found any more
        self.seen: tuple[RunnerState, int] | None = None
        self.runner: Runner | None = None

    def as_seen(self, pool: str) -> Runner:
        """Return it as a parent sees it; the same value as long as nothing changes."""
        look = (self.state, self.active)
        if self.runner is None or look != self.seen:
            self.seen = look
            self.runner = Runner(
                id=self.id, pool=pool, launched_at=EPOCH + self.launched_at, state=self.state, warm=self.warm,
                active=self.active, shutting_down=self.state is RunnerState.ENDING,
            )  # fmt: skip
        return self.runner


def simulate(
    tasks: Iterable[Task],
    pool: PoolSettings,
    policy: Policy,
    *,
    conditions: Conditions | None = None,
    interval: float = 1.0,
    seed: int = 0,
    until: float = math.inf,
) -> Outcome:
    """Play `tasks`, in the order of their arrivals, until all are done and all machines ended, or `until`.

    `pool.max_concurrency` must be known. The same arguments give the same outcome.

    Raises:
        ValueError: the arrivals are out of order.
    """
    return _World(tasks, pool, policy, conditions or Conditions(), interval, seed).run(until)


class _World:
    def __init__(
        self, tasks: Iterable[Task], pool: PoolSettings, policy: Policy, conditions: Conditions, interval: float,
        seed: int,
    ) -> None:  # fmt: skip
        self._tasks: Iterator[Task] = iter(tasks)
        self._pool, self._policy, self._conditions, self._interval = pool, policy, conditions, interval
        self._slots = pool.max_concurrency or 1
        self._random = random.Random(seed)  # noqa: S311  nothing secret is drawn
        self._queue: deque[Task] = deque()
        #: Free slots, the one that waited longest first, each with its machine's generation.
        self._free: deque[tuple[_Machine, int]] = deque()
        self._events: list[tuple[float, int, Callable[..., None], Any, int]] = []
        self._count = 0
        self._machines: dict[str, _Machine] = {}
        self._taken = 0
        self._now = 0.0
        self._next: Task | None = None
        self._changed = True
        self.outcome = Outcome()
        self._thinned = 1.0

    # time

    def run(self, until: float) -> Outcome:
        self._draw()
        tick = 0.0
        while tick < until and not self._over():
            tick = max(tick, self._skipped(tick))
            self._pass(tick)
            self._round()
            tick += self._interval
        return self._finished()

    def _over(self) -> bool:
        """Tell whether all tasks are done and all machines gone but those that always stay."""
        left = self._next is not None or self._queue or any(machine.active for machine in self._machines.values())
        return not left and len(self._machines) <= self._pool.min and self.outcome.rounds > 0

    def _skipped(self, tick: float) -> float:
        """Return the next round before which anything can change: without work or machines, that of the next arrival."""
        if self._machines or self._queue or self._pool.min or self._next is None:
            return tick
        return math.ceil(self._next.arrival / self._interval) * self._interval

    def _pass(self, tick: float) -> None:
        """Let everything happen until `tick`."""
        events = self._events
        while True:
            arrival = self._next.arrival if self._next is not None else math.inf
            due = events[0][0] if events else math.inf
            if arrival > tick and due > tick:
                break
            if arrival <= due:
                self._arrive()
            else:
                self._now, _, happen, what, stamp = heapq.heappop(events)
                happen(what, stamp)
        self._now = tick

    def _later(self, at: float, happen: Callable[..., None], what: Any, stamp: int = 0) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, happen, what, stamp))

    # work

    def _draw(self) -> None:
        before, self._next = self._next, next(self._tasks, None)
        if before is not None and self._next is not None and self._next.arrival < before.arrival:
            raise ValueError(f"a task arrives at {self._next.arrival:g} s, after one at {before.arrival:g} s")

    def _arrive(self) -> None:
        task = self._next
        assert task is not None  # noqa: S101  the caller looked
        self._now, self._changed = task.arrival, True
        self._draw()
        machine = None if self._queue else self._free_slot()
        if machine is None:
            self._queue.append(task)
        else:
            self._take(machine, task)

    def _free_slot(self) -> _Machine | None:
        while self._free:
            machine, generation = self._free.popleft()
            if machine.generation == generation:
                return machine
        return None

    def _take(self, machine: _Machine, task: Task) -> None:
        machine.active += 1
        machine.stamp += 1
        self._taken += 1
        run = self._taken
        machine.runs[run] = task
        self._later(self._now + task.runtime, self._done, (machine, run, self._now - task.arrival))

    def _done(self, what: tuple[_Machine, int, float], _: int) -> None:
        machine, run, wait = what
        task = machine.runs.pop(run, None)
        if task is None:
            return  # its machine was taken away
        self._changed = True
        self.outcome.waits.append(wait)
        self.outcome.starts.append(task.arrival + wait)
        self.outcome.busy += task.runtime
        machine.active -= 1
        self._offer(machine)

    def _offer(self, machine: _Machine, slots: int = 1) -> None:
        """Let so many free slots of a machine take what waits, or wait themselves."""
        if machine.state is RunnerState.UP:
            while slots and self._queue:
                self._take(machine, self._queue.popleft())
                slots -= 1
            self._free.extend([(machine, machine.generation)] * slots)
        if not machine.active:
            self._idle(machine)

    def _idle(self, machine: _Machine) -> None:
        machine.stamp += 1
        if machine.state is RunnerState.ENDING:
            return self._later(self._now + self._conditions.ending, self._gone, machine)
        patience = self._pool.limits(warm=machine.warm).idle_shutdown_after
        if machine.state is RunnerState.CORDONED:
            own = self._conditions.cordoned_patience
            patience = own if own is not None else patience if patience is not None else 60.0
        if patience is not None:
            self._later(self._now + patience, self._idled_out, machine, machine.stamp)
        return None

    def _idled_out(self, machine: _Machine, stamp: int) -> None:
        if machine.stamp == stamp and machine.id in self._machines:
            self._end(machine)

    # machines

    def _launch(self, count: int, warm: int) -> None:
        for number in range(count):
            self.outcome.launches += 1
            machine = _Machine(self.outcome.launches, self._now, self._slots, warm=number < warm)
            self._machines[machine.id] = machine
            if self._random.random() < self._conditions.failed_boots:
                self._later(self._now + self._pool.ec2.boot_timeout, self._lost, machine)
            else:
                self._later(self._now + self._boot(), self._up, machine)
        self.outcome.peak = max(self.outcome.peak, len(self._machines))

    def _boot(self) -> float:
        spread = self._conditions.boot_spread
        return self._conditions.boot * self._random.lognormvariate(-spread * spread / 2, spread)

    def _up(self, machine: _Machine, _: int) -> None:
        machine.state, self._changed = RunnerState.UP, True
        self._later(self._now + self._pool.max_lifetime, self._too_old, machine)
        if self._conditions.interruptions:
            wait = self._random.expovariate(self._conditions.interruptions / 3600)
            self._later(self._now + wait, self._noticed, machine)
        self._offer(machine, machine.slots)

    def _lost(self, machine: _Machine, _: int) -> None:
        self.outcome.lost_boots += 1
        self._gone(machine, 0)

    def _too_old(self, machine: _Machine, _: int) -> None:
        if machine.id in self._machines:
            self._end(machine)

    def _noticed(self, machine: _Machine, _: int) -> None:
        if machine.id in self._machines:
            self.outcome.interrupted += 1
            self._end(machine)
            self._later(self._now + NOTICE, self._taken_away, machine)

    def _taken_away(self, machine: _Machine, _: int) -> None:
        if machine.id in self._machines:
            self.outcome.rerun += len(machine.runs)
            self._queue.extendleft(reversed(machine.runs.values()))
            machine.runs.clear()
            self._gone(machine, 0)

    def _end(self, machine: _Machine) -> None:
        """Begin its drain: it takes nothing more, and ends when it is idle."""
        if machine.state is RunnerState.ENDING:
            return
        machine.state, self._changed = RunnerState.ENDING, True
        machine.generation += 1
        if not machine.active:
            self._idle(machine)

    def _gone(self, machine: _Machine, _: int) -> None:
        if self._machines.pop(machine.id, None) is None:
            return
        machine.generation += 1
        self._changed = True
        self.outcome.billed += max(self._conditions.billed_at_least, self._now - machine.launched_at)

    def _cordon(self, machine: _Machine) -> None:
        if machine.state is RunnerState.UP:
            machine.state = RunnerState.CORDONED
            machine.generation += 1
            if not machine.active:
                self._idle(machine)

    def _uncordon(self, machine: _Machine) -> None:
        if machine.state is RunnerState.CORDONED:
            machine.state = RunnerState.UP
            self._offer(machine, machine.slots - machine.active)

    # rounds

    def _round(self) -> None:
        self.outcome.rounds += 1
        name = self._pool.name
        fleet = Fleet(runners=tuple([machine.as_seen(name) for machine in self._machines.values()]))
        running = sum([m.active for m in self._machines.values() if m.state in (RunnerState.UP, RunnerState.CORDONED)])
        demand = Demand(waiting=len(self._queue), running=running, taken=self._taken)
        plan = self._policy(self._pool, demand, fleet, EPOCH + self._now)
        launch = min(plan.launch, room(self._pool, fleet))
        if launch > 0:
            self._launch(launch, plan.warm)
        for runner_id in plan.cordon:
            self._cordon(self._machines[runner_id])
        for runner_id in plan.uncordon:
            self._uncordon(self._machines[runner_id])
        if launch > 0 or plan.cordon or plan.uncordon:
            self.outcome.decisions.append((self._now, plan.reason))
            self._changed = True
        if self._changed:
            self._record(running)
            self._changed = False

    def _record(self, running: int) -> None:
        moments = self.outcome.moments
        if moments and self._now - moments[-1].at < self._thinned:
            return
        states = [machine.state for machine in self._machines.values()]
        moments.append(
            Moment(
                at=self._now, waiting=len(self._queue), running=running, booting=states.count(RunnerState.BOOTING),
                up=states.count(RunnerState.UP), cordoned=states.count(RunnerState.CORDONED),
            )
        )  # fmt: skip
        if len(moments) > MOMENTS:
            del moments[1::2]
            self._thinned = max(self._now / MOMENTS * 2, self._thinned)

    def _finished(self) -> Outcome:
        for machine in list(self._machines.values()):
            self._gone(machine, 0)
        self.outcome.ended_at = self._now
        return self.outcome
