"""How does each contender fare on each load?"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from benchmarks.policy import oracle
from benchmarks.policy.contenders import Contender, contenders
from benchmarks.policy.loads import Load, loads
from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.simulate import Conditions, Outcome, simulate

SEED = 1
PROCESSES = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all runs of one table share. `boot` in seconds; `most` is the pool's max."""

    boot: float = 60.0
    slots: int = 4
    most: int = 100
    traces: tuple[Path, ...] = ()
    ours: str
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One contender on one load. Waits and `cpu`, what the simulation took, are seconds; `billed` instance-hours."""

    load: str
    contender: str
    tasks: int
    mean: float
    p95: float
    p99: float
    billed: float
    launches: int
    peak: int
    cpu: float


def play(setting: Setting, load_name: str, contender_name: str) -> Row:
    """Run one contender, or the oracle, over one load."""
    load = loads(setting.traces)[load_name]
    began = time.process_time()
    if contender_name == oracle.NAME:
        outcome = oracle.foresee(load.tasks(), machines=setting.most, slots=setting.slots)
    else:
        outcome = simulated(setting, load, contenders(setting.ours, setting.constants)[contender_name])
    return _row(load_name, contender_name, outcome, time.process_time() - began)


def simulated(setting: Setting, load: Load, contender: Contender, *, until: float = math.inf) -> Outcome:
    """Return how one contender fares on one load, or on its first `until` seconds."""
    pool = PoolSettings(name="bench", queues=("bench",), max=setting.most, max_concurrency=setting.slots)
    return simulate(
        load.tasks(),
        dataclasses.replace(pool, **contender.pool),
        contender.make(load),
        conditions=Conditions(boot=setting.boot, cordoned_patience=contender.cordoned_patience),
        interval=max(contender.interval, load.interval),
        settled=contender.settled,
        seed=SEED,
        until=until,
    )


def _row(load: str, contender: str, outcome: Outcome, cpu: float) -> Row:
    return Row(
        load=load,
        contender=contender,
        tasks=len(outcome.waits),
        mean=outcome.mean_wait,
        p95=outcome.wait_at(0.95),
        p99=outcome.wait_at(0.99),
        billed=outcome.billed_hours,
        launches=outcome.launches,
        peak=outcome.peak,
        cpu=cpu,
    )


def play_all(jobs: Sequence[tuple[Setting, str, str]]) -> Iterator[Row]:
    """Yield the rows of all jobs (setting, load, contender) in their order; progress goes to stderr."""
    # Forked, so that what was changed before anything was imported holds there, too.
    with ProcessPoolExecutor(PROCESSES, get_context("fork")) as pool:
        for number, row in enumerate(pool.map(play, *zip(*jobs, strict=True)), start=1):
            print(f"{number}/{len(jobs)} {row.load}: {row.contender} {row.cpu:.1f} s", file=sys.stderr, flush=True)
            yield row


def jobs(setting: Setting, load_names: Iterable[str], contender_names: Iterable[str]) -> list[tuple[Setting, str, str]]:
    """Return one job for each pair."""
    names = list(contender_names)
    return [(setting, load, name) for load in load_names for name in names]
