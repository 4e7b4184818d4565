"""How long does it take to simulate eleven days? `python -m benchmarks.simulate` plays 200,000 tasks on one core.

    make bench-simulate [JSON=figures.json]       or: python -m benchmarks.simulate [--json figures.json]

Exponential tasks of 5 s on average, once spread evenly and once by a daily curve, 60 s boots and 4 slots a runner,
decided by our policy every second: what `flame simulate` does, without the reading and the telling.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import plan
from celery_flame_ec2.simulate import Conditions, Task, daily, exponential, poisson, simulate
from celery_flame_ec2.simulate.loads import DAY

TASKS, SECONDS = 200_000, 11 * DAY
RATE, RUNTIME = TASKS / SECONDS, exponential(5.0)
POOL = PoolSettings(name="bench", queues=("bench",), max=20, max_concurrency=4)
LOADS: dict[str, Callable[[], Iterable[Task]]] = {
    "poisson": lambda: poisson(RATE, RUNTIME, seconds=SECONDS),
    "daily": lambda: daily(RATE, RUNTIME, seconds=SECONDS),
}


def main() -> None:
    """Print for each load the CPU seconds of this process, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--days", type=float, default=SECONDS / DAY, help="play fewer or more (default 11)")
    arguments = parser.parse_args()
    print(f"{platform.platform()}, Python {platform.python_version()}", flush=True)
    figures = {}
    for name, load in LOADS.items():
        figures[name] = figure = measured(load(), until=arguments.days * DAY)
        print(
            f"{name}: {figure['tasks']:,.0f} tasks in {arguments.days:g} days, {figure['rounds']:,.0f} rounds: "
            f"{figure['seconds']:.1f} s, {figure['seconds'] / figure['rounds'] * 1e6:.0f} us a round",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def measured(tasks: Iterable[Task], *, until: float) -> dict[str, float]:
    """Return tasks and rounds that were played, and the CPU seconds it took."""
    began = time.process_time()
    outcome = simulate(tasks, POOL, plan, conditions=Conditions(boot=60.0), seed=1, until=until)
    return {"tasks": len(outcome.waits), "rounds": outcome.rounds, "seconds": time.process_time() - began}


if __name__ == "__main__":
    main()
