"""Does the count of what became of tasks tell a guarantee that holds from one that is broken?"""

from __future__ import annotations

import json

import pytest

from .brokers import handed_over
from .expected import Cell, Count, Guarantee, broken, cells, guarantee
from .tally import Death, Entry, count, slowest_return

GRACEFUL = ("idle", "told", "single-use", "lifetime", "spot", "sigterm")


def cell(text: str) -> Cell:
    broker, ack, ending = text.split("/")
    return Cell(broker=broker, ack=ack, ending=ending)


def entries(*lines: str) -> list[Entry]:
    """Read `word task runner second` of each line."""
    words = [line.split() for line in lines]
    return [Entry(word=word, task=task, runner=runner, pid=1, at=float(at)) for word, task, runner, at in words]


def test_every_graceful_ending_promises_one_run_on_every_broker() -> None:
    assert {guarantee(each) for each in cells() if each.ending in GRACEFUL} == {Guarantee.ONCE}


@pytest.mark.parametrize(
    ("name", "counted", "breaks"),
    [
        ("redis/early/idle", Count(tasks=9, once=9), []),
        ("redis/early/idle", Count(tasks=9, once=8, again=1), ["1 again"]),
        ("sqs/late/told", Count(tasks=9, once=8, begun=1), ["1 begun"]),
        ("sqs/late/told", Count(tasks=9, once=8, doubled=1), []),
        ("redis/late/told", Count(tasks=9, once=8, doubled=1), ["1 doubled"]),
        ("sqs/late/broker-restart", Count(tasks=9, once=8, again=1), []),
        ("sqs/early/broker-restart", Count(tasks=9, once=8, begun=1), ["1 begun"]),
        ("redis/late/kill-worker", Count(tasks=9, once=5, again=4), []),
        ("redis/late/kill-worker", Count(tasks=9, once=8, begun=1), ["1 begun"]),
        ("redis/late/kill-worker", Count(tasks=9, once=8, handed=1), []),
        ("rabbitmq/late/kill-worker", Count(tasks=9, once=8, handed=1), ["1 handed"]),
        ("redis/early/cut-off", Count(tasks=9, once=8, begun=1), []),
        ("redis/early/cut-off", Count(tasks=9, once=8, waiting=1), ["1 waiting"]),
        ("redis/early/kill-process", Count(tasks=9, once=8, handed=1), ["1 handed"]),
    ],
)
def test_what_must_not_be_is_named(name: str, counted: Count, breaks: list[str]) -> None:
    assert broken(cell(name), counted) == breaks


def test_each_task_has_one_fate() -> None:
    journal = entries(
        "start once a 1", "accepted once a 1", "end once a 2",
        "start again a 1", "start again b 3", "end again b 4",
        "start doubled a 1", "start doubled b 1.5", "end doubled a 2", "end doubled b 2",
        "accepted begun a 1",
        "start handed-again a 1",
    )  # fmt: skip
    sent = ["once", "again", "doubled", "begun", "handed", "handed-again", "waiting"]
    fates = count(sent, journal, {"handed", "handed-again"})
    assert fates == Count(tasks=7, once=1, again=1, doubled=1, begun=1, handed=2, waiting=1)


def test_what_redis_took_off_its_queue_is_handed_over_until_it_is_held_or_put_back() -> None:
    def message(task: str) -> bytes:
        return json.dumps({"headers": {"id": task}}).encode()

    def held(runner: str, task: str) -> list[bytes]:
        return [b"HSET", f"flame:held:q:{runner}".encode(), b"tag", json.dumps([{"headers": {"id": task}}]).encode()]

    pop, elsewhere = [b"RPOP", b"q"], [b"RPOP", b"other"]
    writes = [[b"MULTI"], *([b"LPUSH", b"q", message(task)] for task in ("held", "returned", "lost", "waits"))]
    writes += [pop, held("r0", "held"), pop, held("r0", "returned"), [b"RPUSH", b"q", message("returned")], elsewhere]
    assert handed_over(writes, "q") == set()
    assert handed_over([*writes, pop], "q") == {"returned"}
    assert handed_over([*writes, pop, pop], "q") == {"returned", "lost"}
    assert handed_over([*writes, pop, pop, held("r1", "returned")], "q") == {"lost"}
    assert handed_over([*writes, pop, [b"RPUSH", b"q", message("returned")]], "q") == set()


def test_the_slowest_return_is_from_the_listing_to_the_next_start_elsewhere() -> None:
    journal = entries("start ran a 1", "start ended a 1", "end ended a 2", "start ran b 9", "start held b 12")
    dead = [Death(runner="a", at=4.0, known_at=5.0, held=frozenset({"held", "lost"}))]
    assert slowest_return(journal, dead) == 7.0
    assert slowest_return(journal, [Death(runner="a", at=4.0, known_at=5.0)]) == 4.0
    assert slowest_return(journal, []) is None
