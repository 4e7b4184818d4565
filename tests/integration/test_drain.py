"""Does every kind of pool end in time, and give back what it holds?"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from celery_flame_ec2.cli.child import node_name
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.queues import measure
from tests.nursery import Nursery
from tests.servers import RedisServer
from tests.unit.test_imds import FakeMetadata
from tests.waiting import PATIENCE, wait_until
from tests.workers import Deployment

from .test_child import child, letter

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.fixture
def late(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url, task_acks_late=True, task_reject_on_worker_lost=True) as deployment:
        yield deployment


def waiting(server: RedisServer) -> int:
    return int(server.talk(b"LLEN celery\r\n").strip().lstrip(b":"))


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_that_is_due_later_keeps_no_runner_and_goes_back(
    pool: str, redis_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with Deployment(tmp_path, redis_url) as work:
        for number in range(3):
            work.send("square", number, countdown=3600)
        work.send("square", 3)
        runner = child(work, letter(concurrency=2, options={"pool": pool}, idle_shutdown_after=2.0))
        wait_until(lambda: work.numbers("square") == [3], what="the task that is due")
        assert runner.ends() == 0
        assert "idle for 2 s" in runner.output
        assert (waiting(redis_server), work.numbers("square")) == (3, [3])


@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_lets_a_task_finish(pool: str, late: Deployment, tmp_path: Path) -> None:
    released = tmp_path / "released"
    late.send("hold", 0, str(released))
    runner = child(late, letter(options={"pool": pool}))
    wait_until(lambda: late.noted("holding"), what="the task running")
    runner.signal(signal.SIGTERM)
    runner.says("flame: ending: told by SIGTERM")
    released.touch()
    assert runner.ends() == 0
    assert late.numbers("held") == [0]


@pytest.mark.parametrize("pool", POOLS)
def test_sigterm_gives_a_task_back_that_does_not_finish_in_time(
    pool: str, late: Deployment, redis_server: RedisServer, tmp_path: Path
) -> None:
    for number in range(3):
        late.send("hold", number, str(tmp_path / "never"))
    runner = child(late, letter(options={"pool": pool}, shutdown_timeout=1.0))
    wait_until(lambda: late.noted("holding"), what="a task running")
    runner.signal(signal.SIGTERM)
    runner.says(r"1 tasks did not finish within 1 s \(shutdown_timeout\)")
    runner.ends()
    assert waiting(redis_server) == 3


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("broker", ["rabbitmq", "sqs"])
def test_a_runner_told_to_end_finishes_one_task_and_gives_back_what_waits_or_is_due_later(
    broker: str,
    pool: str,
    request: pytest.FixtureRequest,
    nursery: Nursery,
    tmp_path: Path,
    unique_name: Callable[[str], str],
) -> None:
    url = str(request.getfixturevalue({"rabbitmq": "rabbit_url", "sqs": "sqs_url"}[broker]))
    queue, released = unique_name("drain"), tmp_path / "released"
    with Deployment(tmp_path, url, program=nursery.program, task_default_queue=queue) as work:
        for number in range(2):
            work.send("square", number, countdown=600, queue=queue)
        work.send("hold", 0, str(released), queue=queue)
        text = letter(queue, options={"pool": pool}, idle_shutdown_after=PATIENCE)
        runner = work.start("runner", "flame", "child", FLAME_PARENT=text, FLAME_RUNNER_ID="runner")
        wait_until(lambda: work.noted("holding"), what="the task running", timeout=PATIENCE)
        work.send("square", 2, queue=queue)
        runner.signal(signal.SIGTERM)
        runner.says("flame: ending: told by SIGTERM")
        released.touch()
        assert runner.ends() == 0
        with work.client.connection_for_read() as connection:
            depth = measure(connection, [queue]).depths[queue]
        assert work.numbers("held") == [0]
        assert depth.waiting + (depth.held or 0) + len(work.numbers("square")) == 3


@pytest.mark.parametrize("broker", ["redis_url", "rabbit_url"])
def test_what_waits_for_a_slot_runs_elsewhere_as_soon_as_its_runner_is_told_to_end(
    broker: str, request: pytest.FixtureRequest, nursery: Nursery, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue, released = unique_name("slot"), tmp_path / "released"
    url = str(request.getfixturevalue(broker))
    with Deployment(tmp_path, url, program=nursery.program, task_default_queue=queue) as work:
        work.send("hold", 0, str(released), queue=queue)
        work.send("square", 1, queue=queue)
        ids = {
            "FLAME_PARENT": letter(
                queue, options={"prefetch_multiplier": 2}, idle_shutdown_after=PATIENCE, shutdown_timeout=PATIENCE
            )
        }
        first = work.start("first", "flame", "child", **ids, FLAME_RUNNER_ID="first")
        first.says(r"Task work\.square\S+ received")
        first.signal(signal.SIGTERM)
        first.says("flame: ending: told by SIGTERM")
        second = work.start("second", "flame", "child", **ids, FLAME_RUNNER_ID="second")
        wait_until(lambda: work.noted("square"), what="the task that waited", timeout=PATIENCE)
        assert (work.noted("square")[0]["runner"], work.noted("held")) == ("second", [])
        released.touch()
        assert first.ends() == 0
        second.signal(signal.SIGTERM)
        assert second.ends() == 0
        assert (work.numbers("held"), work.numbers("square")) == ([0], [1])


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_remote_control_ends_a_runner_by_the_same_drain(pool: str, late: Deployment, tmp_path: Path) -> None:
    released = tmp_path / "released"
    late.send("hold", 0, str(released))
    runner = child(late, letter(options={"pool": pool}, idle_shutdown_after=60.0))
    wait_until(lambda: late.noted("holding"), what="the task running")
    late.client.control.shutdown(destination=[node_name("runner")])
    runner.says("flame: ending: told by remote control")
    released.touch()
    assert runner.ends() == 0
    assert late.numbers("held") == [0]


@pytest.fixture
def metadata() -> Iterator[FakeMetadata]:
    with FakeMetadata() as server:
        server.leaves["instance-life-cycle"] = "spot"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def on_ec2(server: FakeMetadata, text: str) -> str:
    base = f"http://127.0.0.1:{server.server_port}/latest"
    places = {"url": f"{base}/meta-data/", "token_url": f"{base}/api/token"}
    return dataclasses.replace(Parent.decode(text), backend="ec2", metadata=places).encode()


def notice(*, seconds: float) -> str:
    at = datetime.now(tz=timezone.utc) + timedelta(seconds=seconds)
    return f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'


def test_a_spot_notice_ends_a_runner_that_has_until_then_to_finish(
    late: Deployment, metadata: FakeMetadata, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    late.send("hold", 0, str(released))
    text = on_ec2(metadata, letter(shutdown_timeout=0.0))
    runner = child(late, text, AWS_EC2_METADATA_DISABLED="")
    wait_until(lambda: late.noted("holding"), what="the task running")
    metadata.leaves["spot/instance-action"] = notice(seconds=120)
    runner.says(r"ending: spot interruption notice: EC2 takes the machine in 1[012]\d s")
    released.touch()
    assert runner.ends() == 0
    assert late.numbers("held") == [0]


def test_a_spot_notice_that_leaves_no_time_gives_work_back_at_once(
    late: Deployment, metadata: FakeMetadata, redis_server: RedisServer, tmp_path: Path
) -> None:
    late.send("hold", 0, str(tmp_path / "never"))
    text = on_ec2(metadata, letter(shutdown_timeout=3600.0))
    runner = child(late, text, AWS_EC2_METADATA_DISABLED="")
    wait_until(lambda: late.noted("holding"), what="the task running")
    metadata.leaves["spot/instance-action"] = notice(seconds=10)
    runner.says("1 tasks did not finish before EC2 takes the machine")
    runner.ends()
    assert waiting(redis_server) == 1


def test_a_recommendation_ends_a_runner_where_that_is_wished(late: Deployment, metadata: FakeMetadata) -> None:
    metadata.leaves["events/recommendations/rebalance"] = '{"noticeTime": "2026-01-01T00:00:00Z"}'
    text = letter(idle_shutdown_after=60.0, end_on_rebalance=True)
    runner = child(late, on_ec2(metadata, text), AWS_EC2_METADATA_DISABLED="")
    assert runner.ends() == 0
    assert "ending: rebalance recommendation (end_on_rebalance)" in runner.output


def test_metadata_is_not_asked_on_a_machine_of_ones_own(late: Deployment, metadata: FakeMetadata) -> None:
    text = dataclasses.replace(Parent.decode(on_ec2(metadata, letter())), backend="local").encode()
    assert child(late, text, AWS_EC2_METADATA_DISABLED="").ends() == 0
    assert metadata.requests == []
