"""How long does a runner's worker take from `exec` of `bin/<app> start` to its hello, and where does the time go?

    make bench-startup [JSON=figures.json]       or: python -m benchmarks.startup [--runs 11] [--json figures.json]

Builds the release of examples/proj and starts it as a FLAME child on a real Redis. In turn with it, so that all see the
same machine: the same release made with `--full`, and `python -m celery worker` of the same packages, which is what a
start script would run without a release. Then the release again, with a note of when which event first comes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from celery_flame_ec2.parent import HELLO_VARIABLE, LETTER_VARIABLE, RUNNER_ID_VARIABLE, Parent
from celery_flame_ec2.release.bundle import build
from tests.servers import RedisServer
from tests.waiting import wait_until

PROJECT = Path(__file__).parent.parent / "examples" / "proj"
#: What each phase begins with: a file that is opened, or another event. It lasts until the next one begins.
PHASES = {
    "interpreter": "exec",
    "Celery and its commands": "/lib/celery/__pycache__/__init__.",
    "application": "/app/proj/__pycache__/app.",
    "flame's command": "/celery_flame_ec2/cli/__pycache__/child.",
    "worker, without the next one": "/celery_flame_ec2/__pycache__/terminator.",
    "client of Redis": "/lib/redis/__pycache__/__init__.",
    "pool": "os.fork",
    "broker, until hello": "socket.connect",
}
#: Runs a program, given on the command line after a file and what to look for, and notes in the file when it first
#: opens files whose names hold that, forks and connects.
PROBE = """\
import os, runpy, sys, time
note, wanted, pid = open(sys.argv[1], "w"), set(sys.argv[2].split(",")), os.getpid()
def hook(event, args):
    what = str(args[0]) if event == "open" else event
    for name in [name for name in wanted if name in what] if os.getpid() == pid else ():
        wanted.remove(name)
        print(time.monotonic(), name, file=note, flush=True)
sys.addaudithook(hook)
del sys.argv[:3]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NAMES = ("bin/proj start", "the same, --full", "celery worker")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start: seconds until hello, and those of them that its main process had a CPU."""

    seconds: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="of each")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as temporary:
        directory = Path(temporary)
        lean, full = (unpacked(directory, full=full) for full in (False, True))
        with RedisServer() as redis:
            starts = all_starts(directory, redis.url, lean, full, options.runs)
            phases = all_phases(directory, redis.url, lean, options.runs)
    show(starts, phases)
    if options.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        machine |= {name: version(name) for name in ("celery", "kombu", "redis")}
        figures = {"machine": machine, "phases": phases}
        figures["starts"] = {name: list(map(asdict, runs)) for name, runs in starts.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def unpacked(directory: Path, *, full: bool) -> Path:
    """Return where the release of the example lies."""
    bundle, place = directory / f"{full}.tar.gz", directory / f"{full}"
    build(PROJECT, name="proj", celery_app="proj.app:app", output=bundle, full=full)
    place.mkdir()
    subprocess.run(["tar", "xzf", bundle, "-C", place], check=True)
    return place


def all_starts(directory: Path, url: str, lean: Path, full: Path, runs: int) -> dict[str, list[Start]]:
    python = sys._base_executable  # type: ignore[attr-defined]
    worker = [python, "-m", "celery", "-A", "proj.app", "worker", "--concurrency=1", "--loglevel=INFO"]
    plain = {"PYTHONPATH": f"{full / 'app'}:{full / 'lib'}"}
    starts: dict[str, list[Start]] = {name: [] for name in NAMES}
    for _ in range(runs):
        for name, release in zip(NAMES, (lean, full), strict=False):
            starts[name].append(start(directory, [str(release / "bin/proj"), "start"], url))
        starts[NAMES[2]].append(start(directory, worker, url, **plain))
    return starts


def all_phases(directory: Path, url: str, release: Path, runs: int) -> dict[str, list[float]]:
    """Return each phase's seconds in each run."""
    probe, note = directory / "probe.py", directory / "note"
    probe.write_text(PROBE)
    wanted = ",".join(PHASES.values())
    command = [sys._base_executable, str(probe), str(note), wanted, str(release / "bin/proj"), "start"]  # type: ignore[attr-defined]
    phases: dict[str, list[float]] = {name: [] for name in PHASES}
    for _ in range(runs):
        began = time.monotonic()
        took = start(directory, command, url).seconds
        noted = {name: float(at) - began for at, name in (line.split(" ", 1) for line in note.read_text().splitlines())}
        times = [0.0, *(noted[event] for event in list(PHASES.values())[1:]), took]
        for name, since, until in zip(PHASES, times[:-1], times[1:], strict=True):
            phases[name].append(until - since)
    return phases


def start(directory: Path, command: list[str], url: str, **environ: str) -> Start:
    """Start a worker, and end it when it said hello."""
    hello, log = directory / "hello", directory / "log"
    for file in (hello, log):
        file.unlink(missing_ok=True)
    letter = Parent(owner="bench", pool="default", backend="local", queues=("celery",), concurrency=1)
    variables = {LETTER_VARIABLE: letter.encode(), RUNNER_ID_VARIABLE: "r1", HELLO_VARIABLE: str(hello)}
    path = f"{Path(sys._base_executable).parent}:/usr/bin:/bin"  # type: ignore[attr-defined]
    with running(command, log, {"PATH": path, "BROKER_URL": url, **variables, **environ}) as worker:
        began = time.monotonic()
        wait_until(lambda: hello.exists() or b" ready." in log.read_bytes(), what="a hello", poll=0.001)
        return Start(seconds=time.monotonic() - began, cpu=cpu_of(worker.pid))


@contextlib.contextmanager
def running(command: list[str], log: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, env=environ, cwd="/", stdout=output, stderr=output) as one:
        try:
            yield one
        finally:
            one.terminate()


def cpu_of(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def show(starts: dict[str, list[Start]], phases: dict[str, list[float]]) -> None:
    title = f"until hello, median of {len(starts[NAMES[0]])}"
    print(f"{title:32} {'seconds':>8} {'CPU':>6} {'ratio, median of pairs':>24}")
    for name, each in starts.items():
        ratio = statistics.median(one.seconds / ours.seconds for one, ours in zip(each, starts[NAMES[0]], strict=True))
        seconds, cpu = (statistics.median(getattr(one, what) for one in each) for what in ("seconds", "cpu"))
        print(f"{name:32} {seconds:8.3f} {cpu:6.2f} {ratio:24.2f}")
    medians = {name: statistics.median(times) for name, times in phases.items()}
    print("\nphases of the first, with a look at each import")
    for name, seconds in medians.items():
        print(f"{name:32} {seconds:8.3f} {seconds / sum(medians.values()):6.0%}")


if __name__ == "__main__":
    main()
