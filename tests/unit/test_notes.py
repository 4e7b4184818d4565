"""What one parent leaves, and the next one reads."""

from __future__ import annotations

import logging

import pytest

from celery_flame_ec2.errors import LeaseError
from celery_flame_ec2.notes import LAUNCH, POOL, Ended, Learned, Left, Notes, Standing
from celery_flame_ec2.policy import Failures
from celery_flame_ec2.runner import Launch
from celery_flame_ec2.testing.clock import Clock
from tests.unit.test_lease import Cell, parent

ONE, TWO = Launch(token="t1", pool="video", count=3), Launch(token="t2", pool="audio", count=1)
BROKEN = Standing(
    failures=Failures(count=2, at=5.0, cause="no bundle", boots=2),
    decision="launch 1: 4 waiting",
    endings=(Ended(runner_id="i-1", reason="idle for 30 s", at=3.5),),
    learned=Learned(at=4.0, runtime=2.5, boot=61.0, arriving=0.3),
)


@pytest.fixture
def cell() -> Cell:
    return Cell(Clock())


def notes(cell: Cell) -> Notes:
    """Return those of a parent that takes over now."""
    lease, _ = parent(cell)
    cell.until = 0.0
    lease.renew()
    return Notes(lease)


def test_the_next_parent_reads_what_is_in_flight_and_how_it_stands(cell: Cell) -> None:
    first = notes(cell)
    first.read()
    first.announce(ONE)
    first.announce(TWO)
    first.keep({"t1", "t2"}, {"video": BROKEN})
    left = notes(cell).read()
    assert (set(left.launches), dict(left.standings)) == ({ONE, TWO}, {"video": BROKEN})
    assert ", pid " in left.leader


def test_a_launch_that_landed_is_noted_no_more(cell: Cell) -> None:
    first = notes(cell)
    first.announce(ONE)
    first.announce(TWO)
    first.keep({"t2"}, {})
    assert notes(cell).read().launches == (TWO,)


def test_what_the_parent_before_left_in_flight_is_taken_away_by_the_next(cell: Cell) -> None:
    notes(cell).announce(ONE)
    second = notes(cell)
    second.read()
    second.keep(set(), {})
    assert not [name for name in cell.notes if name.startswith(LAUNCH)]


def test_what_was_written_although_the_answer_got_lost_is_taken_away(cell: Cell) -> None:
    lease, store = parent(cell)
    lease.renew()
    first = Notes(lease)
    store.written = lost
    with pytest.raises(LeaseError):
        first.announce(ONE)
    with pytest.raises(LeaseError):
        first.keep({"t1"}, {"video": BROKEN})
    store.written = lambda: None
    first.keep(set(), {"video": Standing()})
    left = notes(cell).read()
    assert (left.launches, dict(left.standings)) == ((), {"video": Standing()})


def lost() -> None:
    raise LeaseError("no answer")


def test_nothing_is_written_while_nothing_changes(cell: Cell) -> None:
    first = notes(cell)
    first.keep(set(), {"video": BROKEN})
    cell.notes = {}
    first.keep(set(), {"video": BROKEN})
    assert cell.notes == {}


def test_a_launch_cannot_be_announced_without_the_lease(cell: Cell) -> None:
    first = notes(cell)
    notes(cell)
    cell.clock.now += 60
    with pytest.raises(LeaseError):
        first.announce(ONE)


def test_notes_of_another_version_are_left_out_and_told(cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    cell.notes = {
        LAUNCH + "t1": "not json",
        POOL + "video": '{"failures": {"since": 3}}',
        POOL + "audio": "[1]",
        POOL + "text": '{"endings": [{"name": "i-1"}, 3]}',
        "unknown": "x",
    }
    assert notes(cell).read() == Left(
        launches=(Launch(token="t1", pool="", count=0),),
        standings={"video": Standing(), "audio": Standing(), "text": Standing()},
    )
    assert caplog.text.count("left out") == 2


@pytest.mark.parametrize(
    ("noted", "found"),
    [
        pytest.param("", None, id="an older version's"),
        pytest.param('"learned": null', None, id="nothing learned"),
        pytest.param('"learned": [1]', None, id="something else"),
        pytest.param('"learned": {"at": 1, "boot": 2, "arriving": 3}', None, id="a part"),
        pytest.param('"learned": {"at": 1, "runtime": "x", "boot": 2, "arriving": 3}', None, id="words"),
        pytest.param('"learned": {"at": 1, "runtime": NaN, "boot": 2, "arriving": 3}', None, id="no number"),
        pytest.param('"learned": {"at": 1, "runtime": -1, "boot": 2, "arriving": 3}', None, id="less than nothing"),
        pytest.param(
            '"learned": {"at": 1, "runtime": null, "boot": 2, "arriving": 3, "more": 4}',
            Learned(at=1, runtime=None, boot=2, arriving=3),
            id="a newer version's",
        ),
    ],
)
def test_what_was_learned_is_read_where_it_makes_sense(cell: Cell, noted: str, found: Learned | None) -> None:
    cell.notes = {POOL + "video": f"{{{noted}}}"}
    assert notes(cell).read().standings == {"video": Standing(learned=found)}
