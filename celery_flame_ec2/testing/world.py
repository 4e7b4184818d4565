"""What is around the parents: queues, tasks, machines, and what is wrong with them?"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from ..backends.ec2.offers import Offer
from ..backends.ec2.refusals import Refusal
from ..boot import FAILURE_PREFIX
from ..config import Settings
from ..orders import Order
from ..parent import Parent
from ..presence import Word
from ..queues import Depth, Measurement
from ..runner import Launch, Runner
from ..simulate.world import NOTICE, Conditions
from .clock import Clock
from .machine import Machine
from .shortage import Shortage
from .task import Task

#: Seconds between the last end a runner can have by itself and the deadline in its tag.
DEADLINE_MARGIN = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BadBoot:
    """A boot that fails `after` so many seconds, having printed its `cause`; without one it says nothing."""

    cause: str = ""
    after: float = math.inf


class World:
    """The truth. What must never be is noted in `wrongs` when it happens."""

    def __init__(self, clock: Clock, conditions: Conditions, *, seed: int) -> None:
        self.clock, self.conditions = clock, conditions
        self.machines: dict[str, Machine] = {}
        self.tasks: list[Task] = []
        self.shortages: list[Shortage] = []
        self.bad_boots: deque[BadBoot] = deque()
        #: Why the compute backend cannot list runners; empty where it can.
        self.unlistable = ""
        self.lost_since: float | None = None
        #: The most runners a pool had at once, by its name.
        self.peak: Counter[str] = Counter()
        self.most: dict[str, int] = {}
        self.wrongs: list[str] = []
        self._waiting: dict[str, deque[Task]] = {}
        self._random = Random(seed)  # noqa: S311  nothing secret is drawn

    # time

    def now(self) -> float:
        """Return what time it is."""
        return self.clock()

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Have something happen when so many seconds have passed."""
        self.clock.later(seconds, what)

    # tasks

    def arrive(self, task: Task) -> None:
        """Have a task in its queue; a machine with a free slot takes it at once."""
        self.tasks.append(task)
        self._waiting.setdefault(task.queue, deque()).append(task)
        self._feed()

    @property
    def outstanding(self) -> int:
        """Return how many tasks wait or run."""
        running = sum(len(machine.tasks) for machine in self.living())
        return running + sum(len(waiting) for waiting in self._waiting.values())

    def next_task(self, queues: tuple[str, ...]) -> Task | None:
        """Take what waits longest in these queues; None where nothing does."""
        found = [self._waiting[queue] for queue in queues if self._waiting.get(queue)]
        return min(found, key=lambda waiting: waiting[0].arrived_at).popleft() if found else None

    def give_back(self, task: Task) -> None:
        """Hand back what was cut off, as a broker does with what was not acknowledged."""
        if not task.acks_late:
            task.lost = True
            return
        self._waiting[task.queue].appendleft(task)
        self._feed()

    def drop_tasks(self) -> None:
        """Leave nothing to do: what waits is gone, and what runs is done."""
        self._waiting.clear()
        for machine in self.living():
            machine.drop()

    def _feed(self) -> None:
        """Give what waits to who waits longest: a broker serves its consumers in turn."""
        for machine in sorted(self.living(), key=lambda machine: machine.took_at):
            machine.take()

    # the broker, as `watch.Broker`

    @property
    def silent(self) -> bool:
        """Whether the broker does not answer."""
        return self.lost_since is not None

    def silence(self) -> None:
        """Have the broker answer nobody."""
        self.lost_since = self.now()

    def speak(self) -> None:
        """Have the broker back."""
        self.lost_since = None
        for machine in self.living():
            machine.reconnect()

    def measure(self, queues: Sequence[str]) -> Measurement:
        """Return how deep these queues are."""
        return Measurement(depths={queue: Depth(waiting=len(self._waiting.get(queue, ()))) for queue in queues})

    def published(self, queues: Sequence[str]) -> dict[str, float]:
        """Return since when what waits longest does, by queue."""
        return {queue: waiting[0].arrived_at for queue in queues if (waiting := self._waiting.get(queue))}

    def words(self) -> Iterator[Word]:
        """Yield what every machine says that can be heard."""
        return (word for machine in self.machines.values() if (word := machine.word()) is not None)

    def order(self, order: Order, runner_ids: Collection[str]) -> None:
        """Tell runners to take no more work, or to take it again."""
        for machine in (self.machines[one] for one in runner_ids if one in self.machines):
            machine.obey(order is Order.CORDON)

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]:
        """Keep machines that boot from ever working; return those that will not."""
        return frozenset(one for one in runner_ids if one in self.machines and self.machines[one].recall())

    # machines

    def living(self, pool: str | None = None) -> list[Machine]:
        """Return the machines that are not gone, of one pool or of all."""
        return [each for each in self.machines.values() if each.alive and pool in (None, each.pool)]

    def grant(self, letter: Parent, launch: Launch, offer: Offer, settings: Settings) -> list[Machine] | Refusal:
        """Start at most so many machines, or say why there are none; the same token never starts any twice."""
        known = [each for each in self.machines.values() if each.runner.launch == launch.token]
        refusal, count = self._room(launch, offer)
        if refusal is None and not known:
            known = [self._start(letter, launch, offer, settings) for _ in range(count)]
        return refusal or known

    def _room(self, launch: Launch, offer: Offer) -> tuple[Refusal | None, int]:
        count = launch.count
        for shortage in [each for each in self.shortages if not each.unanswered and each.holds(launch.pool, offer)]:
            here = sum(shortage.holds(each.pool, each.offer) for each in self.living())
            if here >= shortage.beyond:
                return shortage.say(), 0
            count = min(count, shortage.beyond - here)
        return None, count

    def unanswered(self, launch: Launch, offer: Offer) -> Refusal | None:
        """Return why the answer to a launch that went well does not come; None where it does."""
        found = [each for each in self.shortages if each.unanswered and each.holds(launch.pool, offer)]
        return found[0].say() if found else None

    def _start(self, letter: Parent, launch: Launch, offer: Offer, settings: Settings) -> Machine:
        now, limits = self.now(), letter.limits
        lifetime = limits.boot_timeout + limits.max_lifetime + limits.shutdown_timeout
        runner = Runner(
            id=f"i-{len(self.machines) + 1:08x}", pool=letter.pool, launched_at=now, warm=letter.warm,
            deadline=now + lifetime + DEADLINE_MARGIN, launch=launch.token, market=offer.market, zone=offer.zone,
            instance_type=offer.instance_type,
            speaks=settings.speaks(settings.pool(letter.pool)),
        )  # fmt: skip
        machine = self.machines[runner.id] = Machine(runner, letter, offer, self)
        self._count(machine.pool)
        self._boot(machine)
        return machine

    def _count(self, pool: str) -> None:
        here = len(self.living(pool))
        self.peak[pool] = max(self.peak[pool], here)
        if here > self.most.get(pool, here):
            self.wrongs.append(f"pool {pool!r} had {here} runners at once, and max is {self.most[pool]}")

    def _boot(self, machine: Machine) -> None:
        conditions, patience = self.conditions, machine.letter.limits.boot_timeout
        spread = conditions.boot_spread
        took = conditions.boot * self._random.lognormvariate(-spread * spread / 2, spread)
        bad = self.bad_boots.popleft() if self.bad_boots else None
        if bad is None and self._random.random() < conditions.failed_boots:
            bad = BadBoot()
        if bad is not None or took > patience:  # at the latest its own deadman ends it
            fails = bad or BadBoot()
            self.later(min(fails.after, patience), lambda: self._fail_boot(machine, fails))
        else:
            self.later(took, lambda: self._come_up(machine))

    def _fail_boot(self, machine: Machine, bad: BadBoot) -> None:
        machine.words = f"{FAILURE_PREFIX}{bad.cause}" if bad.cause else ""
        machine.cut()

    def _come_up(self, machine: Machine) -> None:
        machine.come_up()
        if self.conditions.interruptions and machine.offer.market == "spot":
            wait = self._random.expovariate(self.conditions.interruptions / 3600)
            self.later(wait, lambda: self.interrupt(machine))

    def interrupt(self, machine: Machine) -> None:
        """Give it EC2's notice of a spot interruption, and take it when that is over."""
        if machine.alive and machine.taken_away_at is None:
            machine.taken_away_at = self.now() + NOTICE
            self.later(NOTICE, machine.cut)

    def ends(self, machine: Machine) -> None:
        """Have a machine power off that has nothing left to do."""
        self.later(self.conditions.ending, machine.cut)
