"""Which loads are the policies compared on?

Poisson arrivals run exponentially long, as do the tasks of the daily curve and of the jump: runtimes vary, and the
policy is told none. Bursts, floods and the mix run fixed times: these are batches of one kind of work. Recordings take
weeks: there, who looks every second looks every five, for the table to be done in minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from celery_flame_ec2.simulate import Task
from celery_flame_ec2.simulate.loads import burst, daily, exponential, fixed, floods, jumping, mixed, poisson
from celery_flame_ec2.simulate.traces import read_trace

HOUR = 3600.0
NASA = Path(__file__).parent / "traces" / "nasa-ipsc-1993.swf.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """A load by name; `tasks` yields the same tasks each time it is called, `interval` is between looks at least."""

    name: str
    tasks: Callable[[], Iterable[Task]]
    interval: float = 1.0
    recorded: bool = False

    def mean_runtime(self) -> float:
        """Return the mean runtime of its tasks, in seconds."""
        count, total = 0, 0.0
        for task in self.tasks():
            count, total = count + 1, total + task.runtime
        return total / count


def loads(traces: Iterable[Path] = ()) -> dict[str, Load]:
    """Return the loads by name; those of `traces`, in SWF or CSV, come last and are named as the files are."""
    described: dict[str, Callable[[], Iterable[Task]]] = {
        "burst 10,000 x 1 s": lambda: burst(10_000, fixed(1.0)),
        "burst 200 x 60 s": lambda: burst(200, fixed(60.0)),
        "burst 1,000,000 x 0.1 s": lambda: burst(1_000_000, fixed(0.1)),
        "poisson 2/s x 5 s": lambda: poisson(2.0, exponential(5.0), seconds=2 * HOUR, seed=1),
        "poisson 0.01/s x 60 s": lambda: poisson(0.01, exponential(60.0), seconds=12 * HOUR, seed=2),
        "poisson 200/s x 0.2 s": lambda: poisson(200.0, exponential(0.2), seconds=0.25 * HOUR, seed=3),
        "daily x10, 0.5/s x 5 s": lambda: daily(0.5, exponential(5.0), seconds=24 * HOUR, peak=10.0, seed=4),
        "floods 400 x 5 s": lambda: floods(400, fixed(5.0), every=900.0, over=30.0, seconds=4 * HOUR, seed=5),
        "mix 10 ms / 10 min": lambda: poisson(
            1.0, mixed([(fixed(0.01), 0.98), (fixed(600.0), 0.02)]), seconds=4 * HOUR, seed=6
        ),
        "jump 1 s to 10 s": lambda: poisson(
            2.0, jumping(exponential(1.0), exponential(10.0), at=HOUR), seconds=2 * HOUR, seed=7
        ),
    }
    recorded = {"nasa": NASA, **{path.name: path for path in traces}}
    found = [Load(name=name, tasks=tasks) for name, tasks in described.items()]
    found += [Load(name=name, tasks=_reader(path), interval=5.0, recorded=True) for name, path in recorded.items()]
    return {load.name: load for load in found}


def _reader(path: Path) -> Callable[[], Iterable[Task]]:
    return lambda: read_trace(path)
