"""What one round makes of queues, runners and the parent's own processes, on a broker in memory."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from celery_flame_ec2.config import Settings, read_settings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, plan
from celery_flame_ec2.service import Local, Service
from tests.unit.test_pool import ListBackend


def deployment(pools: dict[str, Any], **flat: Any) -> Settings:
    conf = {"flame_pools": pools, **{f"flame_{name}": value for name, value in flat.items()}}
    return read_settings(conf, app_name="p", broker_urls=("memory://",), environ={})


def service(settings: Settings, *, waiting: dict[str, int], local: Local | None = None) -> Service:
    app = Celery("p", broker="memory://", set_as_current=False)
    with Connection("memory://") as connection:
        for queue, count in waiting.items():
            for _ in range(count):
                connection.SimpleQueue(queue).put("task")
    return Service(app, settings, ListBackend(), local=lambda: local or Local())


def name() -> str:
    return f"q-{uuid.uuid4().hex}"


@pytest.mark.parametrize(("consumes", "free"), [(True, 2), (False, 0)])
def test_a_parents_processes_count_only_for_queues_it_consumes(consumes: bool, free: int) -> None:
    queue = name()
    local = Local(free=2, queues=frozenset({queue} if consumes else {"another"}))
    settings = deployment({"video": {"queues": queue, "max_concurrency": 1}})
    looking = service(settings, waiting={queue: 5}, local=local)
    assert looking.look()["video"] == Demand(waiting=5, running=0, local_free=free)
    looking.close()


def test_what_a_parent_takes_from_one_pool_it_cannot_take_from_the_next() -> None:
    first, second = name(), name()
    local = Local(free=4, queues=frozenset({first, second}))
    settings = deployment({"a": {"queues": first}, "b": {"queues": second}})
    looking = service(settings, waiting={first: 3, second: 9}, local=local)
    demands = looking.look()
    looking.close()
    assert [demands[pool].local_free for pool in ("a", "b")] == [3, 1]  # type: ignore[union-attr]


def breaks_for_a(settings: Any, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    if settings.name == "a":
        raise ZeroDivisionError("a bug of the user's own")
    return plan(settings, demand, fleet, now)


def test_a_policy_that_raises_for_one_pool_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    pools = {"a": {"queues": name(), "max_concurrency": 1}, "b": {"queues": name(), "min": 1, "max_concurrency": 1}}
    acting = service(deployment(pools, policy=f"{__name__}:breaks_for_a"), waiting={})
    acting.tick()
    acting.tick()
    acting.close()
    assert [len(pool.roster.runners) for pool in acting.pools] == [0, 1]
    assert caplog.text.count("ZeroDivisionError: a bug of the user's own") == 1
