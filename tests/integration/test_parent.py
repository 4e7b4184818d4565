"""Does a worker with `--autoscale` grow past its machine, and stay the worker it was?"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RedisServer
from tests.slow_aws import SlowAws
from tests.waiting import PATIENCE, wait_until
from tests.workers import Deployment, one_line_error

from .conftest import serve

POOL = {"queues": ["celery"], "max": 3, "max_concurrency": 1, "idle_shutdown_after": 1.0}


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue({"redis": "redis_url", "rabbitmq": "rabbit_url"}[request.param]))


def pools(**options: Any) -> dict[str, Any]:
    return {"pool": {**POOL, **options}}


def waiting(work: Deployment, queue: str = "celery") -> int:
    with work.client.connection_for_read() as connection:
        return int(connection.default_channel.queue_declare(queue, passive=True).message_count)


def test_a_burst_is_worked_off_by_runners_that_come_and_go(
    broker: str, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue = unique_name("burst")
    flame = pools(queues=[queue], max_concurrency=2)
    with Deployment(tmp_path, broker, flame_pools=flame, task_default_queue=queue) as work, work.watched() as watch:
        parent = work.worker("--autoscale=2,1")
        for number in range(2):  # its own processes are busy until there are runners, however long that takes
            work.send("hold", number, str(tmp_path / "released"), queue=queue)
        results = [work.send("square", number, 0.3, queue=queue) for number in range(200)]
        parent.says(r" is up, ", times=3)
        (tmp_path / "released").touch()
        answers = [result.get(timeout=PATIENCE) for result in results]
        parent.says(r" ended: idle for", times=3)
        work.has_runners(0)
    assert [answer["square"] for answer in answers] == [number**2 for number in range(200)]
    assert sum(answer["runner"] is not None for answer in answers) > 100
    assert watch.most == 3
    assert parent.output.count(" is up, ") == len(watch.seen)
    assert parent.output.count(" ended: ") == len(watch.seen)


@pytest.mark.parametrize(("late", "words", "conf", "most"), [
    (False, [], {}, 20),
    (True, [], {}, 10),
    (False, [], {"worker_prefetch_multiplier": 4}, 50),
    (True, ["--prefetch-multiplier=4"], {}, 40),
])  # fmt: skip
def test_the_parent_holds_ten_more_than_it_runs_unless_the_user_chose_otherwise(
    late: bool, words: list[str], conf: dict[str, Any], most: int, redis_url: str, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    flame = pools(max=0)
    with Deployment(tmp_path, redis_url, flame_pools=flame, task_acks_late=late, **conf) as work:
        for number in range(60):
            work.send("hold", number, str(released))
        parent = work.worker("--autoscale=10,1", *words)
        wait_until(lambda: len(work.noted("holding")) == 10, what="ten local processes at work", timeout=60)
        wait_until(lambda: waiting(work) <= 60 - most, what=f"the parent taking {most}")
        assert work.client.control.inspect(timeout=30, limit=1).ping()  # it had a whole turn to take more
        left = waiting(work)
        released.touch()
        wait_until(lambda: work.numbers("held") == list(range(60)), what="all tasks done", timeout=60)
    assert "Scaling up" in parent.output
    assert left == 60 - most  # what is acknowledged early runs beside what is held


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_autoscale_of_a_pool_that_cannot_be_sized_is_refused_at_start(
    pool: str, redis_url: str, tmp_path: Path
) -> None:
    with Deployment(tmp_path, redis_url, flame_pools=pools()) as work:
        ended = work.run("worker", "--pool", pool, "--autoscale=4,1")
    assert f"cannot size a {pool!r} pool" in one_line_error(ended)


def test_a_gevent_parent_works_and_launches(redis_url: str, tmp_path: Path) -> None:
    with Deployment(tmp_path, redis_url, flame_pools=pools(max=1)) as work:
        parent = work.worker("--pool=gevent", "--autoscale=4,2")
        for number in range(4):  # it is busy itself until there is a runner
            work.send("hold", number, str(tmp_path / "released"))
        results = [work.send("square", number, 0.2) for number in range(80)]
        parent.says(r" is up, ")
        (tmp_path / "released").touch()
        answers = [result.get(timeout=PATIENCE) for result in results]
        parent.says(r" ended: idle for")
    assert [answer["square"] for answer in answers] == [number**2 for number in range(80)]
    assert {answer["runner"] is None for answer in answers} == {True, False}
    assert "Scaling up" in parent.output


def test_slow_answers_of_ec2_delay_nothing_else(redis_url: str, tmp_path: Path) -> None:
    with SlowAws(delay=10) as aws:
        options = {
            "image_id": "ami-00000000", "subnet_id": "subnet-00000000", "security_group_id": "sg-00000000",
            "app": "proj", "instance_type": "t3.nano", "region": "eu-central-1", "s3_bundle_url": "s3://releases/proj.tar.gz",
            "ec2_service_endpoint": aws.url, "s3_service_endpoint": aws.url, "allow_local_broker": True,
        }  # fmt: skip
        conf = {"flame_pools": pools(), "flame_backend": "ec2", "flame_ec2": options}
        with Deployment(tmp_path, redis_url, **conf) as work:
            plain = work.worker("--autoscale=2,1", name="plain", WORK_CONF=_with(work, worker_autoscaler=None))
            parent = work.worker("--autoscale=2,1", name="parent")
            wait_until(lambda: aws.answering, what="EC2 being asked")
            (plain_name,), (parent_name,) = plain.says(r"(plain@\S+) ready")[:1], parent.says(r"(parent@\S+) ready")[:1]
            pings: dict[str, list[float]] = {plain_name: [], parent_name: []}
            while len(pings[parent_name]) < 40:
                for name, seconds in pings.items():
                    work.send("square", 1)  # each message lets the worker look at its size
                    seconds.append(_ping(work, name, patience=aws.delay / 2))
            assert aws.answering
    assert statistics.median(pings[parent_name]) < 10 * statistics.median(pings[plain_name])
    nine_in_ten = {name: statistics.quantiles(seconds, n=10)[-1] for name, seconds in pings.items()}
    assert nine_in_ten[parent_name] < 10 * nine_in_ten[plain_name]  # and none waited as long as EC2 does


def test_an_exception_in_a_round_is_logged_and_survived(redis_url: str, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    trouble.touch()
    conf = {"flame_pools": pools(max=1), "flame_policy": "tests.integration.apps.policies:troubled"}
    with Deployment(tmp_path, redis_url, **conf) as work:
        parent = work.worker("--autoscale=2,1", WORK_TROUBLE=str(trouble))
        parent.says(r"ERROR.*a policy in trouble")
        assert work.send("square", 3).get(timeout=PATIENCE)["square"] == 9
        trouble.unlink()
        for number in range(40):
            work.send("square", number, 0.2)
        parent.says(r" is up, ")


def test_runners_outlive_a_killed_parent_and_the_next_one_adopts_them(redis_url: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    with Deployment(tmp_path, redis_url, flame_pools=pools(max=2)) as work, work.watched() as watch:
        first = work.worker("--autoscale=1,1", name="first")
        for number in range(30):
            work.send("hold", number, str(released))
        first.says(r" is up, ", times=2)
        adopted = work.has_runners(2)
        first.kill()
        second = work.worker("--autoscale=1,1", name="second")
        second.says(r" is up, ", times=2)
        assert work.runners() == adopted
        released.touch()
        second.says(r" ended: idle for", times=2)
        work.has_runners(0)
    assert watch.seen == adopted.keys()
    assert all(name in second.output for name in adopted)
    # The task in the killed parent's own process is lost: it was acknowledged early. All others are done.
    lost = {entry["number"] for entry in work.noted("holding") if entry["runner"] is None}
    assert {*work.numbers("held"), *lost} >= {entry["number"] for entry in work.noted("holding")}


def test_a_parent_told_to_stop_leaves_its_runners_running(redis_url: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    with Deployment(tmp_path, redis_url, flame_pools=pools(max=2, idle_shutdown_after=4)) as work:
        parent = work.worker("--autoscale=1,1")
        for number in range(20):
            work.send("hold", number, str(released))
        parent.says(r" is up, ", times=2)
        runners = work.has_runners(2)
        released.touch()
        parent.stop()
        assert "Warm shutdown" in parent.output
        assert work.runners().keys() <= runners.keys()
        wait_until(lambda: work.numbers("held") == list(range(20)), what="all tasks done")
        work.has_runners(0)


def test_a_broker_that_stands_still_makes_the_parent_hold(tmp_path: Path) -> None:
    released = tmp_path / "released"
    flame = pools(max=2)
    for server in serve(RedisServer):
        with Deployment(tmp_path, server.url, flame_pools=flame) as work, work.watched() as watch:
            parent = work.worker("--autoscale=1,1")
            for number in range(3):  # one runs here, one is next here, one is left
                work.send("hold", number, str(released))
            parent.says(r" is up, ")
            before = work.has_runners(1)
            with server.paused():
                parent.says(r": hold: the queues' depth is unknown")
                assert work.runners() == before
            for number in range(3, 20):
                work.send("hold", number, str(released))
            assert before.keys() < work.has_runners(2).keys()
            released.touch()
            wait_until(lambda: work.numbers("held") == list(range(20)), what="all tasks done")
            parent.says(r" ended: idle for", times=2)
    assert watch.most == 2
    assert "reaping" not in parent.output


def _with(work: Deployment, **conf: Any) -> str:
    return json.dumps({name: value for name, value in {**work.conf, **conf}.items() if value is not None})


def _ping(work: Deployment, name: str, *, patience: float) -> float:
    begun = time.monotonic()
    assert work.client.control.inspect(timeout=patience, destination=[name]).ping() == {name: {"ok": "pong"}}
    return time.monotonic() - begun
