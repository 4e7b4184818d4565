"""A burst, end to end: a flooded queue, instances that come, work it empty, idle out and power themselves off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.box import Box
from tests.box.burst import Burst, told
from tests.servers import RabbitServer, RedisServer

TASKS, SECONDS, MAX = 300, 0.5, 3
PATIENCE = 120.0

pytestmark = pytest.mark.box


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def rabbit() -> Iterator[RabbitServer]:
    with RabbitServer() as server:
        yield server


def see_a_burst(burst: Burst, *words: str) -> None:
    """Flood the queue of a parent that was started with `words`, and see everything that must come of it."""
    parent = burst.parent(*words)
    results = [result.get(timeout=PATIENCE) for result in burst.flood(TASKS, SECONDS)]
    burst.box.wait_until_empty(PATIENCE)
    launched = [instance.instance_id for instance in burst.box.instances()]
    parent.says(r"pool burst: i-\w+ ended: idle", times=len(launched))

    places = Counter(result["runner"] for result in results)
    assert len(results) == TASKS
    assert places.total() - places["parent"] > TASKS / 2, places
    assert set(places) - {"parent"} <= set(launched)
    assert {result["pool"] for result in results if result["runner"] != "parent"} == {"burst"}
    assert 0 < burst.box.peak <= MAX
    assert {(i.state, i.cause) for i in burst.box.instances()} == {("terminated", "guest powered off")}
    assert not [call for call in burst.box.cloud.calls if call.action == "TerminateInstances"]
    assert sorted(told(parent, "up")) == sorted(told(parent, "ended")) == sorted(launched)


@pytest.mark.parametrize("words", [("worker", "--autoscale=2,1"), ("flame", "serve")], ids=["worker", "serve"])
def test_a_burst_on_redis(box: Box, redis: RedisServer, release: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    url = box.upload(release, "proj/1.tar.gz")
    with Burst(box, tmp_path, broker=redis.url, results=redis.url, bundle_url=url, pool={"max": MAX}) as burst:
        see_a_burst(burst, *words)


def test_a_burst_on_rabbitmq(box: Box, redis: RedisServer, rabbit: RabbitServer, release: Path, tmp_path: Path) -> None:
    url = box.upload(release, "proj/1.tar.gz")
    with Burst(box, tmp_path, broker=rabbit.url, results=redis.url, bundle_url=url, pool={"max": MAX}) as burst:
        see_a_burst(burst, "worker", "--autoscale=2,1")
