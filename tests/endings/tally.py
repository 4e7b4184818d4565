"""What became of every task, by what the tasks noted themselves? Pure, but for the reading of a file's new lines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .expected import Count

#: Seconds within which two starts of a task are of a message that was delivered twice.
AT_ONCE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of the journal: `word` is accepted, start or end; `at` is in seconds since the epoch."""

    word: str
    task: str
    runner: str
    pid: int
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A runner that was taken away at `at`. `held` are the tasks its broker knew it to hold, None where that is not
    known; `known_at` is when its end was listed."""

    runner: str
    at: float
    known_at: float
    held: frozenset[str] | None = None


@dataclass
class Journal:
    """All lines up to now. `running` is who runs what: the last start of a task that has no end, by task;
    `last_start` is by runner."""

    path: Path
    entries: list[Entry] = field(default_factory=list)
    running: dict[str, Entry] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    last_start: dict[str, float] = field(default_factory=dict)
    _offset: int = 0

    def read(self) -> list[Entry]:
        """Read what is new, and return it."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        new = [_entry(line) for line in data.decode().splitlines()]
        for entry in new:
            self._note(entry)
        self.entries += new
        return new

    def _note(self, entry: Entry) -> None:
        if entry.word == "start":
            self.running[entry.task] = entry
            self.last_start[entry.runner] = entry.at
        elif entry.word == "end":
            self.running.pop(entry.task, None)
            self.ended.add(entry.task)


def _entry(line: str) -> Entry:
    word, task, runner, pid, at = line.split()
    return Entry(word=word, task=task, runner=runner, pid=int(pid), at=float(at))


def count(sent: Iterable[str], entries: Iterable[Entry], handed: Collection[str] = ()) -> Count:
    """Count what became of the tasks that were sent; `handed` are those that the broker handed over and
    forgot, and that nobody noted since."""
    seen: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        seen[entry.task].append(entry)
    fates = [_fate(task, seen.get(task, []), handed) for task in sent]
    numbers = {name: fates.count(name) for name in ("once", "again", "doubled", "begun", "handed", "waiting")}
    return Count(tasks=len(fates), **numbers)


def _fate(task: str, entries: Iterable[Entry], handed: Collection[str]) -> str:
    starts = [entry.at for entry in entries if entry.word == "start"]
    ends = [entry.at for entry in entries if entry.word == "end"]
    if len(starts) > 1 and ends and max(starts) - min(starts) <= AT_ONCE:
        return "doubled"
    if ends:
        return "once" if len(starts) == len(ends) == 1 else "again"
    if task in handed:  # whatever a runner before did with it: it came back from there
        return "handed"
    return "begun" if entries else "waiting"


def slowest_return(entries: Iterable[Entry], deaths: Iterable[Death]) -> float | None:
    """Return the longest time from the listing of a runner's end until a task it had, and had not ended, began again.

    None where no such task began again.
    """
    by_task: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_task[entry.task].append(entry)
    waits = [_wait(by_task[task], death) for death in deaths for task in _had(death, by_task)]
    return max((wait for wait in waits if wait is not None), default=None)


def _had(death: Death, by_task: Mapping[str, list[Entry]]) -> Iterable[str]:
    """Return the tasks a runner held when it died, or had begun and not ended."""
    began = {entry.task for entry in _of(by_task, death.runner, "start")}
    ended = {entry.task for entry in _of(by_task, death.runner, "end")}
    return (began - ended) | (death.held or frozenset())


def _of(by_task: Mapping[str, list[Entry]], runner: str, word: str) -> Iterable[Entry]:
    every = (entry for entries in by_task.values() for entry in entries)
    return (entry for entry in every if entry.runner == runner and entry.word == word)


def _wait(entries: Iterable[Entry], death: Death) -> float | None:
    starts = [entry.at for entry in entries if entry.word == "start" and entry.at > death.at]
    return max(0.0, min(starts) - death.known_at) if starts else None
