"""A boot that fails, as its parent sees it: the instance ends itself, and the log names the step and the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.box import Box
from tests.box.bundle import archive
from tests.box.burst import Burst
from tests.box.ec2 import BY_GUEST
from tests.servers import RedisServer

pytestmark = pytest.mark.box

GONE = 10.0  #: seconds from a failure to the end of the instance

CASES = {
    "a corrupt bundle": (b"no archive " * 1000, "unpack: the bundle cannot be unpacked"),
    "a release for another machine": (
        archive({"release.json": '{"celery_app": "proj", "platform": "riscv64-manylinux_2_39"}'}),
        "release: the release is built for riscv64, and this machine has x86_64; see --platform",
    ),
    "a start command that exits at once": (
        archive({"bin/proj": "#!/bin/sh\necho ImportError: no module named proj >&2\nexit 3\n"}),
        "start: the start command ended (exited 3): ImportError: no module named proj",
    ),
    "no credentials": (archive({"bin/proj": "#!/bin/sh\n"}), "credentials: the instance has no role"),
}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("case", CASES)
def test_the_parent_names_the_step_and_the_cause(case: str, open_box: Box, redis: RedisServer, tmp_path: Path) -> None:
    bundle, expected = CASES[case]
    key = f"{tmp_path.name}.tar.gz"
    (tmp_path / key).write_bytes(bundle)
    open_box.upload(tmp_path / key, key)
    open_box.give_credentials = case != "no credentials"
    url = f"s3://{open_box.cloud.bucket}/{key}"
    redis.talk(b"FLUSHALL\r\n")
    with Burst(open_box, tmp_path, broker=redis.url, results=redis.url, bundle_url=url, pool={"max": 1}) as burst:
        parent = burst.parent("flame", "serve")
        burst.flood(1, 0.1)
        (instance,) = parent.says(rf"launch failed: (i-\w+) did not come up: {re.escape(expected)}")[:1]
    open_box.give_credentials = True
    open_box.wait_for_console(instance, expected)
    assert open_box.wait_for(instance, "terminated", GONE).cause == BY_GUEST
    open_box.wait_until_empty()
