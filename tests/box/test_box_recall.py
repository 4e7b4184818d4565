"""Does an instance end that is recalled while it boots, without a task and not as a failed boot, also by itself?"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery.result import AsyncResult
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from celery_flame_ec2.boot import FAILURE_PREFIX
from celery_flame_ec2.lifetime import RECALLED
from tests.box.box import Box
from tests.box.burst import Burst
from tests.box.ec2 import BY_GUEST, TERMINATED
from tests.integration.test_child import heard
from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import Program

UNIT = "flame-release.service"
#: Holds the boot right before the worker starts, until it is let go.
GATE = {
    f"etc/systemd/system/{UNIT}.d/gate.conf": "[Service]\nTimeoutStartSec=infinity\n"
    "ExecStartPre=+/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; done'\n"
}
#: Tasks that one runner takes at a time.
SLOTS = 4
#: Seconds far beyond what any wait here lasts: whatever ends earlier was not ended by the deadman.
BOOT_TIMEOUT = 1800

pytestmark = pytest.mark.box


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A parent that recalls all that boot as soon as nothing waits, and the one runner that stays up."""

    burst: Burst
    parent: Program
    first: str
    page: str
    redis: Redis

    def recalled(self) -> str:
        """Have one more instance launched than is needed, and return its id once it is recalled."""
        self.halt(self.first)
        before = len(self._launched())
        results = self.burst.flood(2 * SLOTS, 0.1)
        booting = wait_until(lambda: self._launched()[before:], what="one more launch")[0]
        self.go_on(self.first)
        self.parent.says(f"pool burst: recalled {booting}")
        assert places(results) == {self.first}
        return booting

    def halt(self, instance: str) -> None:
        self._to_worker("STOP", instance)

    def go_on(self, instance: str) -> None:
        self._to_worker("CONT", instance)

    @property
    def waiting(self) -> int:
        return int(self.redis.llen("celery"))

    def tells_of(self, instance: str) -> None:
        """See that its end is told as a recall, and no launch as failed: in the log, the status and the metrics."""
        self.parent.says(f"pool burst: {instance} ended: {RECALLED}\n")
        ended = wait_until(lambda: self._ended().get(instance), what=f"{instance} among those that ended")
        assert ended == RECALLED
        assert self._counts("flame_runners_ended", "reason").keys() == {"recalled"}
        assert not self._counts("flame_launch_failures", "cause")
        assert "launch failed" not in self.parent.output

    def _ended(self) -> dict[str, str]:
        return {each["id"]: each["reason"] for each in json.loads(self._ask("status.json"))["pools"]["burst"]["ended"]}

    def _counts(self, name: str, label: str) -> dict[str, float]:
        (family,) = (each for each in text_string_to_metric_families(self._ask("metrics")) if each.name == name)
        return {sample.labels[label]: sample.value for sample in family.samples if sample.value}

    def _ask(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.page}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def _launched(self) -> list[str]:
        return re.findall(r"pool burst: launched (i-\w+)", self.parent.output)

    def _to_worker(self, signal: str, instance: str) -> None:
        done = self.burst.box.run(instance, "systemctl", "kill", f"--signal={signal}", "--kill-who=main", UNIT)
        assert done.returncode == 0, done.stderr


def places(results: list[AsyncResult[dict[str, str]]]) -> set[str]:
    """Return on which runners all these tasks ran."""
    return {result.get(timeout=60.0)["runner"] for result in results}


def let_go(box: Box, instance: str) -> None:
    box.wait_for_console(instance, "flame: release started")
    assert box.run(instance, "touch", "/run/go").returncode == 0


@pytest.fixture(scope="module")
def scene(open_box: Box, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    box, url, directory = open_box, open_box.upload(release, "proj/1.tar.gz"), tmp_path_factory.mktemp("burst")
    pool = {"min": 1, "max": 2, "max_concurrency": SLOTS}
    ec2 = {"image_id": box.bake(GATE), "boot_timeout": BOOT_TIMEOUT}
    with (
        RedisServer() as redis,
        Redis.from_url(redis.url) as client,
        Burst(
            box, directory, broker=redis.url, results=redis.url, bundle_url=url,
            pool=pool, ec2=ec2, policy="tests.depth:hasty",
        ) as burst,
    ):  # fmt: skip
        parent = burst.parent("flame", "serve", "--http", "127.0.0.1:0")
        (page,) = parent.says(r"status page on (\S+)")
        (first,) = parent.says(r"pool burst: launched (i-\w+)")
        let_go(box, first)
        parent.says(f"pool burst: {first} is up, ")
        yield Scene(burst=burst, parent=parent, first=first, page=page, redis=client)


def test_an_instance_that_is_recalled_while_it_boots_is_terminated(scene: Scene, open_box: Box) -> None:
    recalled = scene.recalled()
    assert open_box.wait_for(recalled, "terminated").cause == TERMINATED
    scene.tells_of(recalled)


def test_one_that_ec2_does_not_terminate_takes_nothing_and_powers_off(scene: Scene, open_box: Box) -> None:
    open_box.cloud.fail("TerminateInstances", code="UnauthorizedOperation", status=403, times=None)
    with heard(scene.burst.client) as events:
        recalled = scene.recalled()
        scene.parent.says("pool burst: .*UnauthorizedOperation")
        scene.halt(scene.first)
        results = scene.burst.flood(SLOTS, 0.1)
        let_go(open_box, recalled)
        assert open_box.wait_for(recalled, "terminated").cause == BY_GUEST
        open_box.cloud.heal()
        assert scene.waiting, "the tasks waited for whoever would take them all the time that it was up"
        said = [event for event in events() if event["runner"] == recalled]
    assert {(event["state"], event["reason"], event["taken"]) for event in said} == {("ending", RECALLED, 0)}
    console = open_box.instance(recalled).console
    assert "flame: recalled: " in console
    assert "flame: ended (exited 0)" in console
    assert FAILURE_PREFIX not in console

    scene.go_on(scene.first)
    assert places(results) == {scene.first}
    scene.tells_of(recalled)
