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
from ..experience import Experience
from ..lifetime import CORDONED_PATIENCE
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
#: Seconds without any change after which a policy need not be asked again before there is one: what it saw has faded.
SETTLED = 4 * 3600.0
#: Moments kept for pictures, at most.
MOMENTS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How machines behave. Times are seconds.

    A boot takes `boot` on average, log-normally spread with a standard deviation of its logarithm of `boot_spread`;
    a share of `failed_boots` never comes up and is ended at the pool's `boot_timeout`. A machine that is up gets a spot
    notice `interruptions` times an hour on average. From its decision to end until it is billed no more a runner
    takes `ending`. `cordoned_patience` is the idle time of a cordoned runner, or the pool's own where that is shorter.
    At least `billed_at_least` is billed for each launch: EC2's minimum for Linux. `recalls` is whether runners can be
    kept from working while they boot, as with Redis.
    """

    boot: float = 60.0
    boot_spread: float = 0.1
    failed_boots: float = 0.0
    interruptions: float = 0.0
    ending: float = 3.0
    cordoned_patience: float = CORDONED_PATIENCE
    billed_at_least: float = 60.0
    recalls: bool = True


class _Machine:
    """One runner of the world: what it is billed for, and what it does."""

    __slots__ = (
        "active", "check_at", "generation", "id", "idle_since", "launched_at", "runner", "runs", "slots", "state",
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
        self.generation = 0  # changes whenever its free slots are not to be found any more
        self.idle_since: float | None = None
        self.check_at = math.inf  # when it is looked at next whether it was idle for long enough
        self.runner: Runner | None = None  # as a parent sees it, until that changes

    def as_seen(self, pool: str) -> Runner:
        """Return it as a parent sees it now."""
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
    settled: float = math.inf,
    until: float = math.inf,
) -> Outcome:
    """Play `tasks`, in the order of their arrivals, until all are done and all machines ended, or `until`.

    `pool.max_concurrency` must be known. When nothing has changed for `settled` seconds the policy is not asked again
    until something does; it should be no less than the policy remembers. The same arguments give the same outcome.

    Raises:
        ValueError: the arrivals are out of order.
    """
    return _World(tasks, pool, policy, conditions or Conditions(), interval, seed, settled).run(until)


class _World:
    def __init__(
        self, tasks: Iterable[Task], pool: PoolSettings, policy: Policy, conditions: Conditions, interval: float,
        seed: int, settled: float,
    ) -> None:  # fmt: skip
        self._tasks: Iterator[Task] = iter(tasks)
        self._pool, self._policy, self._conditions, self._interval = pool, policy, conditions, interval
        self._settled = settled
        self._slots = pool.max_concurrency or 1
        self._patience = {warm: pool.limits(warm=warm).idle_shutdown_after for warm in (False, True)}
        self._random = random.Random(seed)  # noqa: S311  nothing secret is drawn
        self._queue: deque[Task] = deque()
        #: Free slots, the one that waited longest first, each with its machine's generation.
        self._free: deque[tuple[_Machine, int]] = deque()
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._machines: dict[str, _Machine] = {}
        #: Tasks that run on machines of whatever state, and on those that do not end.
        self._busy = self._running = 0
        self._taken = 0
        self._past = Experience()
        self._boots: list[float] = []
        self._fleet: Fleet | None = None
        self._now = 0.0
        self._next: Task | None = None
        self._changed = True
        self._changed_at = 0.0
        self.outcome = Outcome()
        self._thinned = 1.0

    # time

    def run(self, until: float) -> Outcome:
        self._draw()
        tick = 0.0
        while not self._over():
            tick = max(tick, self._skipped(tick))
            if tick >= until:
                break
            self._pass(tick)
            self._round()
            tick += self._interval
        return self._finished()

    def _over(self) -> bool:
        """Tell whether all tasks are done and all machines gone but those that always stay."""
        left = self._next is not None or self._queue or self._busy
        return not left and len(self._machines) <= self._pool.min and self.outcome.rounds > 0

    def _skipped(self, tick: float) -> float:
        """Return the next round that may differ from the one before.

        Where all is settled that is the first after the next event, and the one before it: a parent that looks each
        time would know that what it sees then is new. Infinity where nothing will ever happen again.
        """
        idle = not (self._machines or self._queue or self._pool.min) and self.outcome.rounds > 0
        if not idle and tick - self._changed_at <= self._settled:
            return tick
        due = min(self._next.arrival if self._next else math.inf, self._events[0][0] if self._events else math.inf)
        return (math.ceil(due / self._interval) - 1) * self._interval if due < math.inf else math.inf

    def _pass(self, tick: float) -> None:
        """Let everything happen until `tick`."""
        events, pop = self._events, heapq.heappop
        while True:
            due = events[0][0] if events else math.inf
            following = self._next
            if following is not None and following.arrival <= due:
                if following.arrival > tick:
                    break
                self._arrive(following)
            elif due <= tick:
                self._now, _, happen, what = pop(events)
                happen(what)
            else:
                break
        self._now = tick

    def _later(self, at: float, happen: Callable[[Any], None], what: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, happen, what))

    # work

    def _draw(self) -> None:
        before, self._next = self._next, next(self._tasks, None)
        if before is not None and self._next is not None and self._next.arrival < before.arrival:
            raise ValueError(f"a task arrives at {self._next.arrival:g} s, after one at {before.arrival:g} s")

    def _arrive(self, task: Task) -> None:
        self._now, self._changed = task.arrival, True
        self._draw()
        machine = self._free_slot()
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
        self._busy += 1
        self._running += 1
        machine.active += 1
        machine.idle_since = None
        self._look_changed(machine)
        self._begin(machine, task)

    def _begin(self, machine: _Machine, task: Task) -> None:
        self._taken += 1
        machine.runs[self._taken] = task
        self._later(self._now + task.runtime, self._done, (machine, self._taken, self._now))

    def _done(self, what: tuple[_Machine, int, float]) -> None:
        machine, run, start = what
        task = machine.runs.pop(run, None)
        if task is None:
            return  # its machine was taken away
        self._changed = True
        outcome = self.outcome
        outcome.waits.append(start - task.arrival)
        outcome.starts.append(start)
        outcome.busy += task.runtime
        if self._queue and machine.state is RunnerState.UP:
            self._begin(machine, self._queue.popleft())
        else:
            self._busy -= 1
            self._running -= machine.state is not RunnerState.ENDING
            machine.active -= 1
            self._look_changed(machine)
            self._offer(machine, 1)

    def _offer(self, machine: _Machine, slots: int) -> None:
        """Let so many free slots of a machine take what waits, or wait themselves."""
        if machine.state is RunnerState.UP:
            while slots and self._queue:
                self._take(machine, self._queue.popleft())
                slots -= 1
            self._free.extend([(machine, machine.generation)] * slots)
        if not machine.active:
            self._idle(machine)

    def _idle(self, machine: _Machine) -> None:
        machine.idle_since = self._now
        if machine.state is RunnerState.ENDING:
            self._later(self._now + self._conditions.ending, self._gone, machine)
            return
        patience = self._patience_of(machine)
        if patience is not None and self._now + patience < machine.check_at:
            machine.check_at = self._now + patience
            self._later(machine.check_at, self._look_idle, machine)

    def _patience_of(self, machine: _Machine) -> float | None:
        """Return after how many seconds without work it ends."""
        patience, cordoned = self._patience[machine.warm], self._conditions.cordoned_patience
        if machine.state is not RunnerState.CORDONED:
            return patience
        return cordoned if patience is None else min(patience, cordoned)

    def _look_idle(self, machine: _Machine) -> None:
        """End a machine that was idle for long enough, else look again when it may have been."""
        if machine.check_at != self._now:
            return  # it is looked at earlier, or is gone
        machine.check_at = math.inf
        patience = self._patience_of(machine)
        if machine.idle_since is None or patience is None:
            return
        if machine.idle_since + patience <= self._now:
            self._end(machine)
        else:
            machine.check_at = machine.idle_since + patience
            self._later(machine.check_at, self._look_idle, machine)

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
        self._fleet = None

    def _boot(self) -> float:
        spread = self._conditions.boot_spread
        return self._conditions.boot * self._random.lognormvariate(-spread * spread / 2, spread)

    def _up(self, machine: _Machine) -> None:
        if machine.state is not RunnerState.BOOTING:
            return  # it was recalled
        self._turn(machine, RunnerState.UP)
        self._boots.append(self._now - machine.launched_at)
        self._later(self._now + self._pool.max_lifetime, self._end, machine)
        if self._conditions.interruptions:
            wait = self._random.expovariate(self._conditions.interruptions / 3600)
            self._later(self._now + wait, self._noticed, machine)
        self._offer(machine, machine.slots)

    def _lost(self, machine: _Machine) -> None:
        self.outcome.lost_boots += 1
        self._gone(machine)

    def _noticed(self, machine: _Machine) -> None:
        if machine.id in self._machines:
            self.outcome.interrupted += 1
            self._end(machine)
            self._later(self._now + NOTICE, self._taken_away, machine)

    def _taken_away(self, machine: _Machine) -> None:
        if machine.id in self._machines:
            self.outcome.rerun += len(machine.runs)
            self._busy -= len(machine.runs)
            self._queue.extendleft(reversed(machine.runs.values()))
            machine.runs.clear()
            self._gone(machine)

    def _turn(self, machine: _Machine, state: RunnerState) -> None:
        """Change its state; only one that is up has free slots to be found."""
        machine.state = state
        machine.generation += 1
        self._changed = True
        self._look_changed(machine)

    def _look_changed(self, machine: _Machine) -> None:
        machine.runner = self._fleet = None

    def _end(self, machine: _Machine) -> None:
        """Begin its drain: it takes nothing more, and ends when it is idle."""
        if machine.state is not RunnerState.ENDING and machine.id in self._machines:
            self._turn(machine, RunnerState.ENDING)
            self._running -= machine.active
            if not machine.active:
                self._idle(machine)

    def _gone(self, machine: _Machine) -> None:
        if self._machines.pop(machine.id, None) is None:
            return
        self._fleet, self._changed = None, True
        self.outcome.billed += max(self._conditions.billed_at_least, self._now - machine.launched_at)

    def _cordon(self, machine: _Machine) -> None:
        if machine.state is RunnerState.UP:
            self._turn(machine, RunnerState.CORDONED)
            if not machine.active:
                self._idle(machine)

    def _uncordon(self, machine: _Machine) -> None:
        if machine.state is RunnerState.CORDONED:
            self._turn(machine, RunnerState.UP)
            self._offer(machine, machine.slots - machine.active)

    def _recall(self, machine: _Machine) -> None:
        if machine.state is RunnerState.BOOTING and self._conditions.recalls:
            self._turn(machine, RunnerState.ENDING)
            self._idle(machine)

    # rounds

    def _round(self) -> None:
        self.outcome.rounds += 1
        now, running = EPOCH + self._now, self._running
        fleet = self._seen()
        self._past = self._past.after(
            waiting=len(self._queue), running=running, taken=self._taken, now=now, boots=self._boots
        )
        self._boots.clear()
        demand = Demand(waiting=len(self._queue), running=running, past=self._past)
        plan = self._policy(self._pool, demand, fleet, now)
        launch = min(plan.launch, room(self._pool, fleet)) if plan.launch > 0 else 0
        if launch > 0 or any(plan.orders.values()):
            self._follow(plan, launch)
        if self._changed:
            self._record(running)
            self._changed, self._changed_at = False, self._now

    def _seen(self) -> Fleet:
        """Return the machines as a parent sees them; the same value as long as nothing changes."""
        if self._fleet is None:
            name = self._pool.name
            self._fleet = Fleet(runners=tuple([m.runner or m.as_seen(name) for m in self._machines.values()]))
        return self._fleet

    def _follow(self, plan: Plan, launch: int) -> None:
        if launch > 0:
            self._launch(launch, plan.warm)
        for runner_id in plan.cordon:
            self._cordon(self._machines[runner_id])
        for runner_id in plan.uncordon:
            self._uncordon(self._machines[runner_id])
        for runner_id in plan.recall:
            self._recall(self._machines[runner_id])
        self.outcome.decisions.append((self._now, plan.reason))
        self._changed = True

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
            self._gone(machine)
        self.outcome.ended_at = self._now
        return self.outcome
