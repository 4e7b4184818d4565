"""Which tasks does a recorded load hold? Standard Workload Format or CSV, plain or gzip'd, told by content.

SWF, https://www.cs.huji.ac.il/labs/parallel/workload/swf.html: one job a line, fields separated by blanks, field 2 the
submit time and field 4 the run time in seconds; lines that begin with `;` are comments. A job without a positive run
time never ran and is left out, and so is one without a submit time: what is not known is -1.

CSV: a header that names `arrival` and `runtime`, perhaps `queue` and others. An arrival is seconds, from any moment, or
an ISO 8601 timestamp, UTC where it names no offset; a runtime is seconds, 0 or more. Lines need not be in order.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import re
import zlib
from collections.abc import Collection, Iterator
from datetime import timezone
from pathlib import Path
from typing import IO

from dateutil.parser import isoparse

from ..errors import TraceError
from .load import Task

GZIP = b"\x1f\x8b"
ARRIVAL, RUNTIME, QUEUE = "arrival", "runtime", "queue"
#: Characters of a line that is refused, at most, before it is read any further.
LONGEST_LINE = 10_000
#: The largest number of seconds: not even milliseconds since the epoch, taken for seconds, are more.
LONGEST = 1e13
#: Tasks that are read, at most: about a GB.
MOST = 10_000_000
#: Other queues that are named where a file holds no task of those that were asked for, at most.
OTHERS = 5


def read_trace(path: Path, *, queues: Collection[str] = (), most: int = MOST) -> list[Task]:
    """Return the tasks of a recorded load in the order of their arrivals, the first of which is 0.

    Where the file tells each task's queue, and `queues` is not empty, only tasks of these are returned.

    Raises:
        TraceError: it cannot be read, or holds no task or more than `most`; names file, line and reason.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            tasks = _tasks(path, gzip.GzipFile(fileobj=raw) if packed else raw, frozenset(queues), most)
    except (OSError, EOFError, zlib.error) as exc:
        raise TraceError(f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    tasks.sort(key=lambda task: task.arrival)
    start = tasks[0].arrival
    return [Task(task.arrival - start, task.runtime) for task in tasks]


def _tasks(path: Path, file: IO[bytes] | gzip.GzipFile, queues: frozenset[str], most: int) -> list[Task]:
    lines = _Lines(path, file)
    first = next((line for line in lines if line), "")
    lines.refuse(not first, "there is nothing in it")
    others: set[str] = set()
    reader = _swf(lines, first) if first[0] in ";0123456789-+." else _csv(lines, first, queues, others)
    tasks = list(itertools.islice(reader, most + 1))
    lines.refuse(len(tasks) > most, f"more than {most:,} tasks")
    if not tasks:
        raise TraceError(f"{path}: no task in it{_of(queues, others)}")
    return tasks


def _of(queues: frozenset[str], others: set[str]) -> str:
    """Say of which queue there is no task, where there are of others."""
    named = ", ".join(map(_shown, sorted(others)))
    return f" of queue {', '.join(sorted(queues))}, only of {named}" if others else ""


class _Lines:
    """The lines of a file, without the blanks around them; knows where it is."""

    def __init__(self, path: Path, file: IO[bytes] | gzip.GzipFile) -> None:
        self._path, self._file, self._number = path, file, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self._number += 1
        self.refuse(len(line) == LONGEST_LINE, f"a line of {LONGEST_LINE} characters or more")
        try:
            return line.decode().removeprefix("\ufeff").strip()
        except UnicodeDecodeError:
            raise self.problem("not text in UTF-8") from None

    def problem(self, why: str) -> TraceError:
        """Return the error that says what is wrong with the last line."""
        return TraceError(f"{self._path}, line {max(1, self._number)}: {why}")

    def refuse(self, bad: bool, why: str) -> None:
        """Raise TraceError where the last line is bad."""
        if bad:
            raise self.problem(why)

    def seconds(self, text: str, what: str) -> float:
        """Return a number of seconds."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        self.refuse(not abs(value) <= LONGEST, f"{what} must be a number of seconds, got {_shown(text)}")
        return value


def _swf(lines: _Lines, line: str | None) -> Iterator[Task]:
    while line is not None:
        if line and not line.startswith(";"):
            fields = line.split()
            lines.refuse(len(fields) < 4, f"neither a job of SWF (4 fields or more) nor a CSV header: {_shown(line)}")
            arrival, runtime = lines.seconds(fields[1], "field 2 (submit)"), lines.seconds(fields[3], "field 4 (run)")
            if runtime > 0 and arrival >= 0:
                yield Task(arrival, runtime)
        line = next(lines, None)


def _csv(lines: _Lines, first: str, queues: frozenset[str], others: set[str]) -> Iterator[Task]:
    header = [name.strip().lower() for name in _row(lines, first)]
    for name in (ARRIVAL, RUNTIME):
        lines.refuse(header.count(name) != 1, f"neither a job of SWF nor a CSV header with {name!r}: {_shown(first)}")
    queue = header.index(QUEUE) if QUEUE in header and queues else None
    kinds = set()
    for line in filter(None, lines):
        row = _row(lines, line)
        lines.refuse(len(row) != len(header), f"{len(row)} fields where the header has {len(header)}: {_shown(line)}")
        arrival, dated = _arrival(lines, row[header.index(ARRIVAL)].strip())
        runtime = lines.seconds(row[header.index(RUNTIME)], RUNTIME)
        lines.refuse(runtime < 0, f"{RUNTIME} must be 0 or more, got {runtime:g}")
        kinds.add(dated)
        lines.refuse(len(kinds) > 1, "an arrival in seconds and another as a timestamp in one file")
        if queue is None or row[queue] in queues:
            yield Task(arrival, runtime)
        elif len(others) < OTHERS:
            others.add(row[queue])


def _row(lines: _Lines, line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as exc:
        raise lines.problem(f"not CSV, {exc}: {_shown(line)}") from exc


def _arrival(lines: _Lines, text: str) -> tuple[float, bool]:
    """Return an arrival in seconds, and whether it is a timestamp."""
    if re.match(r"\d{4}-\d\d-\d\d", text):
        try:
            moment = isoparse(text)
            return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp(), True
        except (ValueError, OverflowError) as exc:
            raise lines.problem(f"{ARRIVAL} is no timestamp of ISO 8601: {_shown(text)}") from exc
    return lines.seconds(text, f"{ARRIVAL} (or an ISO 8601 timestamp)"), False


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
