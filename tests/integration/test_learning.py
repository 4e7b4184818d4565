"""What does a parent at work learn of its tasks and of its runners' boots?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2.experience import BOOT_WEIGHT, FIRST_BOOT
from tests.waiting import wait_until
from tests.workers import Deployment, Program

POOL = {"queues": ["celery"], "max": 3, "max_concurrency": 1, "idle_shutdown_after": 5.0}
TASKS, SECONDS = 45, 1.0


class Pupil:
    """A parent whose policy tells what it learned."""

    def __init__(self, directory: Path, broker: str, **conf: Any) -> None:
        policy = "tests.integration.apps.policies:telling"
        self.work = Deployment(directory, broker, flame_pools={"pool": POOL}, flame_policy=policy, **conf)
        self._told = directory / "learned"

    def start(self, *words: str) -> Program:
        started = self.work.start("parent", *words, WORK_LEARNED=str(self._told))
        wait_until(lambda: self.learned()["knows"], what="a parent that hears", timeout=60)
        return started

    def learned(self) -> dict[str, Any]:
        return json.loads(self._told.read_text()) if self._told.exists() else {"knows": False, "ended": 0}

    def sees(self, ended: int) -> dict[str, Any]:
        """Wait until it learned from so many ends."""
        wait_until(lambda: self.learned()["ended"] >= ended, what=f"{ended} ends", timeout=90)
        return self.learned()


def good(learned: dict[str, Any]) -> bool:
    """Tell whether it saw most tasks end and knows how long they run; what runners did last it hears seconds later."""
    return bool(learned["ended"] > TASKS / 2 and SECONDS / 2 < learned["runtime"] < 2 * SECONDS)


@pytest.mark.parametrize("broker", ["redis_url", "rabbit_url"])
def test_a_parent_learns_how_long_tasks_run_and_how_long_boots_take(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue = unique_name("learn")
    pool = {"pool": {**POOL, "queues": [queue]}}
    pupil = Pupil(tmp_path, request.getfixturevalue(broker), task_default_queue=queue)
    pupil.work.conf["flame_pools"] = pool
    with pupil.work as work:
        parent = pupil.start("flame", "serve")
        for number in range(TASKS):
            work.send("square", number, SECONDS, queue=queue)
        wait_until(lambda: len(work.numbers("square")) == TASKS, what="all done", timeout=120)
        wait_until(lambda: good(pupil.learned()), what="what it learned being near the truth", timeout=60)
        learned = pupil.learned()
        boots = [float(seconds) for seconds in re.findall(r" is up, ([\d.]+) s after", parent.output)]
    assert len(boots) >= 3
    expected = FIRST_BOOT
    for seconds in boots:
        expected += BOOT_WEIGHT * (seconds - expected)
    assert learned["boot"] == pytest.approx(expected, abs=1.0)


def test_a_parent_learns_from_its_own_tasks_where_it_takes_no_others(redis_url: str, tmp_path: Path) -> None:
    pupil = Pupil(tmp_path, redis_url)
    pupil.work.conf["flame_pools"] = {"pool": {**POOL, "max": 0}}
    with pupil.work as work:
        pupil.start("worker", "-l", "INFO", "--autoscale=2,2")
        for number in range(40):
            work.send("square", number, 0.5)
        wait_until(lambda: len(work.numbers("square")) == 40, what="all done", timeout=120)
        learned = pupil.sees(40)
    assert (learned["ended"], learned["local"]) == (40, 2)
    assert 0.25 < learned["runtime"] < 1.0
