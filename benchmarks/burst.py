"""How long does a burst take, from the flood to the last machine gone? Real Redis, real boots in the box.

    make bench-burst [JSON=figures.json]        or: python -m benchmarks.burst [--bursts 5] [--json figures.json]

Root and a few minutes. One runner at a time, so that two cores do not make two boots wait for each other. The moments
are told by the result backend (a task was done), the fake EC2 (a launch was asked for, an instance was gone) and the
guest's console (the phases of its boot).
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timezone
from pathlib import Path

from celery.result import AsyncResult

from tests.box.box import Box
from tests.box.burst import Burst, build_release
from tests.servers import RedisServer

TASKS, SECONDS, IDLE = 40, 0.2, 3.0
PATIENCE = 120.0
#: figure -> its words, and what it should be within, in seconds
FIGURES = {
    "launch": ("flood -> launch request", 1.5),
    "first_task": ("launch -> first task done on the runner", 9.0),
    "gone": ("last task done -> instance gone, without idle_shutdown_after", 5.0),
}
PHASE = re.compile(r"flame: (.*?) in ([\d.]+) s")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One burst, in seconds. `phases` is what the boot said of itself."""

    launch: float
    first_task: float
    gone: float
    phases: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bursts", type=int, default=5, help="how many [default: 5]")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flame-bench-") as directory, deployed(Path(directory)) as (burst, size):
        print(f"{platform.platform()}, {options.bursts} bursts, bundle of {size / 1e6:.1f} MB", flush=True)
        every = [one(burst, number) for number in range(options.bursts)]
    show(every)
    if options.json:
        options.json.write_text(json.dumps([asdict(figures) for figures in every], indent=2) + "\n")


@contextmanager
def deployed(directory: Path) -> Iterator[tuple[Burst, int]]:
    """Give a parent at work, and the size of what its runners fetch."""
    print("building the release ...", flush=True)
    bundle = build_release(directory / "proj.tar.gz")
    with Box(directory / "consoles") as box, RedisServer() as redis:
        url = box.upload(bundle, "proj/1.tar.gz")
        pool = {"max": 1, "idle_shutdown_after": IDLE}
        with Burst(box, directory, broker=redis.url, results=redis.url, bundle_url=url, pool=pool) as burst:
            burst.parent("flame", "serve")
            yield burst, bundle.stat().st_size


def one(burst: Burst, number: int) -> Figures:
    """Flood the queue once and wait until all is over."""
    asked = len(burst.box.cloud.called("RunInstances"))
    flooded = time.time()
    results = burst.flood(TASKS, SECONDS)
    for result in results:
        result.get(timeout=PATIENCE)
    burst.box.wait_until_empty(PATIENCE)
    burst.programs[0].says(r"pool burst: i-\w+ ended", times=number + 1)  # the next burst begins from quiet
    launched = burst.box.cloud.called("RunInstances")[asked].time
    end = burst.box.events[-1]
    done = sorted(map(done_at, results))
    figures = Figures(
        launch=launched - flooded,
        first_task=done[0] - launched,
        gone=end.time - done[-1] - IDLE,
        phases={words: float(seconds) for words, seconds in PHASE.findall(burst.box.instance(end.instance_id).console)},
    )
    print(
        f"  burst {number + 1}: " + ", ".join(f"{name} {getattr(figures, name):.2f} s" for name in FIGURES), flush=True
    )
    return figures


def done_at(result: AsyncResult[object]) -> float:
    """Return when a task was done, by the runner's clock, which is the host's."""
    moment = result.date_done
    assert moment is not None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()


def show(every: list[Figures]) -> None:
    print(f"\n{'seconds':58} {'median':>7} {'least':>7} {'most':>7} {'aim':>6}")
    for name, (words, aim) in FIGURES.items():
        values = [getattr(figures, name) for figures in every]
        row = f"{words:58} {statistics.median(values):7.2f} {min(values):7.2f} {max(values):7.2f} {aim:6.1f}"
        print(row + ("" if statistics.median(values) <= aim else "  missed"))
    for words in every[0].phases:
        values = [figures.phases[words] for figures in every if words in figures.phases]
        print(f"  boot: {words:52} {statistics.median(values):7.2f} {min(values):7.2f} {max(values):7.2f}")


if __name__ == "__main__":
    main()
