"""Is a task that its runner acknowledges late done in the end, or given up, and the runner free for others?"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import boto3
import pytest

from tests.servers import RabbitServer
from tests.waiting import PATIENCE, wait_until
from tests.workers import Deployment, Program

from .conftest import serve
from .test_child import child, letter

POISON = "tests.integration.apps.poison:app"


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue({"redis": "redis_url", "rabbitmq": "rabbit_url"}[request.param]))


@pytest.fixture
def queue(unique_name: Callable[[str], str]) -> str:
    return unique_name("custody")


@pytest.fixture
def work(broker: str, queue: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, broker, app=POISON, task_default_queue=queue) as deployment:
        yield deployment


def processes_of(runner: Program) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()]


def test_a_task_whose_process_is_killed_runs_again(work: Deployment, queue: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    runner = child(work, letter(queue))
    result = work.send("hold", 1, str(released), queue=queue)
    wait_until(lambda: work.noted("holding"), what="the task running")
    (pid,) = processes_of(runner)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(work.noted("holding")) == 2, what="the task running again")
    released.touch()
    assert result.get(timeout=PATIENCE) == 1
    assert runner.ends() == 0


def test_a_task_that_kills_its_process_fails_after_the_third_and_the_runner_goes_on(
    work: Deployment, queue: str
) -> None:
    runner = child(work, letter(queue))
    poison, food = work.send("die", 1, queue=queue), work.send("square", 2, queue=queue)
    with pytest.raises(Exception, match="Worker exited prematurely"):
        poison.get(timeout=60)
    assert food.get(timeout=PATIENCE)["square"] == 4
    assert runner.ends() == 0
    assert work.numbers("die") == [1, 1, 1]


def test_a_task_without_memory_fails_once_and_the_runner_goes_on(work: Deployment, queue: str) -> None:
    runner = child(work, letter(queue))
    poison, food = work.send("exhaust", 1, queue=queue), work.send("square", 2, queue=queue)
    with pytest.raises(MemoryError):
        poison.get(timeout=60)
    assert food.get(timeout=PATIENCE)["square"] == 4
    assert runner.ends() == 0
    assert "idle for 1 s" in runner.output
    assert work.numbers("exhaust") == [1]


def test_a_task_of_an_app_that_wants_early_acknowledgement_is_lost_with_its_process(
    broker: str, queue: str, tmp_path: Path
) -> None:
    with Deployment(tmp_path, broker, app=POISON, task_default_queue=queue, task_acks_late=False) as work:
        runner = child(work, letter(queue))
        with pytest.raises(Exception, match="Worker exited prematurely"):
            work.send("die", 1, queue=queue).get(timeout=60)
        assert runner.ends() == 0
        assert work.numbers("die") == [1]


class ImpatientRabbit(RabbitServer):
    """One that waits 5 s for an acknowledgement, where others wait for half an hour."""

    def environment(self) -> Mapping[str, str]:
        found = dict(super().environment())
        found["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
            " -rabbit consumer_timeout 5000 -rabbit channel_tick_interval 500"
        )
        return found


def test_a_task_longer_than_rabbitmq_waits_is_done_once_and_what_waits_behind_it_too(
    queue: str, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    for server in serve(ImpatientRabbit):
        with Deployment(tmp_path, server.url, task_default_queue=queue) as work:
            command = [sys.executable, "-m", "tests.integration.apps.patient"]
            worker = Program(command, directory=tmp_path, name="patient", env=work.environ)
            worker.start()
            work.processes.append(worker)
            long, due, behind = (
                work.send("hold", 1, str(released), queue=queue),
                work.send("square", 2, queue=queue, countdown=9),
                work.send("square", 3, queue=queue),
            )
            worker.says(r"acknowledged work\.hold\S+, which still runs after 2 s")
            worker.says(r"gave work\.square\S+ .*back, which waited here for 2 s", times=4)
            released.touch()
            assert long.get(timeout=PATIENCE) == 1
            assert [result.get(timeout=PATIENCE)["square"] for result in (due, behind)] == [4, 9]
            assert worker.running
            assert (work.numbers("held"), work.numbers("square")) == ([1], [2, 3])


def test_a_task_longer_than_sqs_hides_it_is_done_once(sqs_url: str, aws_url: str, queue: str, tmp_path: Path) -> None:
    options = {
        "region": "eu-central-1", "is_secure": False, "visibility_timeout": 12, "wait_time_seconds": 1,
        "polling_interval": 0.2,
    }  # fmt: skip
    sqs = boto3.client("sqs", region_name="eu-central-1", endpoint_url=aws_url)

    def left() -> int:
        url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        return sum(int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible"))

    released = tmp_path / "released"
    with Deployment(tmp_path, sqs_url, task_default_queue=queue, broker_transport_options=options) as work:
        work.client.conf.broker_transport_options = options
        runner = child(work, letter(queue, concurrency=2))  # another process would take it at once
        result = work.send("hold", 1, str(released), queue=queue)
        wait_until(lambda: work.noted("holding"), what="the task running")
        assert left() == 1
        runner.says(r"acknowledged work\.hold\S+, which still runs after 10 s")
        wait_until(lambda: left() == 0, what="SQS having forgotten it")
        released.touch()
        assert result.get(timeout=PATIENCE) == 1
        assert runner.ends() == 0
        assert work.numbers("holding") == [1]


def test_rabbitmq_soon_notices_a_runner_that_stands_still(rabbit_url: str, queue: str, tmp_path: Path) -> None:
    with Deployment(tmp_path, rabbit_url, task_default_queue=queue) as work:
        runner = child(work, letter(queue))
        work.send("hold", 1, str(tmp_path / "never"), queue=queue)
        wait_until(lambda: work.noted("holding"), what="the task running")
        runner.signal(signal.SIGSTOP)
        try:
            with work.client.connection_for_read() as connection:
                wait_until(
                    lambda: connection.default_channel.queue_declare(queue, passive=True).message_count == 1,
                    what="the message in its queue again",
                    timeout=90,  # with Celery's own heartbeat it would be 175
                    poll=0.5,
                )
        finally:
            runner.signal(signal.SIGKILL)
