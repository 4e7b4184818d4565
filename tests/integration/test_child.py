"""Does a runner end when it should, say so, and lose nothing by it?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2.parent import Parent
from celery_flame_ec2.presence import EVENT, ROUTING_KEY
from celery_flame_ec2.runner import Limits
from tests.servers import RedisServer
from tests.waiting import PATIENCE, wait_until
from tests.workers import Deployment, Program, one_line_error

from .conftest import serve

LETTER = Parent(
    owner="test",
    pool="pool",
    backend="local",
    queues=("celery",),
    concurrency=1,
    limits=Limits(idle_shutdown_after=1.0),
)


def letter(
    queue: str = "celery",
    *,
    more: Sequence[str] = (),
    concurrency: int = 1,
    options: dict[str, Any] | None = None,
    **limits: Any,
) -> str:
    changed = dataclasses.replace(
        LETTER,
        queues=(queue, *more),
        concurrency=concurrency,
        worker_options=options or {},
        limits=dataclasses.replace(LETTER.limits, **limits),
    )
    return changed.encode()


def child(work: Deployment, text: str, *, name: str = "runner", **environ: str) -> Program:
    """Start a runner's worker, as a backend would."""
    return work.start(name, "flame", "child", FLAME_PARENT=text, FLAME_RUNNER_ID=name, **environ)


@contextlib.contextmanager
def heard(app: Celery) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Collect what runners say over the broker; gives a function that returns all of it so far."""
    events: list[dict[str, Any]] = []
    with app.connection_for_read() as broker:
        receiver = app.events.Receiver(broker, handlers={EVENT: events.append}, routing_key=ROUTING_KEY)
        with receiver.Consumer() as (connection, _, _):

            def so_far() -> list[dict[str, Any]]:
                with contextlib.suppress(TimeoutError):
                    while True:
                        connection.drain_events(timeout=0.2)
                return events

            so_far()  # Redis is told what to send at the first look
            yield so_far


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue({"redis": "redis_url", "rabbitmq": "rabbit_url"}[request.param]))


@pytest.fixture
def work(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url) as deployment:
        yield deployment


def test_an_idle_child_ends_and_says_why(work: Deployment, tmp_path: Path) -> None:
    hello = tmp_path / "hello"
    with heard(work.client) as events:
        runner = child(work, letter(), FLAME_HELLO_FILE=str(hello))
        runner.says("runner runner of pool pool is up")
        wait_until(hello.exists, what="the hello file")
        assert runner.ends() == 0
        said = events()
    states = [(event["state"], event["reason"]) for event in said]
    assert ("up", "") in states
    assert states[-1] == ("ending", "idle for 1 s")
    assert {(event["runner"], event["pool"], event["owner"]) for event in said} == {("runner", "pool", "test")}


def test_a_letter_that_cannot_be_read_is_refused(work: Deployment) -> None:
    said = one_line_error(work.run("flame", "child", FLAME_PARENT="not a letter"))
    assert "FLAME_PARENT" in said


def test_a_child_without_a_letter_is_refused(work: Deployment) -> None:
    assert "FLAME_PARENT is not set" in one_line_error(work.run("flame", "child"))


def test_a_task_that_keeps_the_workers_loop_busy_does_not_keep_the_runner_from_speaking(
    broker: str, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    with Deployment(tmp_path, broker) as work, heard(work.client) as so_far:
        child(work, letter(options={"pool": "solo"}, idle_shutdown_after=60.0))
        work.send("hold", 1, str(released))
        wait_until(lambda: work.noted("holding"), what="the task")
        wait_until(lambda: [e for e in so_far() if e["active"] == 1], what="two words while it runs", timeout=40)
        released.touch()
        wait_until(lambda: work.noted("held"), what="its end")


def test_max_lifetime_ends_a_busy_child_and_leaves_the_rest_in_the_queue(work: Deployment, tmp_path: Path) -> None:
    released = tmp_path / "released"
    for number in range(6):
        work.send("hold", number, str(released))
    runner = child(work, letter(max_lifetime=4))
    runner.says(r"ending: it lived 4 s \(max_lifetime\)")
    released.touch()
    assert runner.ends() == 0
    assert work.numbers("held") == work.numbers("holding")
    assert len(work.numbers("held")) < 6
    assert child(work, letter(), name="next").ends() == 0
    assert work.numbers("held") == list(range(6))


def test_a_child_told_to_stop_finishes_its_task_and_its_parent_hears_why(redis_url: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    flame = {"pool": {"queues": ["celery"], "max": 1, "max_concurrency": 1}}
    with Deployment(tmp_path, redis_url, flame_pools=flame) as work:
        parent = work.start("parent", "flame", "serve")
        work.send("hold", 1, str(released))
        parent.says(" is up, ")
        wait_until(lambda: work.noted("holding"), what="the task running")
        ((name, pid),) = work.has_runners(1).items()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "flame: ending: told by SIGTERM" in work.runner_log(name), what="the drain")
        released.touch()
        parent.says(f"{name} ended: told by SIGTERM")
        parent.signal(signal.SIGTERM)
        parent.ends()
        (ended,) = json.loads(work.run("flame", "status", "--json").stdout)["pools"]["pool"]["ended"]
        assert (ended["id"], ended["reason"]) == (name, "told by SIGTERM")  # both are gone, and it is known
        assert re.search(rf"{name}  .*  told by SIGTERM\n", work.run("flame", "status").stdout)
    assert work.numbers("held") == [1]


def test_shutdown_timeout_bounds_a_drain(work: Deployment, tmp_path: Path) -> None:
    work.send("hold", 1, str(tmp_path / "never"))
    runner = child(work, letter(shutdown_timeout=1))
    wait_until(lambda: work.noted("holding"), what="the task running")
    runner.signal(signal.SIGTERM)
    runner.says(r"1 tasks did not finish within 1 s \(shutdown_timeout\)")
    runner.ends()


def test_shutdown_timeout_gives_a_task_back_that_acknowledges_late(redis_url: str, tmp_path: Path) -> None:
    released = tmp_path / "released"
    with Deployment(tmp_path, redis_url, task_acks_late=True, task_reject_on_worker_lost=True) as work:
        work.send("hold", 1, str(released))
        runner = child(work, letter(shutdown_timeout=1))
        wait_until(lambda: work.noted("holding"), what="the task running")
        runner.signal(signal.SIGTERM)
        runner.says(r"did not finish within 1 s")
        runner.ends()
        released.touch()
        assert child(work, letter(), name="next").ends() == 0
        assert work.numbers("held") == [1]


def test_a_single_use_child_takes_one_task_for_each_slot(work: Deployment) -> None:
    for number in range(8):
        work.send("square", number)
    runner = child(work, letter(concurrency=2, single_use=True))
    runner.says("ending: single use: 2 tasks taken by 2 slots")
    assert runner.ends() == 0
    assert len(work.numbers("square")) == 2


def test_a_child_launches_nothing_even_as_a_worker_that_autoscales(redis_url: str, tmp_path: Path) -> None:
    flame = {"pool": {"queues": ["celery"], "min": 1, "max": 2}}
    with Deployment(tmp_path, redis_url, flame_pools=flame) as work:
        runner = work.worker("--autoscale=2,1", name="runner", FLAME_PARENT=letter(), FLAME_RUNNER_ID="runner")
        runner.says("it launches no runners")
        assert [work.send("square", n).get(timeout=PATIENCE)["square"] for n in range(9)] == [n * n for n in range(9)]
        assert not work.runners()
    assert "launch 1" not in runner.output


def test_a_task_can_read_the_letter(work: Deployment) -> None:
    child(work, letter())
    read = work.send("letter").get(timeout=PATIENCE)
    assert read == {"owner": "test", "pool": "pool", "queues": ["celery"], "idle": 1.0}


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_worker_options_reach_the_worker(pool: str, work: Deployment) -> None:
    runner = child(work, letter(options={"loglevel": "DEBUG", "pool": pool}, concurrency=3))
    assert work.send("square", 4).get(timeout=PATIENCE)["square"] == 16
    assert runner.ends() == 0
    assert "idle for 1 s" in runner.output
    assert re.search(r"INFO/MainProcess\] Task work.square\S+ succeeded", runner.output)  # in no other process
    assert "DEBUG/" in runner.output


def test_a_child_that_finds_no_broker_ends(tmp_path: Path) -> None:
    with Deployment(tmp_path, "redis://127.0.0.1:9/0") as work:
        runner = child(work, letter(boot_timeout=2))
        runner.says(r"ending: no broker within 2 s \(boot_timeout\)")
        assert runner.ends() == 0


def test_a_child_goes_on_where_the_broker_comes_back(tmp_path: Path) -> None:
    for server in serve(RedisServer):
        with Deployment(tmp_path, server.url) as work:
            runner = child(work, letter(idle_shutdown_after=3))
            assert work.send("square", 2).get(timeout=PATIENCE)["square"] == 4
            server.restart()
            again = work.send("square", 3)  # before it connects: then it is not idle for long
            runner.says("Connected to", times=2)
            assert again.get(timeout=PATIENCE)["square"] == 9
            assert runner.ends() == 0
            assert "idle for 3 s" in runner.output


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="this system has no such choice")
def test_a_pool_process_goes_before_its_worker_when_memory_runs_out(work: Deployment, tmp_path: Path) -> None:
    released = tmp_path / "released"
    work.send("hold", 0, str(released))
    runner = child(work, letter())
    wait_until(lambda: work.noted("holding"), what="the task running")

    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    processes = Path(f"/proc/{runner.pid}/task/{runner.pid}/children").read_text().split()
    assert max(score(pid) for pid in processes) == 500 > score(runner.pid)
    released.touch()
    assert runner.ends() == 0
