"""When did tasks arrive and how long did they run, by the events that workers and clients send of them?"""

from __future__ import annotations

import csv
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TextIO

from dateutil.parser import isoparse

from .traces import ARRIVAL, QUEUE, RUNTIME

#: Tasks remembered that have arrived and are not done, at most: about 30 MB.
MOST_OPEN = 100_000
#: Events of a run that ended in order, but do not tell how long it was.
ENDED = ("task-failed", "task-retried")
#: Events after which a task does not run, or not any more.
DROPPED = ("task-revoked", "task-rejected")
EVENTS = ("task-sent", "task-received", "task-started", "task-succeeded", *ENDED, *DROPPED)


@dataclass(kw_only=True, slots=True)
class _Open:
    """A task that has arrived. Times are seconds since the epoch; `queue` is empty where it is none of ours."""

    arrival: float
    queue: str
    started: float | None = None


@dataclass(kw_only=True, slots=True)
class Counts:
    """What was heard and what became of it, in tasks; `events` are all that came, `sent` those a client told of."""

    recorded: int = 0
    unknown: int = 0  #: done, without a word of their arrival or start
    dropped: int = 0  #: revoked or rejected
    forgotten: int = 0  #: the oldest, when too many were not done
    events: int = 0
    sent: int = 0


class Recorder:
    """Writes a line for each run of a task in these queues. Of a task it keeps its id, its times and its queue."""

    def __init__(
        self, file: TextIO, queues: Collection[str], route: Callable[[str], str], *, most_open: int = MOST_OPEN
    ) -> None:
        """Begin a file; `route` tells the queue of a task by its name, where the event does not tell it."""
        self.counts = Counts()
        self._queues, self._route, self._most_open = frozenset(queues), route, most_open
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._lines = csv.writer(file, lineterminator="\n")
        self._lines.writerow((ARRIVAL, RUNTIME, QUEUE))

    @property
    def open(self) -> int:
        """How many tasks of these queues have arrived and are not done."""
        return sum(bool(task.queue) for task in self._open.values())

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take in one event of a task, whatever stands in it."""
        try:
            kind, task_id, at = str(event["type"]), str(event["uuid"]), float(event["timestamp"])
        except (KeyError, TypeError, ValueError):
            return
        if not math.isfinite(at):
            return
        self.counts.events += 1
        if kind == "task-sent":
            self._sent(task_id, event, at)
        elif kind == "task-received":
            self._received(task_id, event, at)
        elif kind == "task-started" and task_id in self._open:
            self._open[task_id].started = at
        elif kind == "task-succeeded" or kind in ENDED:
            self._done(task_id, event.get("runtime"), at, again=kind == "task-retried")
        elif kind in DROPPED:
            task = self._open.pop(task_id, None)
            self.counts.dropped += task is not None and bool(task.queue)

    def _sent(self, task_id: str, event: Mapping[str, Any], at: float) -> None:
        self.counts.sent += 1
        before = self._open.get(task_id)
        if before is not None and before.started is not None and before.started <= at:
            self._done(task_id, None, at)  # it sends itself once more, and ends
        queue = str(event.get("queue"))
        task = _Open(arrival=max(at, _due(event)), queue=queue if queue in self._queues else "")
        if before is not None and before.started is not None and before.started > at:
            task.started = before.started  # what its worker told was faster
        self._remember(task_id, task)

    def _received(self, task_id: str, event: Mapping[str, Any], at: float) -> None:
        before = self._open.get(task_id)
        if before is not None and before.started is None:
            return
        if before is not None:  # delivered once more: its worker is gone, or lost it
            self.counts.unknown += bool(before.queue)
        queue = self._route(str(event.get("name")))
        task = _Open(arrival=max(at, _due(event)), queue=queue if queue in self._queues else "")
        self._remember(task_id, task)

    def _remember(self, task_id: str, task: _Open) -> None:
        self._open[task_id] = task
        self._open.move_to_end(task_id)
        if len(self._open) > self._most_open:
            _, oldest = self._open.popitem(last=False)
            self.counts.forgotten += bool(oldest.queue)

    def _done(self, task_id: str, runtime: Any, at: float, *, again: bool = False) -> None:
        task = self._open.get(task_id)
        if again and task is not None and task.started is None:
            return  # it has been sent once more before its worker told of it
        self._open.pop(task_id, None)
        if task is not None and not task.queue:
            return
        if not _is_time(runtime) and task is not None and task.started is not None:
            runtime = max(0.0, at - task.started)
        if task is None or not _is_time(runtime):
            self.counts.unknown += 1
            return
        self.counts.recorded += 1
        self._lines.writerow((f"{task.arrival:.3f}", f"{runtime:.4f}", task.queue))


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < math.inf


def _due(event: Mapping[str, Any]) -> float:
    """Return when a task may run at the earliest, in seconds since the epoch; 0 where at once."""
    try:
        moment: datetime = isoparse(str(event.get("eta")))
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
