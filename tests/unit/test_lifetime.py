"""When a runner ends, by tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from celery_flame_ec2.lifetime import (
    BROKER_PATIENCE,
    CORDONED_PATIENCE,
    ENDING_KINDS,
    NOTICE_MARGIN,
    RECALLED,
    Ending,
    Vitals,
    drain_until,
    kind_of,
    reason_to_end,
)
from celery_flame_ec2.runner import Limits

LIMITS = Limits(idle_shutdown_after=30, boot_timeout=120, max_lifetime=3600)
NOW = 10_000.0


def vitals(**fields: object) -> Vitals:
    return Vitals(**{"started_at": NOW - 600, "hello_at": NOW - 590, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        pytest.param(vitals(), None, id="a busy runner goes on"),
        pytest.param(vitals(quiet_since=NOW - 29.9), None, id="not idle for long enough"),
        pytest.param(vitals(quiet_since=NOW - 30), "idle for 30 s", id="idle"),
        pytest.param(vitals(started_at=NOW - 3600), "it lived 3600 s (max_lifetime)", id="too old, though busy"),
        pytest.param(vitals(hello_at=None, started_at=NOW - 119), None, id="still connecting"),
        pytest.param(
            vitals(hello_at=None, started_at=NOW - 120), "no broker within 120 s (boot_timeout)", id="never connected"
        ),
        pytest.param(vitals(disconnected_since=NOW - BROKER_PATIENCE + 1), None, id="a broker that may come back"),
        pytest.param(vitals(disconnected_since=NOW - BROKER_PATIENCE), "no broker for 300 s", id="a lost broker"),
        pytest.param(vitals(quiet_since=NOW - 100, disconnected_since=NOW - 5), None, id="quiet for want of a broker"),
    ],
)
def test_the_reason_to_end(state: Vitals, reason: str | None) -> None:
    ending = reason_to_end(state, LIMITS, NOW)
    assert (ending.reason if ending else None) == reason


def test_only_idleness_can_be_undone_by_work_that_slips_in() -> None:
    idle = reason_to_end(vitals(quiet_since=NOW - 60), LIMITS, NOW)
    old = reason_to_end(vitals(quiet_since=NOW - 60, started_at=NOW - 4000), LIMITS, NOW)
    assert idle is not None
    assert old is not None
    assert (idle.idle, old.idle) == (True, False)


def test_no_idle_limit_keeps_a_runner_without_work() -> None:
    assert reason_to_end(vitals(quiet_since=NOW - 500), Limits(idle_shutdown_after=None), NOW) is None


@pytest.mark.parametrize(("quiet", "ends"), [(CORDONED_PATIENCE / 2, False), (CORDONED_PATIENCE, True)])
def test_a_cordoned_runner_that_was_forgotten_ends_even_without_an_idle_limit(quiet: float, ends: bool) -> None:
    cordoned = vitals(quiet_since=NOW - quiet, cordoned=True)
    ending = reason_to_end(cordoned, Limits(idle_shutdown_after=None), NOW)
    assert (ending.reason if ending else None) == (f"idle for {CORDONED_PATIENCE:.0f} s, cordoned" if ends else None)


@pytest.mark.parametrize(("idle", "patience"), [(30.0, CORDONED_PATIENCE), (0.5, 0.5)])
def test_a_cordoned_runner_does_not_wait_for_all_of_its_idle_time(idle: float, patience: float) -> None:
    def ends(quiet: float) -> bool:
        cordoned = vitals(quiet_since=NOW - quiet, cordoned=True)
        return reason_to_end(cordoned, Limits(idle_shutdown_after=idle), NOW) is not None

    assert (ends(patience - 0.1), ends(patience)) == (False, True)


@pytest.mark.parametrize(("taken", "ends"), [(3, False), (4, True), (5, True)])
def test_a_single_use_runner_ends_when_each_slot_took_a_task(taken: int, ends: bool) -> None:
    state = vitals(taken=taken, slots=4)
    assert (reason_to_end(state, Limits(single_use=True), NOW) is not None) == ends


@pytest.mark.parametrize(
    ("fields", "wished", "expected"),
    [
        pytest.param({"told": "told by SIGTERM"}, False, "told by SIGTERM", id="told"),
        pytest.param({"rebalance": True}, False, None, id="a recommendation nobody wants"),
        pytest.param({"rebalance": True}, True, "rebalance recommendation (end_on_rebalance)", id="a recommendation"),
        pytest.param(
            {"taken_away_at": NOW + 110, "told": "told by SIGTERM", "rebalance": True},
            True,
            "spot interruption notice: EC2 takes the machine in 110 s",
            id="a notice is the first of all reasons",
        ),
        pytest.param(
            {"taken_away_at": NOW - 3}, False, "spot interruption notice: EC2 takes the machine in 0 s", id="late"
        ),
    ],
)
def test_a_runner_ends_when_others_say_so(fields: dict[str, object], wished: bool, expected: str | None) -> None:
    ending = reason_to_end(vitals(**fields), Limits(end_on_rebalance=wished), NOW)
    assert (ending.reason if ending else None) == expected
    assert ending is None or not ending.idle


@pytest.mark.parametrize(
    ("taken_away_in", "noticed", "seconds"),
    [
        pytest.param(None, False, 30.0, id="no notice"),
        pytest.param(120.0, True, 120.0 - NOTICE_MARGIN, id="a notice that began the drain is its bound"),
        pytest.param(10.0, True, 10.0 - NOTICE_MARGIN, id="a notice too short for anything"),
        pytest.param(120.0, False, 30.0, id="a notice in a drain that ends before"),
        pytest.param(40.0, False, 40.0 - NOTICE_MARGIN, id="a notice in a drain that would last longer"),
    ],
)
def test_a_drain_lasts_for_shutdown_timeout_or_what_a_notice_leaves(
    taken_away_in: float | None, noticed: bool, seconds: float
) -> None:
    seen = vitals(taken_away_at=None if taken_away_in is None else NOW + taken_away_in)
    ending = Ending(reason="any", noticed=noticed)
    assert drain_until(ending, seen, Limits(shutdown_timeout=30), NOW) == NOW + seconds


def endings() -> Iterator[tuple[str, Ending | None]]:
    """Every way to end there is, by its kind."""
    quiet = vitals(quiet_since=NOW - 60)
    yield "idle", reason_to_end(quiet, LIMITS, NOW)
    yield "cordoned", reason_to_end(dataclasses.replace(quiet, cordoned=True), LIMITS, NOW)
    yield "old", reason_to_end(vitals(started_at=NOW - 4000), LIMITS, NOW)
    yield "no_broker", reason_to_end(vitals(disconnected_since=NOW - 400), LIMITS, NOW)
    yield "no_broker", reason_to_end(vitals(hello_at=None, started_at=NOW - 400), LIMITS, NOW)
    yield "single_use", reason_to_end(vitals(taken=1), Limits(single_use=True), NOW)
    yield "spot", reason_to_end(vitals(taken_away_at=NOW + 100), LIMITS, NOW)
    yield "rebalance", reason_to_end(vitals(rebalance=True), Limits(end_on_rebalance=True), NOW)
    yield "told", reason_to_end(vitals(told="told by remote control"), LIMITS, NOW)
    yield "reaped", Ending(reason="reaped: no hello within boot_timeout (120 s)")
    yield "recalled", Ending(reason=RECALLED)
    yield "other", Ending(reason="")
    yield "other", Ending(reason="<script>")


def test_each_reason_is_of_a_kind() -> None:
    kinds = [(kind, kind_of(ending.reason)) for kind, ending in endings() if ending]
    assert kinds == [(kind, kind) for kind, _ in endings()]
    assert {kind for kind, _ in kinds} | {"boot"} == ENDING_KINDS.keys()  # one that never came up gave no reason
