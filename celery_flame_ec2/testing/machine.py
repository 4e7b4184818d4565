"""What does one runner do, from its launch to its end?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from ..backends.ec2.offers import Offer
from ..lifetime import RECALLED, Ending, Vitals, drain_until, reason_to_end
from ..parent import Parent
from ..presence import Word
from ..runner import Runner, RunnerState
from .task import Task

#: Seconds between two looks at itself.
LOOK = 1.0


class Around(Protocol):
    """What a machine finds around it. `lost_since` is when the broker fell silent, None while it answers."""

    @property
    def lost_since(self) -> float | None: ...

    def now(self) -> float: ...

    def later(self, seconds: float, what: Callable[[], object]) -> None: ...

    def next_task(self, queues: tuple[str, ...]) -> Task | None: ...

    def give_back(self, task: Task) -> None: ...

    def ends(self, machine: Machine) -> None: ...


class Machine:
    """A runner as it is, whatever a parent sees of it: its letter, its tasks, and why it ends.

    When it ends is decided by `lifetime`, as on a real one.
    """

    def __init__(self, runner: Runner, letter: Parent, offer: Offer, around: Around) -> None:
        self.runner, self.letter, self.offer = runner, letter, offer
        self.tasks: list[Task] = []
        self.taken = 0
        #: When it took a task last; it came up then where it never did.
        self.took_at = runner.launched_at
        #: What it printed last.
        self.words = ""
        self.ending: Ending | None = None
        self.ended_at: float | None = None
        self.cordoned = False
        self.taken_away_at: float | None = None
        self._around = around
        self._up_at: float | None = None
        self._recalled = False
        self._quiet_since: float | None = None
        self._drains_since = 0.0
        self._off = False

    def __repr__(self) -> str:
        reason = f", {self.reason}" if self.reason else ""
        return f"<{self.id} of {self.pool}: {self.state.value}, {len(self.tasks)} tasks{reason}>"

    @property
    def id(self) -> str:
        return self.runner.id

    @property
    def pool(self) -> str:
        return self.runner.pool

    @property
    def alive(self) -> bool:
        """Whether it is not gone."""
        return self.ended_at is None

    @property
    def state(self) -> RunnerState:
        if self._up_at is None:
            return RunnerState.BOOTING
        if self.ending is not None:
            return RunnerState.ENDING
        return RunnerState.CORDONED if self.cordoned else RunnerState.UP

    @property
    def takes_work(self) -> bool:
        """Whether it takes tasks."""
        return self.alive and self.state is RunnerState.UP

    @property
    def reason(self) -> str:
        """Why it ends, in its own words; empty where it does not, or was cut off."""
        return self.ending.reason if self.ending is not None else ""

    def word(self) -> Word | None:
        """Return what it says of itself now; None where it cannot speak."""
        if self._up_at is None or not self.alive or not self.runner.speaks:
            return None
        return Word(
            runner_id=self.id,
            pool=self.pool,
            owner=self.letter.owner,
            state=self.state,
            active=len(self.tasks),
            taken=self.taken,
            reason=self.reason,
            heard_at=self._around.now(),
            recallable=True,
        )

    def recall(self) -> bool:
        """Never work; False where it is up already."""
        self._recalled = self._up_at is None
        return self._recalled

    def come_up(self) -> None:
        """Say hello, and take what waits."""
        if self.alive and self._recalled:
            self.ending, self._off = Ending(reason=RECALLED), True
            self._around.ends(self)
        elif self.alive:
            self._up_at = self._quiet_since = self.took_at = self._around.now()
            self.take()
            self._look()

    def take(self) -> None:
        """Take tasks while there are some, and free slots."""
        while self._has_room() and (task := self._around.next_task(self.letter.queues)) is not None:
            self._begin(task)

    def cut(self) -> None:
        """End at once: what runs is not finished."""
        if self.alive:
            self.ended_at = self._around.now()
            tasks, self.tasks = self.tasks, []
            for task in tasks:
                self._around.give_back(task)

    def drop(self) -> None:
        """Have nothing to do any more."""
        if self.tasks:
            self.tasks.clear()
            self._quiet_since = self._around.now()

    def obey(self, cordoned: bool) -> None:
        """Take no more work, or take it again."""
        if cordoned != self.cordoned:
            self.cordoned = cordoned
            self.reconnect()

    def reconnect(self) -> None:
        """Have the broker back; only from now on it knows whether there is work."""
        if self._quiet_since is not None:
            self._quiet_since = self._around.now()
        self.take()

    def _has_room(self) -> bool:
        limits, slots = self.letter.limits, self.letter.concurrency
        spent = limits.single_use and self.taken >= slots
        works = self.takes_work and self._around.lost_since is None
        return works and not spent and len(self.tasks) < slots

    def _begin(self, task: Task) -> None:
        self.tasks.append(task)
        self.taken += 1
        self._quiet_since = None
        self.took_at = task.started_at = self._around.now()
        task.starts += 1
        start = task.starts
        self._around.later(task.runtime, lambda: self._finish(task, start))

    def _finish(self, task: Task, start: int) -> None:
        if task not in self.tasks or task.starts != start:
            return  # it was cut off
        self.tasks.remove(task)
        task.ended_at = self._around.now()
        self.take()
        if not self.tasks:
            self._quiet_since = self._around.now()

    def _look(self) -> None:
        """See whether it must end, and go on with an end that began."""
        if not self.alive:
            return
        now, vitals, limits = self._around.now(), self._vitals(), self.letter.limits
        if self.ending is None:
            self.ending, self._drains_since = reason_to_end(vitals, limits, now), now
        if self.ending is not None and not self.tasks:
            self._off = True
            self._around.ends(self)
        elif self.ending is not None and now >= drain_until(self.ending, vitals, limits, self._drains_since):
            self.cut()
        if self.alive and not self._off:
            self._around.later(LOOK, self._look)

    def _vitals(self) -> Vitals:
        started_at = self.runner.launched_at if self._up_at is None else self._up_at
        return Vitals(
            started_at=started_at,
            hello_at=self._up_at,
            quiet_since=self._quiet_since,
            disconnected_since=None if self._around.lost_since is None else max(started_at, self._around.lost_since),
            taken=self.taken,
            slots=self.letter.concurrency,
            cordoned=self.cordoned,
            taken_away_at=self.taken_away_at,
        )

    def as_listed(self) -> Runner:
        """Return it as a listing shows it."""
        return dataclasses.replace(self.runner, state=RunnerState.ENDING) if self._off else self.runner
