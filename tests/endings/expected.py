"""Which guarantee holds for the tasks of a runner that ends: on which broker, acknowledged when, ended how? Pure.

The table in docs/guarantees.md is printed from here, and what `make endings` measures is held against it.

    python -m tests.endings.expected
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ", "sqs": "SQS"}
ACKS = ("early", "late")
#: What ends a runner, and how the docs call it.
ENDINGS = {
    "idle": "idle",
    "told": "told by Celery's remote control (SQS, which has none: by SIGTERM)",
    "single-use": "single use",
    "lifetime": "`max_lifetime`",
    "spot": "spot interruption notice",
    "sigterm": "SIGTERM to its unit",
    "broker-restart": "no end: the broker restarts (SQS: does not answer for a while)",
    "kill-process": "`kill -9` of a pool process",
    "kill-worker": "`kill -9` of the worker",
    "cut-off": "the machine is cut off",
}
#: Those that take a runner away without its doing.
DEATHS = frozenset({"kill-worker", "cut-off"})


class Guarantee(enum.Enum):
    """What holds for every task, in the words of the docs."""

    ONCE = "each task runs once"
    NONE_LOST = "none is lost; what ran runs again"
    MAY_REPEAT = "none is lost; what ran at that moment may run again"
    RAN_LOST = "what ran is lost; what waited there runs elsewhere"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One field of the matrix."""

    broker: str
    ack: str
    ending: str

    def __str__(self) -> str:
        return f"{self.broker}/{self.ack}/{self.ending}"

    @property
    def handed_over(self) -> bool:
        """Whether a message can be lost on its way to a runner that dies: Redis forgets it before kombu notes it."""
        return self.broker == "redis" and self.ending in DEATHS


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What became of a cell's tasks. `begun` are lost ones that a runner had begun, `handed` such as Redis handed over
    and nobody noted since, whatever befell them before; `waiting` all other lost ones. `again` ran more than once, and
    `doubled` on two runners from the same moment on."""

    tasks: int
    once: int
    again: int = 0
    doubled: int = 0
    begun: int = 0
    handed: int = 0
    waiting: int = 0


def cells() -> Iterator[Cell]:
    """Yield the whole matrix."""
    for broker in BROKERS:
        for ending in ENDINGS:
            for ack in ACKS:
                yield Cell(broker=broker, ack=ack, ending=ending)


def guarantee(cell: Cell) -> Guarantee:
    """Return what must hold."""
    if cell.ending in DEATHS | {"kill-process"}:
        return Guarantee.NONE_LOST if cell.ack == "late" else Guarantee.RAN_LOST
    return Guarantee.MAY_REPEAT if cell.ending == "broker-restart" else Guarantee.ONCE


def broken(cell: Cell, count: Count) -> list[str]:
    """Return how a count breaks the cell's guarantee; nothing where it holds."""
    holds = guarantee(cell)
    limits = {
        "waiting": (count.waiting, True),
        "handed": (count.handed, not cell.handed_over),
        "begun": (count.begun, holds is not Guarantee.RAN_LOST),
        "again": (count.again, holds is Guarantee.ONCE),
        # SQS delivers at least once, and moto hands a message to two that ask for it at the same time
        "doubled": (count.doubled, holds is Guarantee.ONCE and cell.broker != "sqs"),
    }
    return [f"{number} {name}" for name, (number, forbidden) in limits.items() if number and forbidden]


def table() -> str:
    """Return the table of the docs, as Markdown."""
    lines = [
        "| what ends the runner | early acknowledgement | `task_acks_late` and `task_reject_on_worker_lost` |",
        "|---|---|---|",
        *(f"| {name} | {_promise(ending, 'early')} | {_promise(ending, 'late')} |" for ending, name in ENDINGS.items()),
    ]
    return "\n".join(lines) + "\n"


def _promise(ending: str, ack: str) -> str:
    """Return what holds on all brokers, or on which what."""
    found: dict[str, list[str]] = {}
    for broker, name in BROKERS.items():
        cell = Cell(broker=broker, ack=ack, ending=ending)
        text = guarantee(cell).value + (" ¹" if cell.handed_over else "")
        found.setdefault(text, []).append(name)
    plain = {text.removesuffix(" ¹") for text in found}
    if len(plain) == 1:
        return next((text for text in found if text.endswith("¹")), next(iter(found)))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in found.items())


if __name__ == "__main__":
    print(table(), end="")
