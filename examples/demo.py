"""What does a burst look like? 200 tasks of half a second, a worker with two processes, and runners beside it.

`make demo` runs this. It needs no root, no cloud and no server: the broker is a directory, the runners are processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

TASKS, SECONDS = 200, 0.5
GIVE_UP_AFTER = 100.0


def main() -> int:
    """Run the demo; return 0 when every task ran once and every runner is gone."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="flame-demo-") as directory:
        # The runners' files go there too, and nothing of the demo stays.
        os.environ.update(DEMO_RUN=directory, TMPDIR=directory)
        tempfile.tempdir = None
        return burst(Path(directory))


def burst(run: Path) -> int:
    """Start a worker, flood its queue, and tell what happens until all is quiet again."""
    from demo_app import app, nap

    from celery_flame_ec2.backends import open_backend
    from celery_flame_ec2.service import Service
    from celery_flame_ec2.settings import settings_of

    (run / "queue").mkdir()
    settings = settings_of(app)
    backend = open_backend(app, settings)
    print(f"A worker with --autoscale=2,1 and a pool of up to {settings.pools[0].max} runners of 4 slots each.")
    with parent(run) as log:
        watcher = Service(app, settings, backend)
        watcher.listen(0.1)
        started = time.monotonic()
        for _ in range(TASKS):
            nap.delay(SECONDS)
        print(f"{TASKS} tasks of {SECONDS} s are in the queue: {TASKS * SECONDS / 2:.0f} s for the worker alone.\n")
        peak = watch(watcher, log, run, started)
        took = time.monotonic() - started
        leftover = [runner.id for runner in backend.runners()]
        backend.terminate(leftover)
        watcher.close()
    places = Counter((run / "done").read_text().split("\n")[:-1])
    code = conclude(places, took, peak, leftover)
    if code:
        print(f"The worker's log:\n{log.read_text()}")
    return code


def watch(watcher, log: Path, run: Path, started: float) -> int:  # type: ignore[no-untyped-def]
    """Print a line a second, and each decision as the parent's log tells it, until nothing is left; return the peak."""
    told, peak, runners = 0, 0, ()
    (run / "done").touch()
    while time.monotonic() - started < GIVE_UP_AFTER:
        demand = watcher.look()["burst"]
        runners = watcher.pools[0].roster.runners
        done = len((run / "done").read_text().splitlines())
        peak = max(peak, len(runners))
        states = Counter(runner.state.value for runner in runners)
        bar = "#" * round(getattr(demand, "waiting", 0) / TASKS * 30)
        standing = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no runner"
        print(f"{time.monotonic() - started:5.1f} s  {bar:<30} {demand.waiting:3d} waiting, {done:3d} done; {standing}")
        lines = [line for line in log.read_text().splitlines() if "pool burst: " in line]
        for line in lines[told:]:
            print(f"         > {line.partition('pool burst: ')[2]}")
        told = len(lines)
        if done >= TASKS and not runners:
            break
        watcher.listen(1.0)
    return peak


@contextlib.contextmanager
def parent(run: Path) -> Iterator[Path]:
    """Run the worker with its log in a file; stop it, as an operator would, when done."""
    log = run / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "demo_app", "worker", "--autoscale=2,1", "-l", "INFO"]
    with log.open("wb") as output:
        worker = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=output, stderr=subprocess.STDOUT)
    try:
        while " ready." not in log.read_text():
            if worker.poll() is not None:
                raise SystemExit(f"the worker did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield log
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)


def conclude(places: Counter[str], took: float, peak: int, leftover: list[str]) -> int:
    """Say what happened, in numbers that can be wrong."""
    print()
    for place, count in sorted(places.items()):
        print(f"{count:4d} tasks ran on {place}")
    print(f"{places.total()} of {TASKS} tasks ran, {took:.0f} s from the flood to quiet, {peak} runners at the most.")
    if places.total() != TASKS or leftover or peak == 0:
        print(f"That is not what should have happened. Runners left: {', '.join(leftover) or 'none'}.")
        return 1
    print("Every runner ended by itself when it was idle.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
