"""Does a runner on a spot instance leave before EC2 takes it, and is its worker there what its unit makes of it?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_flame_ec2.watchdog import PATIENCE
from tests.box.box import Box
from tests.box.burst import CELERY, Burst, told
from tests.box.ec2 import BY_GUEST
from tests.servers import RedisServer
from tests.waiting import wait_until

#: Seconds of each task, and of the notice: the tasks that run when it is given are over long before.
SECONDS, NOTICE = 5.0, 120.0
TASKS = 6
PATIENT = 120.0

pytestmark = pytest.mark.box


@pytest.fixture
def burst(box: Box, release: Path, tmp_path: Path) -> Iterator[Burst]:
    """One runner at a time, on a spot instance, with a pool whose drain would not last for one task."""
    url = box.upload(release, "proj/1.tar.gz")
    pool = {"max": 1, "market": "spot", "max_concurrency": 2, "shutdown_timeout": 1}
    with (
        RedisServer() as redis,
        Burst(box, tmp_path, broker=redis.url, results=redis.url, bundle_url=url, pool=pool) as opened,
    ):
        yield opened


def test_a_runner_whose_machine_is_about_to_be_taken_finishes_its_tasks_and_powers_off(burst: Burst) -> None:
    box, parent = burst.box, burst.parent("flame", "serve")
    results = burst.flood(TASKS, SECONDS)
    first = parent.says(r"pool burst: (i-\w+) is up", timeout=PATIENT)[0]
    wait_until(lambda: len(pool_processes(box, first)) == 2, what="the pool's processes", timeout=PATIENT)
    assert_is_the_last_to_go(box, first)
    assert_gives_signs_of_life(box, first)

    box.interrupt(first, NOTICE)
    ended = box.wait_for(first, "terminated", NOTICE)
    assert ended.cause == BY_GUEST
    parent.says(rf"pool burst: {first} ended: spot interruption notice: EC2 takes the machine in 1[012]\d s")
    assert first in status(burst)
    done = [result.get(timeout=PATIENT) for result in results]
    on_first = [each for each in done if each["runner"] == first]
    assert on_first
    assert len(on_first) < len(done)
    assert told(parent, "up")[0] == first


def main_process(box: Box, instance: str) -> str:
    return box.run(
        instance, "systemctl", "show", "--property=MainPID", "--value", "flame-release.service"
    ).stdout.strip()


def pool_processes(box: Box, instance: str) -> list[str]:
    return box.run(instance, "pgrep", "--parent", main_process(box, instance)).stdout.split()


def assert_is_the_last_to_go(box: Box, instance: str) -> None:
    """See that the kernel takes any pool process before the worker when memory runs out."""
    paths = [f"/proc/{pid}/oom_score_adj" for pid in (main_process(box, instance), *pool_processes(box, instance))]
    worker, *pool = map(int, box.run(instance, "cat", *paths).stdout.split())
    assert worker < min(pool)


def assert_gives_signs_of_life(box: Box, instance: str) -> None:
    asked = box.run(instance, "systemctl", "show", "--property=WatchdogUSec", "--value", "flame-release.service").stdout
    assert asked.strip() == f"{PATIENCE / 60:.0f}min"


def status(burst: Burst) -> str:
    """Return why runners ended, as an operator reads it."""
    asked = [*CELERY, "flame", "status", "--json"]
    done = subprocess.run(asked, cwd=burst.directory, env=burst.environ, capture_output=True, text=True, check=True)
    return json.dumps(json.loads(done.stdout))
