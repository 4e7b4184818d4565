"""What happens around the parents: time, tasks, machines, and what must never be?"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from random import Random

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.orders import Order
from celery_flame_ec2.presence import REPEAT, Word
from celery_flame_ec2.queues import Depth, Measurement
from celery_flame_ec2.runner import RunnerState
from celery_flame_ec2.testing.clock import Clock
from tests.box.conditions import Failure, Offer
from tests.chaos.ec2 import RUNS, Instance, VirtualEc2

OWNER = "shop@redis/0"
EPOCH = 1_750_000_000.0
ZONES = {"subnet-0000000a": "eu-a", "subnet-0000000b": "eu-b"}
VCPUS = {"c7i.large": 2, "m7i.large": 2}
#: Seconds by which a parent's view of who is silent for too long may differ from the truth.
DOUBT = 5.0


class Ill(enum.Enum):
    """What is wrong with a machine."""

    NEVER_UP = "it never says hello and never ends itself"
    IDLE = "it says hello, consumes nothing and never ends itself"
    IMMORTAL = "it works, and never ends itself"
    STOPS = "it is stopped where it should be terminated"
    MUTE = "it works, and nobody hears it"


class Hog(float):
    """A task, by how long it lasts, that keeps its runner from speaking meanwhile, for at most LONGEST_HOG seconds."""


LONGEST_HOG = 60.0


@dataclass(kw_only=True, slots=True, eq=False)
class Machine:
    """A runner as it is: what its instance does, and the worker on it."""

    instance: Instance
    pool: PoolSettings
    slots: int
    ill: Ill | None
    state: RunnerState = RunnerState.BOOTING
    tasks: list[float] = field(default_factory=list)  #: how long each lasts
    taken: int = 0
    reason: str = ""
    said_hello: bool = False
    recalled: bool = False
    idle_turn: int = 0
    hogged_until: float = 0.0
    last_word: Word | None = None  #: what it said right before the task that keeps it from speaking

    @property
    def alive(self) -> bool:
        return self.instance.state in RUNS

    @property
    def speaks(self) -> bool:
        """Whether it said hello, to be heard."""
        return self.said_hello and self.ill is not Ill.MUTE

    @property
    def warm(self) -> bool:
        return self.instance.tags.get("flame:warm") == "true"


class World:
    """EC2, the broker and the machines between them. What must never be is noted in `wrongs` when it happens."""

    def __init__(self, pools: tuple[PoolSettings, ...], *, seed: int, around: object) -> None:
        #: The true time, in seconds since the epoch: EC2's own, and that of whatever does not jump.
        self.clock = Clock(EPOCH)
        self.random = Random(seed)
        self.pools = {pool.name: pool for pool in pools}
        self.ec2 = VirtualEc2(self.clock, zones=ZONES, vcpus=VCPUS, around=around)  # type: ignore[arg-type]
        self.ec2.on_launch, self.ec2.on_terminate = self._launched, self._terminated
        self.ec2.conditions.fate = self._fate
        self.machines: dict[str, Machine] = {}
        self.waiting: dict[str, deque[float]] = {name: deque() for name in self.pools}
        self.wrongs: list[str] = []
        self.done = 0
        #: How many runners the tasks of a pool asked for, from when on.
        self.wanted = {name: [(self.clock.now, pool.min)] for name, pool in self.pools.items()}
        #: When the parent that sends a request now began to look.
        self.looked_at: Callable[[], float] = self.clock
        # what is wrong now
        self.silent = False
        self.ills: deque[Ill] = deque()
        self.failures: deque[Failure] = deque()
        self.slow_boots = False
        self.busy = False
        self.strangers = [
            self.ec2.place({"flame:owner": "shop@redis/1", "flame:pool": "video", "flame:deadline": "1"}),
            self.ec2.place({"flame:owner": "shop@redis", "flame:pool": "video"}),
            self.ec2.place({"Name": "flame video"}),
        ]

    # time

    def now(self) -> float:
        return self.clock()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        self.clock.later(seconds, what)

    def advance(self, seconds: float) -> None:
        """Let time pass, and everything happen that is due."""
        self.clock.advance(seconds)

    # tasks

    def keep_busy(self, pause: float) -> None:
        """Let bursts of tasks come by themselves, `pause` seconds apart on average, while the world is `busy`."""
        self.busy = True
        self._burst(pause)

    def _burst(self, pause: float) -> None:
        if self.busy:
            durations = [self.random.uniform(1, 90) for _ in range(self.random.randint(1, 10))]
            self.arrive(self.random.choice(list(self.pools)), durations)
            self.later(self.random.expovariate(1 / pause), lambda: self._burst(pause))

    def arrive(self, pool: str, durations: list[float]) -> None:
        self.waiting[pool] += durations
        self._want(pool)
        self._feed(pool)

    def purge(self, pool: str) -> None:
        self.waiting[pool].clear()
        self._want(pool)

    def set_max(self, pool: str, most: int) -> None:
        """Have other settings for parents that start from now on; those that run keep what they were told."""
        self.pools[pool] = dataclasses.replace(self.pools[pool], max=most)
        self._want(pool)

    def _want(self, pool: str) -> None:
        """Note how many runners the tasks there are ask for."""
        settings, tasks = self.pools[pool], self.outstanding(pool)
        wanted = max(settings.min, min(settings.max, math.ceil(tasks / self._slots(settings))))
        self.wanted[pool].append((self.clock.now, wanted))

    def _most_wanted(self, pool: str, since: float) -> int:
        most = 0
        for at, wanted in reversed(self.wanted[pool]):
            most = max(most, wanted)
            if at < since:
                break
        return most

    def outstanding(self, pool: str) -> int:
        return len(self.waiting[pool]) + sum(len(machine.tasks) for machine in self._of(pool))

    def measure(self, queues: object) -> Measurement:
        return Measurement(depths={name: Depth(waiting=len(tasks)) for name, tasks in self.waiting.items()})

    def published(self, queues: object) -> dict[str, float]:
        return {}

    def order(self, order: Order, runner_ids: object) -> None:
        self.wrongs.append(f"{runner_ids} were told to {order.name.lower()}, and no policy here wants that")

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]:
        """Keep from working who did not come up yet; whose machine is gone will not either."""
        booting = {name for name in runner_ids if name in self.machines and not self.machines[name].said_hello}
        for name in booting:
            self.machines[name].recalled = True
        return frozenset(booting)

    def words(self) -> Iterator[Word]:
        """Yield what every machine said last that can be heard; `heard_at` is when it said so."""
        for machine in self.machines.values():
            if machine.alive and machine.speaks:
                held = machine.last_word if self.clock.now < machine.hogged_until else None
                yield held or self._word(machine)

    def _word(self, machine: Machine) -> Word:
        return Word(
            runner_id=machine.instance.id, pool=machine.pool.name, owner=OWNER, state=machine.state,
            active=len(machine.tasks), taken=machine.taken, reason=machine.reason, heard_at=self.clock.now,
            recallable=True,
        )  # fmt: skip

    def _of(self, pool: str) -> Iterator[Machine]:
        return (machine for machine in self.machines.values() if machine.pool.name == pool)

    def _slots(self, pool: PoolSettings) -> int:
        return pool.max_concurrency or min(VCPUS[kind] for kind in pool.ec2.instance_type)

    # machines

    def _launched(self, instance: Instance) -> None:
        pool = self.pools[instance.pool]
        ill = self.ills.popleft() if self.ills else None
        machine = Machine(instance=instance, pool=pool, slots=self._slots(pool), ill=ill)
        self.machines[instance.id] = machine
        self._check_launch(machine)
        self.later(self.random.uniform(0, 5), lambda: self._runs(machine))
        boot, patience = self.random.uniform(5, 40), pool.ec2.boot_timeout
        if self.slow_boots:
            boot = self.random.uniform(5, 2 * patience)
        if ill is Ill.NEVER_UP:
            return
        if boot > patience:
            self.later(patience, lambda: self._power_off(machine))  # its own deadman
        else:
            self.later(boot, lambda: self._up(machine))

    def _runs(self, machine: Machine) -> None:
        if machine.instance.state == "pending":
            self.ec2.change(machine.instance, "running")

    def _up(self, machine: Machine) -> None:
        if machine.instance.state not in RUNS:
            return
        if machine.recalled:
            self._power_off(machine)
            return
        machine.state, machine.said_hello = RunnerState.UP, True
        if machine.ill not in {Ill.IDLE, Ill.IMMORTAL}:
            self.later(machine.pool.max_lifetime, lambda: self._drain(machine, "it is old"))
        self._is_idle(machine)
        self._feed(machine.pool.name)

    def feed(self) -> None:
        for pool in self.pools:
            self._feed(pool)

    def _feed(self, pool: str) -> None:
        waiting = self.waiting[pool]
        if not waiting or self.silent:
            return
        for machine in self._of(pool):
            while waiting and self._consumes(machine):
                self._take(machine, waiting.popleft())

    def _consumes(self, machine: Machine) -> bool:
        up = machine.state is RunnerState.UP and machine.ill is not Ill.IDLE
        return up and machine.alive and len(machine.tasks) < machine.slots

    def _take(self, machine: Machine, task: float) -> None:
        # Between two such tasks it comes to say a word.
        if isinstance(task, Hog) and self.clock.now >= machine.hogged_until + REPEAT:
            machine.hogged_until, machine.last_word = self.clock.now + min(task, LONGEST_HOG), self._word(machine)
        machine.tasks.append(task)
        machine.taken += 1
        machine.idle_turn += 1
        self.later(task, lambda: self._finish(machine, task))

    def _finish(self, machine: Machine, task: float) -> None:
        if task not in machine.tasks:
            return  # it went back to the queue
        machine.tasks.remove(task)
        self.done += 1
        self._want(machine.pool.name)
        self._feed(machine.pool.name)
        if not machine.tasks:
            self._is_idle(machine)

    def _is_idle(self, machine: Machine) -> None:
        if machine.state is RunnerState.ENDING and not machine.tasks:
            self._power_off(machine)
        patience = machine.pool.limits(warm=machine.warm).idle_shutdown_after
        if patience is None or machine.ill in {Ill.IDLE, Ill.IMMORTAL}:
            return
        machine.idle_turn += 1
        turn = machine.idle_turn
        self.later(patience, lambda: self._drain(machine, "idle") if machine.idle_turn == turn else None)

    def _drain(self, machine: Machine, reason: str) -> None:
        if machine.state is not RunnerState.UP or not machine.alive:
            return
        machine.state, machine.reason = RunnerState.ENDING, reason
        if machine.tasks:
            self.later(machine.pool.shutdown_timeout, lambda: self._power_off(machine))
        else:
            self.later(1.0, lambda: self._power_off(machine))

    def _power_off(self, machine: Machine) -> None:
        if not machine.alive:
            return
        self._give_back(machine)
        if machine.ill is Ill.STOPS or machine.instance.shutdown_behaviour != "terminate":
            self.ec2.change(machine.instance, "stopping")
            self.later(self.random.uniform(1, 8), lambda: self.ec2.change(machine.instance, "stopped"))
        else:
            self._end(machine.instance, "Client.InstanceInitiatedShutdown")

    def interrupt(self, machine: Machine) -> None:
        """Take the machine away, as EC2 does with spot instances."""
        self._give_back(machine)
        self._end(machine.instance, "Server.SpotInstanceTermination")

    def _terminated(self, instance: Instance) -> None:
        """Do what a parent asked for."""
        machine = self.machines.get(instance.id)
        if machine is None:
            self.wrongs.append(f"{instance.id} of {dict(instance.tags)} was ended, and is nobody's here")
            return
        if machine.alive:
            self._check_end(machine)
            self._give_back(machine)
        if instance.state not in {"shutting-down", "terminated"}:
            self._end(instance, "Client.UserInitiatedShutdown")

    def _end(self, instance: Instance, code: str) -> None:
        if instance.state in {"shutting-down", "terminated"}:
            return
        reason = (code, "said so")
        self.ec2.change(instance, "shutting-down", reason)
        self.later(self.random.uniform(1, 8), lambda: self.ec2.change(instance, "terminated", reason))

    def _give_back(self, machine: Machine) -> None:
        """Hand back what runs, as a broker does with what was not acknowledged."""
        tasks, machine.tasks = machine.tasks, []
        self.waiting[machine.pool.name].extendleft(tasks)
        self._feed(machine.pool.name)

    def _fate(self, _: Offer) -> Failure | None:
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            self.later(failure.after, self._fail_late)
        return failure

    def _fail_late(self) -> None:
        for name, failure in self.ec2.conditions.due().items():
            machine = self.machines[name]
            self._give_back(machine)
            self.ec2.change(machine.instance, "terminated", (failure.code, failure.message))

    # what must never be

    def _check_launch(self, machine: Machine) -> None:
        pool, name = machine.pool, machine.pool.name
        living = self.ec2.running(OWNER, name)
        if len(living) > self.pools[name].max:
            self.wrongs.append(f"{len(living)} runners of {name} run, and max is {self.pools[name].max}")
        of_launch = sum(each.token == machine.instance.token for each in self.ec2.instances.values())
        if of_launch > machine.instance.asked:
            self.wrongs.append(f"{of_launch} runners came of one launch of {machine.instance.asked}")
        able = [each for each in self._of(name) if self._is_able(each, pool.ec2.boot_timeout)]
        wanted = self._most_wanted(name, self.looked_at())
        if len(able) > wanted:
            self.wrongs.append(f"{len(able)} runners of {name} are able, and {wanted} were wanted")

    def _is_able(self, machine: Machine, patience: float) -> bool:
        """Tell whether a parent must count this machine for one that takes work, or will."""
        if not machine.alive or machine.ill is not None or machine.recalled or machine.state is RunnerState.ENDING:
            return False
        return machine.said_hello or self.clock.now - machine.instance.launched_at < patience - DOUBT

    def _check_end(self, machine: Machine) -> None:
        if machine.said_hello and machine.ill is None and machine.state is RunnerState.UP:
            self.wrongs.append(f"{machine.instance.id} was ended by a parent, and was well")
