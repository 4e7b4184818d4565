"""What does deciding cost, in CPU time, for 1,000 queues and 10,000 runners? `python -m benchmarks.policy.cost`."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.experience import Experience
from celery_flame_ec2.policy import Demand, Fleet, plan
from celery_flame_ec2.runner import Runner, RunnerState

NOW = 1_000_000_000.0
#: Shapes by name: how many pools with how many runners each.
SHAPES = {"1,000 pools of one queue, 10 runners each": (1000, 10), "one pool of 10,000 runners": (1, 10_000)}
REPEATS = 9


def main() -> None:
    """Print CPU milliseconds of a round by what it is spent on, each the median of several."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy.cost", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = {name: _measured(*shape) for name, shape in SHAPES.items()}
    for name, spent in figures.items():
        print(f"{name}: learning {spent['learning']:.1f} ms, planning {spent['planning']:.1f} ms a round")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def _measured(pools: int, runners: int) -> dict[str, float]:
    settings = [_pool(number, runners) for number in range(pools)]
    fleets = [_fleet(number, runners) for number in range(pools)]
    pasts = [_past(runners)] * pools
    demands = [Demand(waiting=3 * runners, running=4 * runners, past=past) for past in pasts]

    def learn() -> None:
        for past in pasts:
            past.after(waiting=3 * runners, running=4 * runners, taken=1000 * runners, now=NOW + 1)

    def decide() -> None:
        for pool, demand, fleet in zip(settings, demands, fleets, strict=True):
            plan(pool, demand, fleet, NOW + 1)

    return {"learning": _milliseconds(learn), "planning": _milliseconds(decide)}


def _pool(number: int, runners: int) -> PoolSettings:
    return PoolSettings(name=f"pool{number}", queues=(f"queue{number}",), max=2 * runners, max_concurrency=4)


def _fleet(number: int, runners: int) -> Fleet:
    """Return a fleet of which a tenth boots and a tenth is cordoned, whose slots are taken."""
    states = [RunnerState.BOOTING, RunnerState.CORDONED, *[RunnerState.UP] * 8]
    return Fleet(
        runners=tuple(
            Runner(
                id=f"i-{number:08x}{runner:08x}",
                pool=f"pool{number}",
                launched_at=NOW - 30 - runner,
                state=states[runner % len(states)],
                active=4,
            )
            for runner in range(runners)
        )
    )


def _past(runners: int) -> Experience:
    past = Experience()
    for second in range(-120, 1):
        past = past.after(waiting=3 * runners, running=4 * runners, taken=second * runners + 1000, now=NOW + second)
    return past


def _milliseconds(work: Callable[[], None]) -> float:
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        spent.append((time.process_time() - began) * 1000)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
