"""Which tasks would arrive, of a load that is described rather than recorded?

Each load is an iterator of tasks in the order of their arrivals, drawn anew from `seed`: the same arguments give the
same tasks. Times are seconds, rates are tasks a second.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

from .load import Task

#: Draws how long a task runs that arrives at that moment, in seconds.
Runtime = Callable[[random.Random, float], float]

DAY = 86400.0


def fixed(seconds: float) -> Runtime:
    """Let every task run that long."""
    return lambda _, __: seconds


def exponential(mean: float) -> Runtime:
    """Let runtimes be exponentially distributed."""
    return lambda source, _: source.expovariate(1 / mean)


def mixed(parts: Sequence[tuple[Runtime, float]]) -> Runtime:
    """Let each task be of one of these kinds, in proportion to their weights."""
    kinds, weights = [kind for kind, _ in parts], [weight for _, weight in parts]
    return lambda source, at: source.choices(kinds, weights)[0](source, at)


def jumping(before: Runtime, after: Runtime, *, at: float) -> Runtime:
    """Let tasks that arrive from `at` on be of another kind than those before."""
    return lambda source, arrival: (before if arrival < at else after)(source, arrival)


def burst(tasks: int, runtime: Runtime, *, seed: int = 0) -> Iterator[Task]:
    """Let so many tasks arrive at once."""
    source = _source(seed)
    return (Task(0.0, runtime(source, 0.0)) for _ in range(tasks))


def poisson(rate: float, runtime: Runtime, *, seconds: float, seed: int = 0) -> Iterator[Task]:
    """Let tasks arrive independently of each other, for so many seconds."""
    source = _source(seed)
    for arrival in _arrivals(source, rate, seconds):
        yield Task(arrival, runtime(source, arrival))


def daily(rate: float, runtime: Runtime, *, seconds: float = DAY, peak: float = 10.0, seed: int = 0) -> Iterator[Task]:
    """Let the rate go up and down by a cosine of one day, from its lowest to `peak` times that and back.

    `rate` is the day's mean: highest and lowest are 2 * rate * peak / (1 + peak) and 2 * rate / (1 + peak). Arrivals
    are those of a Poisson process at the highest rate, each kept with a probability of the rate at that moment over it
    (thinning: Lewis and Shedler, 1979).
    """
    source = _source(seed)
    for arrival in _arrivals(source, 2 * rate * peak / (1 + peak), seconds):
        risen = (1 - math.cos(2 * math.pi * arrival / DAY)) / 2
        if source.random() < (1 + (peak - 1) * risen) / peak:
            yield Task(arrival, runtime(source, arrival))


def floods(
    tasks: int, runtime: Runtime, *, every: float, over: float = 0.0, seconds: float, seed: int = 0
) -> Iterator[Task]:
    """Let so many tasks arrive within `over` seconds, again and again, and nothing in between; `over` <= `every`."""
    source = _source(seed)
    for flood in range(math.ceil(seconds / every)):
        for arrival in sorted(flood * every + source.uniform(0, over) for _ in range(tasks)):
            yield Task(arrival, runtime(source, arrival))


def _arrivals(source: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = source.expovariate(rate)
    while at < seconds:
        yield at
        at += source.expovariate(rate)


def _source(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  nothing secret is drawn
