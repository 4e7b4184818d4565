"""Does a runner that is recalled as it boots take nothing, and one that came first go on?

RECALL_ROUNDS=100 makes it a hundred bursts; without it there are 4.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from celery_flame_ec2.holdings import RECALLED_FOR, Holdings, open_holdings
from celery_flame_ec2.keeper import Keeper
from celery_flame_ec2.lifetime import RECALLED
from celery_flame_ec2.salvage import Salvage
from tests.waiting import wait_until
from tests.workers import Deployment

from .test_child import LETTER, child, heard, letter

OWNER = "test"
ROUNDS = int(os.environ.get("RECALL_ROUNDS", "4"))
#: Times a runner and its parent come to Redis at the same moment.
MEETINGS = 500
#: When the last of a burst's tasks begins, in boots: the first burst's others are recalled however fast a machine is.
MOMENTS = (0.5, 1.5, 1.8, 2.4)
#: As soon as nothing waits it recalls those that boot and are more than it wants.
THRIFTY = "tests.depth:thrifty"


@pytest.fixture(params=["", "mine:"], ids=["plain", "prefixed"])
def app(request: pytest.FixtureRequest, redis_url: str) -> Celery:
    made = Celery("test", broker=redis_url, set_as_current=False)
    made.conf.broker_transport_options = {"global_keyprefix": request.param}
    return made


@pytest.fixture
def work(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url) as deployment:
        yield deployment


def opened(app: Celery) -> Holdings:
    holdings = open_holdings(app, OWNER)
    assert holdings is not None
    return holdings


def register(holdings: Holdings, runner_id: str) -> bool:
    return holdings.register(runner_id, queues=["celery"], place="here", patience=600.0)


def test_who_is_first_decides(app: Celery) -> None:
    holdings = opened(app)
    assert register(holdings, "working")
    assert holdings.recall(["working", "booting"]) == {"booting"}
    assert not register(holdings, "booting")
    assert [each.runner_id for each in holdings.registered()] == ["working"]
    assert register(holdings, "working"), "it speaks again and again"


def test_a_recall_may_be_repeated(app: Celery) -> None:
    holdings = opened(app)
    assert holdings.recall(["booting"]) == holdings.recall(["booting"]) == {"booting"}
    assert not register(holdings, "booting")


def test_one_at_work_goes_on_though_its_line_in_the_register_was_lost(app: Celery, redis_url: str) -> None:
    """A Redis that was emptied, or a replica that lags behind, knows nobody: who recalls then meets no line."""
    holdings = opened(app)
    keeper = Keeper(LETTER, "working", opened(app), Salvage(opened(app)), place="here")
    assert keeper.begin()
    try:
        with Redis.from_url(redis_url) as client:
            client.flushdb()
        assert holdings.recall(["working"]) == {"working"}
        assert keeper.begin(), "it connected anew"
        assert [each.runner_id for each in holdings.registered()] == ["working"]
    finally:
        keeper.stop()


def test_nothing_is_kept_for_ever(app: Celery, redis_url: str) -> None:
    holdings = opened(app)
    holdings.recall(["booting"])
    with Redis.from_url(redis_url) as client:
        (key,) = client.scan_iter("*flame:recalled:*")
        assert key.decode() == f"{app.conf.broker_transport_options['global_keyprefix']}flame:recalled:{OWNER}"
        assert 0 < client.ttl(key) <= RECALLED_FOR
        client.zadd(key, {"of long ago": client.time()[0] - RECALLED_FOR - 1})
        holdings.recall(["another"])
        assert client.zrange(key, 0, -1) == [b"booting", b"another"]


def test_of_a_runner_and_a_parent_that_meet_exactly_one_has_its_way(app: Celery) -> None:
    runner, parent, together = opened(app), opened(app), threading.Barrier(2)
    begun: list[bool] = []

    def begin() -> None:
        for number in range(MEETINGS):
            together.wait()
            begun.append(register(runner, f"runner-{number}"))

    thread = threading.Thread(target=begin)
    thread.start()
    recalled = []
    for number in range(MEETINGS):
        together.wait()
        recalled.append(bool(parent.recall([f"runner-{number}"])))
    thread.join()
    assert begun == [not each for each in recalled]


def test_a_recalled_runner_takes_nothing_and_says_why_it_ends(work: Deployment, tmp_path: Path) -> None:
    opened(work.client).recall(["runner"])
    work.send("square", 1)
    hello = tmp_path / "hello"
    with heard(work.client) as events:
        runner = child(work, letter(), FLAME_HELLO_FILE=str(hello))
        assert runner.ends() == 0
        said = events()
    assert {(event["state"], event["reason"]) for event in said} == {("ending", RECALLED)}
    assert json.loads(hello.read_text())["reason"] == RECALLED
    assert not work.noted("square")
    child(work, letter(), name="another").says("is up")
    wait_until(lambda: work.numbers("square") == [1], what="the task, which waited for another runner")


def test_a_runner_that_works_says_that_it_asked_and_is_not_recalled(work: Deployment) -> None:
    with heard(work.client) as events:
        runner = child(work, letter())
        runner.says("runner runner of pool pool is up")
        assert not opened(work.client).recall(["runner"])
        work.send("square", 1)
        assert runner.ends() == 0
        assert all(event["recallable"] for event in events())
    assert work.numbers("square") == [1]


def test_no_task_is_lost_when_boots_are_recalled_at_any_moment(redis_url: str, tmp_path: Path) -> None:
    """Tasks are acknowledged early: one that a runner had begun when it was ended would be gone."""
    settings = {"queues": "celery", "min": 1, "max": 4, "max_concurrency": 1, "idle_shutdown_after": 0.3}
    conf = {"flame_pools": {"pool": settings}, "flame_policy": THRIFTY, "flame_interval": 0.1, "task_acks_late": False}
    with Deployment(tmp_path, redis_url, **conf) as work:
        parent = work.start("parent", "flame", "serve", WORK_BOOT="2")
        (boot,) = parent.says(r"is up, ([\d.]+) s after")
        for turn in range(ROUNDS):
            # The one that is up begins the last of them when the others are far from up, nearly up, or a little later.
            tasks, last = range(4 * turn, 4 * turn + 4), MOMENTS[turn % len(MOMENTS)] * float(boot)
            for number in tasks:
                work.send("square", number, last / 3)
            wait_until(lambda end=tasks.stop: work.numbers("square") == list(range(end)), what=f"burst {turn} done")
            work.has_runners(1)
        recalled = parent.says(r"pool pool: recalled (.*)")
        assert work.numbers("square") == list(range(4 * ROUNDS))
        assert "launch failed" not in parent.output
        came = len(re.findall(r" is up, ", parent.output)) - 1
        print(f"{ROUNDS} bursts: {sum(len(each.split()) for each in recalled)} recalled, {came} came up")
