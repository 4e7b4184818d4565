"""Does `flame serve` raise and lose runners on every kind of broker, without a worker of its own?"""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import Deployment

from .conftest import serve

POOL = {"queues": ["celery"], "max": 2, "max_concurrency": 2, "idle_shutdown_after": 1.0}


def burst(work: Deployment, queue: str, *, tasks: int = 60) -> None:
    """Flood the queue and see it worked off by runners that were never more than max, and are gone in the end."""
    with work.watched() as watch:
        server = work.start("server", "flame", "serve")
        server.says("serving pool of ")
        for number in range(tasks):
            work.send("square", number, 0.05, queue=queue)
        wait_until(lambda: work.numbers("square") == list(range(tasks)), what="all tasks done once", timeout=60)
        server.says(r" ended: ", times=2)
        work.has_runners(0)
    assert watch.most == 2
    wait_until(lambda: server.output.count(" ended: ") == len(watch.seen), what="a line for each runner that ended")
    assert "launch failed" not in server.output
    assert all(entry["runner"] for entry in work.noted("square"))
    server.signal(signal.SIGTERM)
    assert server.ends() == 0


@pytest.mark.parametrize("kind", ["rabbitmq", "sqs"])
def test_a_burst_is_worked_off_without_a_worker_here(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue = unique_name("serve")
    url = request.getfixturevalue({"rabbitmq": "rabbit_url", "sqs": "sqs_url"}[kind])
    conf: dict[str, Any] = {"flame_pools": {"pool": {**POOL, "queues": [queue]}}, "task_default_queue": queue}
    if kind == "sqs":
        conf["broker_transport_options"] = {"region": "eu-central-1", "is_secure": False, "wait_time_seconds": 1}
    with Deployment(tmp_path, url, **conf) as work:
        work.client.conf.broker_transport_options = conf.get("broker_transport_options", {})
        burst(work, queue)


def test_a_burst_needs_no_server_at_all(tmp_path: Path) -> None:
    (tmp_path / "messages").mkdir()
    folder = str(tmp_path / "messages")
    options = {
        "data_folder_in": folder, "data_folder_out": folder, "control_folder": str(tmp_path / "control"),
        "polling_interval": 0.1,
    }  # fmt: skip
    # Before 5.7 a worker acknowledges, and so takes more, only every two seconds on a transport without an event loop.
    conf = {"flame_pools": {"pool": {**POOL, "idle_shutdown_after": 3.0}}, "broker_transport_options": options}
    with Deployment(tmp_path, "filesystem://", **conf) as work:
        work.client.conf.broker_transport_options = options
        burst(work, "celery", tasks=20)


def test_min_runners_are_there_without_any_work_and_come_back(redis_url: str, tmp_path: Path) -> None:
    flame = {"pool": {**POOL, "min": 2, "max": 2}}
    with Deployment(tmp_path, redis_url, flame_pools=flame) as work:
        server = work.start("server", "flame", "serve")
        server.says(" is up, ", times=2)
        runners = work.has_runners(2)
        one = next(iter(runners))
        work.run("flame", "reap", "--yes")
        server.says(f"{one} ended: ")
        server.says(" is up, ", times=4)
        assert not work.has_runners(2).keys() & runners.keys()


def test_a_runner_that_cannot_start_is_a_failed_launch_and_launches_pause(redis_url: str, tmp_path: Path) -> None:
    broken = {"pool": {**POOL, "env": {"WORK_CONF": "not json"}}}
    with Deployment(tmp_path, redis_url, flame_pools=broken) as work:
        for number in range(9):
            work.send("square", number)
        server = work.start("server", "flame", "serve")
        server.says(
            r"launch failed: local-\w+ did not come up: it was gone before its hello; last line: .*Couldn't import"
        )
        server.says(r"hold: .*next launch in \d+ s, after")


def test_a_broker_that_restarts_is_met_again(tmp_path: Path) -> None:
    for broker in serve(RedisServer):
        with Deployment(tmp_path, broker.url, flame_pools={"pool": {**POOL, "max": 1}}) as work:
            server = work.start("server", "flame", "serve")
            server.says("serving pool of ")
            broker.stop()
            server.says(r"broker: .*Connection refused")
            broker.start()
            for number in range(9):
                work.send("square", number)
            wait_until(lambda: work.numbers("square") == list(range(9)), what="all tasks done")
            server.says(r" is up, ")
            server.says(r" ended: idle for")
