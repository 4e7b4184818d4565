"""How a deployment looks on a terminal."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from celery_flame_ec2.cli.screen import RUNNERS, WIDTH, lines
from celery_flame_ec2.notes import Bill, Learned, Standing
from celery_flame_ec2.overview import LeaseOverview, OverrideOverview, Overview
from celery_flame_ec2.policy import Failures, Unknown
from celery_flame_ec2.runner import RunnerState
from tests.unit.test_overview import _ended, runner, told, whole
from tests.unit.test_pool import NOW

LONG = "a reason that goes on and on " * 9
BUSY = Standing(
    failures=Failures(count=2, at=NOW - 1, cause=LONG, pause=61.0),
    decision=f"launch 1: {LONG}",
    decided_at=NOW - 30,
    endings=(dataclasses.replace(_ended("i-0aaaaaaaaaaaaaaa1", lived=70.0, ago=5.0), reason=LONG),),
    learned=Learned(at=NOW - 4, runtime=2.5, boot=61.0, arriving=0.3),
    bill=Bill(since=NOW - 4, runners=1, seconds=7100.0),
)


def screen(standing: Standing = BUSY, *, override: Any = None, width: int = WIDTH, **fields: Any) -> str:
    kind = {"instance_type": "c7i.48xlarge", "market": "on-demand", "zone": "ap-southeast-2a"}
    up = runner("i-0aaaaaaaaaaaaaaa2", state=RunnerState.UP, active=12, **kind)
    pool = told(up, standing=standing, hourly_price=3.6)
    overview: Overview = dataclasses.replace(whole(dataclasses.replace(pool, override=override)), **fields)
    return "\n".join(lines(overview, width=width))


def test_a_screen_fits_100_columns_however_long_reasons_are() -> None:
    assert max(map(len, screen().splitlines())) <= WIDTH
    assert " ".join(screen().split()).count(LONG.strip()) == 3


@pytest.mark.parametrize(
    "said",
    [
        "leader   host, pid 1",
        "waiting  video 7, 2 held",
        "runners  1 up",
        "OPEN: 2 launches failed; the next in 60 s; a reason",
        "decided  30 s ago: launch 1: a reason",
        "learned  4 s ago: runtime 2.5 s, 0.3 tasks arrive a second, boots take 61 s",
        "cost     about 7.20 for 2.0 h of runners billed, 1 ended included; 3.60 an hour now",
        "i-0aaaaaaaaaaaaaaa2  up     12     100 s  c7i.48xlarge  on-demand  ap-southeast-2a",
        "i-0aaaaaaaaaaaaaaa1  5 s  70 s",
    ],
)
def test_a_screen_says(said: str) -> None:
    assert said in screen()


def test_the_time_is_told_with_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "CST6")  # as Django does for its TIME_ZONE
    time.tzset()
    try:
        told = screen(at=0.0).splitlines()[0]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told.endswith("  1969-12-31 18:00:00 CST")


def test_columns_are_aligned() -> None:
    head, row = (line for line in screen().splitlines() if "RUNNER" in line or "c7i.48xlarge" in line)
    assert head.index("TYPE") == row.index("c7i")
    assert head.index("ZONE") == row.index("ap-")


def test_what_is_unknown_is_said_in_words_not_by_colour() -> None:
    shown = screen(
        notes_unknown="redis://h/0: no answer",
        overrides_unknown="s3://b/k: no right",
        runners_unknown="EC2 did not answer",
    )
    assert "leader   UNKNOWN: redis://h/0: no answer" in shown
    assert "operator UNKNOWN: s3://b/k: no right" in shown
    assert "runners  UNKNOWN: EC2 did not answer" in shown
    pool = told(demand=Unknown(why="the queues' depth is unknown"))
    assert "waiting  UNKNOWN: the queues' depth is unknown" in "\n".join(lines(whole(pool)))


def test_what_an_operator_decided_is_shown_with_who_and_when() -> None:
    override = OverrideOverview(paused=True, wanted=3, by="ann@host", at=NOW - 90, ago=90.0)
    assert "operator HELD AT 3 and PAUSED by ann@host, 90 s ago" in screen(override=override)


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        (LeaseOverview(place="a cell", held=True, seconds_left=8.2), "held, free in 8.2 s unless renewed; a cell"),
        (LeaseOverview(place="a cell", held=True), "held; a cell"),
        (LeaseOverview(place="a cell", held=False), "free: no parent runs; a cell"),
        (LeaseOverview(place="no lease"), "lease    no lease"),
    ],
)
def test_the_lease_is_shown_with_how_long_it_is_held(lease: LeaseOverview, said: str) -> None:
    assert said in screen(lease=lease)


def test_on_a_narrow_terminal_lines_are_broken_and_only_a_row_of_the_table_is_longer() -> None:
    narrow = screen(width=80)
    long = [line for line in narrow.splitlines() if len(line) > 80]
    assert [line.split()[0] for line in long] == ["i-0aaaaaaaaaaaaaaa2"]
    assert narrow.split() == screen().split()


def test_what_moves_a_cursor_is_not_printed() -> None:
    evil = dataclasses.replace(BUSY, decision="launch 1: \x1b[2J\x9b1mgone\r\n\x07")
    shown = screen(evil)
    assert "launch 1: [2J 1mgone" in shown
    assert all(each.isprintable() for line in shown.splitlines() for each in line)


def test_of_a_large_fleet_the_first_runners_are_shown_and_the_others_counted() -> None:
    pool = told(*(runner(f"i-{number}") for number in range(RUNNERS + 7)))
    shown = "\n".join(lines(whole(pool)))
    assert f"i-{RUNNERS - 1} " in shown
    assert f"i-{RUNNERS} " not in shown
    assert "and 7 more" in shown


def test_a_quiet_deployment_is_a_few_lines() -> None:
    assert "\n".join(lines(whole(told()))).partition("\n\n")[2] == (
        "video  0 to 10 runners, 4 tasks at a time on each\n"
        "  waiting  video 7, 2 held\n"
        "  running  2 tasks on runners\n"
        "  runners  none"
    )
