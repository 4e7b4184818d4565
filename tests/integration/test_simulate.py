"""Do `flame simulate` and `flame record` say what they should, on an app as a user has it and a real broker?"""

from __future__ import annotations

import csv
import itertools
import json
import signal
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2.config import Settings
from tests.integration.conftest import serve
from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import Deployment, Program, one_line_error

#: Nobody answers there: what simulates talks to no broker.
NOBODY = "redis://127.0.0.1:9/0"
POOLS = {"pool": {"queues": ["celery"], "max": 3, "max_concurrency": 2}}


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, NOBODY, flame_pools=POOLS, flame_policy=Settings().policy) as deployment:
        yield deployment


def figures(work: Deployment, *words: str) -> dict[str, Any]:
    ended = work.run("flame", "simulate", *words, "--json")
    assert ended.returncode == 0, ended.stderr
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


def test_targets_are_compared_in_a_table_and_a_picture(work: Deployment, tmp_path: Path) -> None:
    words = ["--burst", "40x10", "--target-wait", "0", "--target-wait", "2m", "--price", "0.5", "--boot", "20"]
    ended = work.run("flame", "simulate", *words, "--picture", "run.svg")
    assert ended.returncode == 0, ended.stderr
    heading, decided, empty, columns, *rows = ended.stdout.splitlines()
    assert heading == (
        "pool: 40 tasks in 0 s, 6.7 min of work; 2 at a time on a runner, 0 to 3 runners that boot in 20 s"
    )
    assert decided == "decided by celery_flame_ec2.policy:plan every 0.2 s"
    assert not empty
    assert "cost" in columns
    assert [row.split()[0] for row in rows] == ["0", "120"]
    assert len(ET.parse(tmp_path / "run.svg").getroot().findall("{http://www.w3.org/2000/svg}g")) == 2


# recording


@pytest.fixture
def live(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url, flame_pools=POOLS) as deployment:
        yield deployment


def recording(live: Deployment, *words: str) -> Program:
    program = live.start("record", "flame", "record", "load.csv", *words)
    program.says("recording celery into load.csv")
    return program


def lines_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_a_recording_holds_what_arrived_and_how_long_it_ran_and_nothing_else(live: Deployment, tmp_path: Path) -> None:
    live.client.conf.task_send_sent_event = True
    file = tmp_path / "load.csv"
    program = recording(live)
    for number in range(6):  # nobody works yet: the time to come is waiting, and is not run time
        live.send("square", number, 0.5, argsrepr="('a secret',)")
    live.send("square", 99, queue="elsewhere")
    began = time.time()
    live.worker("-E", "-c", "2", "-Q", "celery,elsewhere")
    wait_until(lambda: len(lines_of(file)) == 6, what="six lines while it goes on")
    wait_until(lambda: 99 in live.numbers("square"), what="the task of the other queue")
    program.signal(signal.SIGINT)
    assert program.ends() == 0
    assert "6 tasks recorded in load.csv" in program.output
    assert "left out" not in program.output
    assert "secret" not in file.read_text()
    assert "square" not in file.read_text()
    lines = lines_of(file)
    assert {line["queue"] for line in lines} == {"celery"}
    assert all(float(line["arrival"]) <= began for line in lines)
    assert all(float(line["runtime"]) >= 0.5 for line in lines)
    (run,) = figures(live, "--trace", "load.csv")["runs"]
    assert run["tasks"] == run["finished"] == 6


def test_a_recording_says_what_it_lacks_where_clients_do_not_tell(live: Deployment, tmp_path: Path) -> None:
    live.worker("-E", "-c", "1")
    program = recording(live)
    live.send("square", 1).get(timeout=60)
    wait_until(lambda: lines_of(tmp_path / "load.csv"), what="a line")
    program.signal(signal.SIGTERM)
    assert program.ends() == 0
    assert "set task_send_sent_event = True" in program.output


def test_a_recording_without_events_says_how_to_have_them(live: Deployment) -> None:
    ended = live.run("flame", "record", "load.csv", "--for", "1s")
    assert ended.returncode == 0
    assert "0 tasks recorded in load.csv" in ended.stderr
    assert "worker_send_task_events = True" in ended.stderr
    assert "load.csv: cannot be written: File exists" in one_line_error(live.run("flame", "record", "load.csv"))


def test_where_the_broker_does_not_answer_nothing_is_begun(work: Deployment, tmp_path: Path) -> None:
    assert "127.0.0.1:9/0: ConnectionError" in one_line_error(work.run("flame", "record", "load.csv"))
    assert not (tmp_path / "load.csv").exists()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    yield from serve(RedisServer)


def test_a_recording_goes_on_when_the_broker_is_back(own_redis: RedisServer, tmp_path: Path) -> None:
    with Deployment(tmp_path, own_redis.url, flame_pools=POOLS) as live:
        program = recording(live)
        own_redis.restart()
        program.says("the broker does not answer, and what happens meanwhile is not recorded")
        live.worker("-E", "-c", "1")
        sent = map(live.send, itertools.repeat("square"), itertools.count())
        # The first may be done before it hears again.
        wait_until(lambda: next(sent) and lines_of(tmp_path / "load.csv"), what="a line after the restart", poll=0.5)
        program.signal(signal.SIGINT)
        assert program.ends() == 0
