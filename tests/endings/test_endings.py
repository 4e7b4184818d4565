"""Does what a runner's end does to tasks hold what the docs promise? A part of the matrix, with few endings in each
cell; `make endings` measures all of it with many."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.conftest import servers_or_skip

from .expected import Cell
from .world import World

#: How many endings there are in each cell.
ENDINGS = int(os.environ.get("ENDINGS", "4"))
CELLS = """
    redis/early/idle redis/late/told redis/early/single-use redis/early/spot redis/late/sigterm
    redis/early/broker-restart redis/late/kill-process redis/early/kill-worker redis/late/kill-worker
    redis/early/cut-off redis/late/cut-off
    rabbitmq/late/idle rabbitmq/early/told rabbitmq/early/lifetime
    rabbitmq/late/broker-restart rabbitmq/early/kill-process rabbitmq/late/kill-worker
    sqs/early/idle sqs/late/told sqs/late/kill-worker
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.mark.parametrize("name", CELLS.split())
def test_tasks_fare_as_promised_when_runners_end(name: str, world: World) -> None:
    broker, ack, ending = name.split("/")
    with servers_or_skip():
        result = world.run(Cell(broker=broker, ack=ack, ending=ending), ENDINGS)
    assert (result.broken, result.endings >= ENDINGS) == ([], True)


def test_a_runner_that_is_forked_is_no_other_than_one_started_by_itself() -> None:
    with servers_or_skip(), World(plain=True) as plain:
        result = plain.run(Cell(broker="redis", ack="late", ending="sigterm"), 2)
    assert (result.broken, result.endings >= 2) == ([], True)
