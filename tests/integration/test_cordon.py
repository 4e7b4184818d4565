"""Do runners take no more work when they are told so, and take it again?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2.cli.cordon import LISTEN
from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import Deployment, Program, one_line_error

from .conftest import serve
from .test_child import child, letter


class Pair:
    """A deployment of one pool with two queues, whose runners the test starts itself."""

    def __init__(self, directory: Path, broker: str, stem: str, **conf: Any) -> None:
        self.queues = [f"{stem}-a", f"{stem}-b"]
        flame = {"pool": {"queues": self.queues, "max": 3, "max_concurrency": 1}}
        self.work = Deployment(directory, broker, flame_pools=flame, flame_owner="test", **conf)

    def runner(self, name: str, *, concurrency: int = 1, **limits: Any) -> Program:
        limits = {"idle_shutdown_after": 60.0, **limits}
        text = letter(self.queues[0], concurrency=concurrency, more=self.queues[1:], **limits)
        started = child(self.work, text, name=name)
        started.says("is up")
        return started

    def keep_busy(self, name: str) -> None:
        """Have the one runner that takes tasks now run one until `release`: cordoned and idle it would end soon."""
        before = len(self.work.noted("holding"))
        self.work.send("hold", before, str(self._file(name)), queue=self.queues[0])
        wait_until(lambda: len(self.work.noted("holding")) > before, what="the task running")
        assert self.work.noted("holding")[-1]["runner"] == name

    def release(self, name: str) -> None:
        self._file(name).touch()

    def _file(self, name: str) -> Path:
        return self.work.directory / f"released-{name}"

    def tell(self, verb: str, *names: str) -> str:
        ended = self.work.run("flame", verb, *names)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def send(self, numbers: range, seconds: float = 0.0) -> None:
        for number in numbers:
            self.work.send("square", number, seconds, queue=self.queues[number % 2])

    def done(self, count: int) -> list[dict[str, Any]]:
        """Wait until so many tasks ran; return who ran them."""
        wait_until(lambda: len(self.work.noted("square")) >= count, what=f"{count} tasks", timeout=60)
        assert self.work.numbers("square") == list(range(count))
        return self.work.noted("square")


@pytest.fixture(params=["redis", "rabbitmq"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, unique_name: Callable[[str], str]) -> Iterator[Pair]:
    url = request.getfixturevalue({"redis": "redis_url", "rabbitmq": "rabbit_url"}[request.param])
    made = Pair(tmp_path, url, unique_name("cordon"))
    with made.work:
        yield made


def test_a_cordoned_runner_takes_nothing_and_an_uncordoned_one_works_at_once(pair: Pair) -> None:
    pair.runner("one")
    pair.keep_busy("one")
    pair.runner("two")
    assert pair.tell("cordon", "one") == "one cordoned\n"
    pair.send(range(20))
    assert {entry["runner"] for entry in pair.done(20)} == {"two"}
    pair.tell("cordon", "two")
    assert pair.tell("uncordon", "one") == "one up\n"
    pair.send(range(20, 30))
    pair.release("one")
    assert {entry["runner"] for entry in pair.done(30)[20:]} == {"one"}


def test_nothing_is_lost_or_run_twice_while_runners_are_cordoned_and_uncordoned_under_load(pair: Pair) -> None:
    pair.runner("one", concurrency=2)
    pair.keep_busy("one")
    pair.runner("two")
    for turn, verb in enumerate(("cordon", "uncordon", "cordon", "uncordon")):
        pair.send(range(40 * turn, 40 * (turn + 1)), 0.05)
        pair.tell(verb, "one")
    assert {entry["runner"] for entry in pair.done(160)} == {"one", "two"}


def test_a_cordoned_runner_finishes_what_it_runs_then_idles_out_though_nobody_is_there(
    pair: Pair, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    pair.work.send("hold", 0, str(released), queue=pair.queues[0])
    runner = pair.runner("one", idle_shutdown_after=2.0)
    wait_until(lambda: pair.work.noted("holding"), what="the task running")
    pair.tell("cordon", "one")
    pair.work.send("square", 0, queue=pair.queues[1])
    released.touch()
    assert runner.ends() == 0
    assert "idle for 1 s, cordoned" in runner.output
    assert (pair.work.numbers("held"), pair.work.numbers("square")) == ([0], [])
    pair.runner("next", idle_shutdown_after=1.0)
    pair.done(1)


def test_status_shows_who_is_cordoned_and_a_policy_can_cordon(redis_url: str, tmp_path: Path) -> None:
    flame = {"pool": {"queues": ["celery"], "min": 2, "max": 2, "max_concurrency": 1}}
    policy = "tests.integration.apps.policies:cordons"
    told = tmp_path / "told"
    told.write_text("{}")
    with Deployment(tmp_path, redis_url, flame_pools=flame, flame_policy=policy) as work:
        parent = work.start("parent", "flame", "serve", WORK_TOLD=str(told))
        parent.says(" is up, ", times=2)
        work.has_runners(2)
        for number in range(2):
            work.send("hold", number, str(tmp_path / f"released-{number}"))
        wait_until(lambda: len(work.noted("holding")) == 2, what="both at work")
        (first, held), (second, free) = ((entry["runner"], entry["number"]) for entry in work.noted("holding"))

        def states() -> dict[str, str]:
            shown = json.loads(work.run("flame", "status", "--json").stdout)
            return {runner["id"]: runner["state"] for runner in shown["pools"]["pool"]["runners"]}

        told.write_text(json.dumps({"cordon": [first]}))
        parent.says(f"told to cordon: {first}")
        wait_until(lambda: states() == {first: "cordoned", second: "up"}, what="it cordoned")
        (tmp_path / f"released-{free}").touch()
        for number in range(6):
            work.send("square", number)
        wait_until(lambda: len(work.noted("square")) == 6, what="six tasks")
        assert {entry["runner"] for entry in work.noted("square")} == {second}
        told.write_text(json.dumps({"uncordon": [first]}))
        parent.says(f"told to uncordon: {first}")
        wait_until(lambda: states() == {first: "up", second: "up"}, what="it uncordoned")
        assert len(re.findall("told to cordon", parent.output)) == 1  # confirmed by its own words
        (tmp_path / f"released-{held}").touch()


def test_a_cordoned_runner_that_connects_anew_stays_cordoned(tmp_path: Path) -> None:
    for server in serve(RedisServer):
        pair = Pair(tmp_path, server.url, "anew")
        with pair.work:
            runner = pair.runner("one")
            pair.keep_busy("one")
            pair.tell("cordon", "one")
            server.restart()
            runner.says("Connected to", times=2)
            assert pair.tell("cordon", "one") == "one cordoned\n"
            pair.send(range(2))
            pair.runner("two")
            assert {entry["runner"] for entry in pair.done(2)} == {"two"}
            assert pair.tell("uncordon", "one") == "one up\n"
            pair.release("one")


def test_who_is_no_runner_is_refused_by_name(pair: Pair) -> None:
    said = one_line_error(pair.work.run("flame", "cordon", "i-none"))
    assert said.startswith(f"Error: no word from i-none within {LISTEN:g} s")


def test_without_remote_control_it_is_said_why_not(tmp_path: Path, redis_url: str) -> None:
    off = Pair(tmp_path, redis_url, "off", worker_enable_remote_control=False)
    with off.work:
        assert "worker_enable_remote_control is False" in one_line_error(off.work.run("flame", "cordon", "one"))
