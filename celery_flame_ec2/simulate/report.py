"""How is told what came of a run: as plain values, as a table?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .load import Task
from .outcome import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """How much a load is: tasks, the seconds they run in sum, and the second in which the last arrives."""

    tasks: int = 0
    seconds: float = 0.0
    last: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A load that was played for one pool. `price` is of one runner-hour, None where unknown."""

    target_wait: float
    slots: int
    price: float | None
    amount: Amount
    outcome: Outcome


def amount_of(tasks: Iterable[Task]) -> Amount:
    """Add up a load."""
    count, seconds, last = 0, 0.0, 0.0
    for count, task in enumerate(tasks, 1):  # noqa: B007  the last count is the sum
        seconds += task.runtime
        last = task.arrival
    return Amount(tasks=count, seconds=seconds, last=last)


def fields(run: Run) -> dict[str, Any]:
    """Return a run's figures. Times are seconds, hours are those of machines; `cost` is None without a price.

    `work_hours` are what a fleet would be billed that is never idle: no policy can be billed less.
    """
    outcome, hours = run.outcome, run.outcome.billed_hours
    return {
        "target_wait": run.target_wait,
        "tasks": run.amount.tasks,
        "finished": len(outcome.waits),
        "mean_wait": outcome.mean_wait,
        "wait_50": outcome.wait_at(0.5),
        "wait_95": outcome.wait_at(0.95),
        "wait_99": outcome.wait_at(0.99),
        "longest_wait": max(outcome.waits, default=0.0),
        "billed_hours": hours,
        "work_hours": outcome.busy / run.slots / 3600,
        "cost": None if run.price is None else hours * run.price,
        "launches": outcome.launches,
        "peak": outcome.peak,
        "lost_boots": outcome.lost_boots,
        "interrupted": outcome.interrupted,
        "rerun": outcome.rerun,
        "ended_at": outcome.ended_at,
    }


def table(runs: Sequence[Run]) -> str:
    """Return the figures as lines of columns, without those of what did not happen, and of cost without a price."""
    every = [fields(run) for run in runs]
    shown = [(title, [form(row) for row in every]) for title, form, needed in COLUMNS if needed(every)]
    widths = [max(map(len, (title, *cells))) for title, cells in shown]
    rows = [[title for title, _ in shown], *zip(*(cells for _, cells in shown), strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def in_words(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.4g} s"


def _column(name: str, spec: str) -> Any:
    return lambda row: format(row[name], spec)


def _always(_: Any) -> bool:
    return True


def _any(name: str) -> Any:
    return lambda every: any(row[name] for row in every)


#: Title, how a cell is written, and in which tables the column stands.
COLUMNS = (
    ("target_wait", _column("target_wait", "g"), _always),
    ("mean wait s", _column("mean_wait", ".1f"), _always),
    ("50 %", _column("wait_50", ".1f"), _always),
    ("95 %", _column("wait_95", ".1f"), _always),
    ("99 %", _column("wait_99", ".1f"), _always),
    ("longest", _column("longest_wait", ".1f"), _always),
    ("billed h", _column("billed_hours", ".2f"), _always),
    ("work h", _column("work_hours", ".2f"), _always),
    ("cost", _column("cost", ".2f"), lambda every: every[0]["cost"] is not None),
    ("launches", _column("launches", "d"), _always),
    ("peak", _column("peak", "d"), _always),
    ("failed boots", _column("lost_boots", "d"), _any("lost_boots")),
    ("interrupted", _column("interrupted", "d"), _any("interrupted")),
    ("run again", _column("rerun", "d"), _any("rerun")),
    ("unfinished", lambda row: f"{row['tasks'] - row['finished']:d}", lambda every: any(
        row["tasks"] > row["finished"] for row in every
    )),
)  # fmt: skip
