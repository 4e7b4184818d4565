"""What does the plugin add to `celery --help`, to a worker's start and to its memory?

    make bench-cost [JSON=figures.json]     or: python -m benchmarks.cost [--turns 7] [--rest 10] [--json figures.json]

Two new virtual environments hold the very same packages, one of them this one too, from its wheel. In turn, so that all
see the same machine: Celery alone, with local pools, and with EC2 pools against a server that answers as EC2 does. Each
worker is a `celery worker --autoscale=4,1` on a real Redis; the one with EC2 pools launches an instance meanwhile. What
is told as more is the median of the differences within a turn.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uv

from tests.box.cloud import Cloud
from tests.servers import RedisServer
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
APP = """\
import json, os
from celery import Celery
app = Celery("cost")
app.conf.update(json.loads(os.environ["COST_CONF"]))
"""
ALONE, LOCAL, EC2 = "Celery alone", "local pools", "EC2 pools"
#: How often `celery --help` runs in a turn, of which the median counts; a worker starts once.
HELPS = 3
#: What may be added at most: milliseconds and MB.
AIMS = {"celery --help": 50.0, "worker until ready": 100.0, "main process at work, PSS": 30.0}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A way to run Celery: whose programs, and with which environment."""

    name: str
    bin: Path
    environ: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """MB of a worker: of its main process, and of it with its pool's processes."""

    rss: float
    pss: float
    pss_of_all: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What was measured of one setup in one turn: milliseconds, and MB when ready and at work."""

    help: float
    help_cpu: float
    start: float
    start_cpu: float
    ready: Memory
    at_work: Memory


FIGURES: dict[str, Callable[[Sample], float]] = {
    "celery --help": lambda sample: sample.help,
    "celery --help, CPU time": lambda sample: sample.help_cpu,
    "worker until ready": lambda sample: sample.start,
    "worker until ready, CPU time": lambda sample: sample.start_cpu,
    "main process when ready, RSS": lambda sample: sample.ready.rss,
    "main process when ready, PSS": lambda sample: sample.ready.pss,
    "with its pool's, PSS": lambda sample: sample.ready.pss_of_all,
    "main process at work, RSS": lambda sample: sample.at_work.rss,
    "main process at work, PSS": lambda sample: sample.at_work.pss,
    "with its pool's at work, PSS": lambda sample: sample.at_work.pss_of_all,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rest", type=float, default=10.0, help="seconds of rounds before memory is read again")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-cost-") as temporary, RedisServer() as redis, Cloud() as cloud:
        directory = Path(temporary)
        setups = prepare(directory, redis.url, cloud)
        turns = [turn(directory, setups, options.rest, number) for number in range(-1, options.turns)][1:]
    show(turns)
    if options.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        machine |= {name: version(name) for name in ("celery", "kombu", "redis", "boto3")}
        figures = [{name: asdict(sample) for name, sample in samples.items()} for samples in turns]
        options.json.write_text(json.dumps({"machine": machine, "turns": figures}, indent=2) + "\n")


def prepare(directory: Path, broker: str, cloud: Cloud) -> list[Setup]:
    """Install both environments, and return what is run in turn."""
    (directory / "cost.py").write_text(APP)
    packages = ["celery[redis]", "kombu", "redis", "boto3", "python-dateutil"]
    pins = [f"{package}=={version(package.partition('[')[0])}" for package in packages]
    run_uv("build", "--quiet", "--wheel", "--out-dir", directory / "dist", ROOT)
    (wheel,) = (directory / "dist").glob("*.whl")
    alone, plugin = install(directory / "alone", *pins), install(directory / "plugin", *pins, str(wheel))
    conf = {"broker_url": broker, "result_backend": broker, "broker_connection_retry_on_startup": True}
    pool = {"queues": ["burst"], "max": 4, "max_concurrency": 1}
    local = {**conf, "worker_autoscaler": "celery_flame_ec2:Autoscaler", "flame_pools": {"pool": pool}}
    far = {"flame_backend": "ec2", "flame_ec2": ec2_options(cloud), "flame_pools": {"pool": {**pool, "min": 1}}}
    return [
        Setup(name=ALONE, bin=alone, environ=environ(directory, conf)),
        Setup(name=LOCAL, bin=plugin, environ=environ(directory, local)),
        Setup(name=EC2, bin=plugin, environ={**environ(directory, {**local, **far}), **cloud.environment()}),
    ]


def install(place: Path, *requirements: str) -> Path:
    """Install into a new virtual environment; return where its programs are."""
    run_uv("venv", "--quiet", "--python", sys.executable, place)
    run_uv("pip", "install", "--quiet", "--compile-bytecode", "--python", place / "bin" / "python", *requirements)
    return place / "bin"


def run_uv(*words: str | Path) -> None:
    subprocess.run([uv.find_uv_bin(), *words], check=True)


def ec2_options(cloud: Cloud) -> dict[str, Any]:
    return {
        "app": "cost",
        "s3_bundle_url": cloud.bundle_url,
        "s3_service_endpoint": cloud.endpoint,
        "ec2_service_endpoint": cloud.endpoint,
        "region": cloud.region,
        "image_id": cloud.image_id,
        "subnet_id": cloud.subnet_id,
        "security_group_id": cloud.security_group_id,
        "instance_type": "t3.micro",
        "allow_local_broker": True,
    }


def environ(directory: Path, conf: dict[str, Any]) -> dict[str, str]:
    place = str(directory)
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": place, "HOME": place, "COST_CONF": json.dumps(conf)}


def turn(directory: Path, setups: list[Setup], rest: float, number: int) -> dict[str, Sample]:
    """Measure each setup once, in another order than in the turn before. A first turn, -1, warms the caches."""
    shift = number % len(setups)
    samples = {setup.name: measured(directory, setup, rest) for setup in setups[shift:] + setups[:shift]}
    print(f"turn {number + 1}", file=sys.stderr, flush=True)
    return samples


def measured(directory: Path, setup: Setup, rest: float) -> Sample:
    helped, helped_cpu = map(statistics.median, zip(*(help_of(setup) for _ in range(HELPS)), strict=True))
    began = time.monotonic()
    with worker(directory, setup) as pid:
        started, cpu, ready = time.monotonic() - began, cpu_of(pid), memory_of(pid)
        time.sleep(rest)
        return Sample(
            help=helped, help_cpu=helped_cpu, start=1000 * started, start_cpu=1000 * cpu,
            ready=ready, at_work=memory_of(pid),
        )  # fmt: skip


def help_of(setup: Setup) -> tuple[float, float]:
    """Return the milliseconds that `celery --help` takes, and those of CPU time."""
    began = time.monotonic()
    with subprocess.Popen([setup.bin / "celery", "--help"], env=setup.environ, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
    return 1000 * (time.monotonic() - began), 1000 * (used.ru_utime + used.ru_stime)


@contextmanager
def worker(directory: Path, setup: Setup) -> Iterator[int]:
    """Run a worker; give its process id when it is ready."""
    log = directory / "log"
    command = [setup.bin / "celery", "-A", "cost", "worker", "--autoscale=4,1", "--loglevel=INFO"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=setup.environ, cwd=directory, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or b" ready." in log.read_bytes(), what="a worker", poll=0.001)
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def cpu_of(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> Memory:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    own = rollup(pid)
    return Memory(rss=own["Rss"], pss=own["Pss"], pss_of_all=own["Pss"] + sum(rollup(int(c))["Pss"] for c in children))


def rollup(pid: int) -> dict[str, float]:
    """Return what the kernel counts of a process, in MB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) / 1024 for name, _, rest in (row.partition(":") for row in rows)}


def show(turns: list[dict[str, Sample]]) -> None:
    print(f"{f'median of {len(turns)}; ms and MB':<32}{ALONE:>14}", end="")
    print("".join(f"{name:>14}{'more':>8}{'ratio':>7}" for name in (LOCAL, EC2)))
    for figure, of in FIGURES.items():
        alone = [of(samples[ALONE]) for samples in turns]
        line = f"{figure:<32}{statistics.median(alone):>14.1f}"
        for name in (LOCAL, EC2):
            ours = [of(samples[name]) for samples in turns]
            more = statistics.median(b - a for a, b in zip(alone, ours, strict=True))
            ratio = statistics.median(b / a for a, b in zip(alone, ours, strict=True))
            line += f"{statistics.median(ours):>14.1f}{more:>+8.1f}{ratio:>7.2f}"
        print(line + (f"   aim: +{AIMS[figure]:g}" if figure in AIMS else ""))


if __name__ == "__main__":
    main()
