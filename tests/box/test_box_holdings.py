"""Does a machine whose power is cut leave nothing behind in Redis that others must wait for?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.box.box import Box
from tests.box.burst import Burst, told
from tests.servers import RedisServer
from tests.waiting import wait_until

TASKS, SECONDS = 40, 1.0
#: Seconds within which what the machine held is back: its end is listed, and the next listing is at most 10 away.
AT_ONCE = 20.0
PATIENCE = 120.0

pytestmark = pytest.mark.box


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_what_a_machine_held_is_done_by_others_when_its_power_is_cut(
    box: Box, release: Path, redis: RedisServer, tmp_path: Path
) -> None:
    url = box.upload(release, "proj/1.tar.gz")
    pool, client = {"max": 2, "min": 2}, Redis.from_url(redis.url)
    with Burst(box, tmp_path, broker=redis.url, results=redis.url, bundle_url=url, pool=pool) as burst:
        parent = burst.parent("flame", "serve")
        parent.says(" is up, ", times=2)
        results = burst.flood(TASKS, SECONDS)
        victim = told(parent, "up")[0]
        wait_until(lambda: list(client.scan_iter(f"flame:held:*:{victim}")), what="the machine holding messages")
        box.cut_power(victim)
        parent.says(rf"gave back \d+ messages that {victim} held, which is gone", timeout=AT_ONCE)
        done = [result.get(timeout=PATIENCE) for result in results]
        assert {each["runner"] for each in done} >= set(told(parent, "up")) - {victim}
        assert not list(client.scan_iter(f"flame:held:*:{victim}"))
