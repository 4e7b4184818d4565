"""Does the simulator say what really happens? One load, simulated and played: a real parent, Redis, local runners.

    make bench-confirm [JSON=figures.json]        or: python -m benchmarks.confirm [--json figures.json]

About three minutes. Sends a burst and a steady flow of sleeping tasks to the queue of a `flame serve`, notes how long
each waited and how long each runner lived, and plays the same load with the boots and ends that were measured. What the
simulation cannot know is left in: the processes that start on a busy machine, and what they take from each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import math
import platform
import re
import statistics
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.policy import plan
from celery_flame_ec2.simulate import Conditions, Outcome, Task, burst, exponential, fixed, poisson, simulate
from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import Deployment

POOL = PoolSettings(
    name="confirm", queues=("confirm",), max=5, max_concurrency=4, idle_shutdown_after=8.0, target_wait=10.0,
    worker_options={"pool": "threads"},
)  # fmt: skip
INTERVAL = 1.0
PATIENCE = 300.0
UP = re.compile(r"is up, ([\d.]+) s after its launch")


@dataclasses.dataclass(kw_only=True)
class Real:
    """What was measured. Times are seconds; `lives` from when a runner was first seen to when it was last."""

    waits: list[float]
    boots: list[float]
    endings: list[float]
    lives: dict[str, tuple[float, float]]

    @property
    def outcome(self) -> Outcome:
        """Return it as the simulator tells what it played."""
        lives = self.lives.values()
        billed = sum(last - first for first, last in lives)
        peak = max(sum(first <= moment <= last for first, last in lives) for moment, _ in lives)
        return Outcome(waits=array("d", self.waits), billed=billed, launches=len(self.lives), peak=peak)


def load() -> list[Task]:
    """Return 80 tasks of 3 s at once, then 100 s of one task a second, of 3 s on average."""
    return list(heapq.merge(burst(80, fixed(3.0)), poisson(1.0, exponential(3.0), seconds=100.0, seed=1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    tasks = load()
    print(f"{platform.platform()}, {len(tasks)} tasks in {tasks[-1].arrival:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="flame-confirm-") as directory, RedisServer() as redis:
        real = play(tasks, Path(directory), redis.url)
    conditions = measured(real)
    simulated = simulate(tasks, POOL, plan, conditions=conditions, interval=INTERVAL)
    figures = show(real.outcome, simulated, conditions)
    if options.json:
        told = {"figures": figures, "conditions": dataclasses.asdict(conditions)}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


def play(tasks: list[Task], directory: Path, broker: str) -> Real:
    """Send the load to a parent at work, and wait until it is done and every runner gone."""
    options = {
        "queues": list(POOL.queues), "max": POOL.max, "max_concurrency": POOL.max_concurrency,
        "idle_shutdown_after": POOL.idle_shutdown_after, "target_wait": POOL.target_wait,
        "worker_options": dict(POOL.worker_options),
    }  # fmt: skip
    conf = {
        "flame_pools": {POOL.name: options}, "flame_interval": INTERVAL, "flame_policy": Settings().policy,
        "task_ignore_result": True,
    }  # fmt: skip
    with Deployment(directory, broker, results=broker, **conf) as deployment:
        parent = deployment.start("serve", "flame", "serve")
        parent.says("serving confirm")
        with watched(deployment) as lives:
            send(deployment, tasks)
            wait_until(lambda: len(deployment.noted("timed")) == len(tasks), what="all done", timeout=PATIENCE, poll=1)
            deployment.has_runners(0, timeout=PATIENCE)
        return real(deployment.noted("timed"), [float(boot) for boot in UP.findall(parent.output)], lives)


def send(deployment: Deployment, tasks: list[Task]) -> None:
    begin = time.time()
    for task in tasks:
        time.sleep(max(0.0, begin + task.arrival - time.time()))
        deployment.send("timed", time.time(), task.runtime, queue=POOL.queues[0], ignore_result=True)


@contextmanager
def watched(deployment: Deployment) -> Iterator[dict[str, tuple[float, float]]]:
    """Note when each runner was seen first and last."""
    lives: dict[str, tuple[float, float]] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            now = time.time()
            lives.update({runner: (lives.get(runner, (now, now))[0], now) for runner in deployment.runners()})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lives
    finally:
        over.set()
        thread.join()


def real(notes: list[dict[str, Any]], boots: list[float], lives: dict[str, tuple[float, float]]) -> Real:
    """Put together what was noted. A runner decides to end `idle_shutdown_after` after its last task."""
    last_done: dict[str, float] = {}
    for note in notes:
        last_done[note["runner"]] = max(last_done.get(note["runner"], 0.0), note["done_at"])
    idle = POOL.idle_shutdown_after or 0.0
    endings = [max(0.0, lives[runner][1] - done - idle) for runner, done in last_done.items() if runner in lives]
    return Real(waits=[note["waited"] for note in notes], boots=boots, endings=endings, lives=dict(lives))


def measured(real: Real) -> Conditions:
    """Return the conditions that were there."""
    logarithms = [math.log(boot) for boot in real.boots]
    return Conditions(
        boot=statistics.mean(real.boots),
        boot_spread=statistics.pstdev(logarithms),
        ending=statistics.median(real.endings),
        billed_at_least=0.0,
    )


def show(real: Outcome, simulated: Outcome, conditions: Conditions) -> dict[str, dict[str, float]]:
    rows = {
        "mean wait, s": (real.mean_wait, simulated.mean_wait),
        "95 % wait, s": (real.wait_at(0.95), simulated.wait_at(0.95)),
        "longest wait, s": (max(real.waits), max(simulated.waits)),
        "runner-seconds": (real.billed, simulated.billed),
        "launches": (real.launches, simulated.launches),
        "peak": (real.peak, simulated.peak),
    }
    boots = f"boots {conditions.boot:.1f} s (spread {conditions.boot_spread:.2f}), ends {conditions.ending:.1f} s"
    print(f"\nsimulated with what was measured: {boots}\n\n{'':16} {'measured':>10} {'simulated':>10} {'ratio':>6}")
    for name, (was, said) in rows.items():
        print(f"{name:16} {was:10.1f} {said:10.1f} {said / was:6.2f}")
    return {name: {"measured": was, "simulated": said} for name, (was, said) in rows.items()}


if __name__ == "__main__":
    main()
