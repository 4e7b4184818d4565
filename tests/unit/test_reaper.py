"""Whom the reaper ends, by tables; and whom it never ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.reaper import AGAIN_AFTER, FEW, LOST_AFTER, SECOND_LOOK, STALLED_AFTER, Reaper, Sight
from celery_flame_ec2.runner import Limits, Runner, RunnerState

NOW = 1_000_000.0
LIMITS = Limits(boot_timeout=120.0, shutdown_timeout=30.0)
UP, BOOTING, ENDING = RunnerState.UP, RunnerState.BOOTING, RunnerState.ENDING


def sight(name: str = "i-1", state: RunnerState = UP, *, runner: dict[str, Any] | None = None, **fields: Any) -> Sight:
    made = Runner(id=name, pool="video", launched_at=NOW - 10, state=state, **(runner or {}))
    return Sight(runner=made, **{"limits": LIMITS, **fields})


def reasons(reaper: Reaper, *sights: Sight, after: float = 0.0) -> list[str]:
    return [reap.reason for reap in reaper.look(sights, NOW + after)]


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(sight(runner={"deadline": NOW - 61}), "it is 61 s past its deadline", id="too late"),
        pytest.param(sight(runner={"deadline": NOW - 59}), None, id="its own timers go first"),
        pytest.param(
            sight(state=ENDING, runner={"deadline": NOW - 99, "shutting_down": True}), None, id="on its way out already"
        ),
        pytest.param(
            sight(runner={"powered_off": True}), "its machine is powered off but not terminated", id="stopped"
        ),
        pytest.param(
            sight(state=BOOTING, ours=True, silent_for=121),
            "no hello within boot_timeout (120 s)",
            id="ours that never spoke",
        ),
        pytest.param(sight(state=BOOTING, ours=True, silent_for=119), None, id="a boot within its time"),
        pytest.param(sight(state=BOOTING, silent_for=121), None, id="one it did not launch: a second look first"),
        pytest.param(sight(state=BOOTING, ours=True), None, id="silence that means nothing"),
        pytest.param(sight(ours=True, spoke=True, silent_for=121), None, id="one that said hello"),
        pytest.param(sight(waits=True), None, id="work that waits since a moment ago"),
    ],
)
def test_what_is_ended_at_once(seen: Sight, reason: str | None) -> None:
    assert reasons(Reaper(), seen) == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("seen", "patience"),
    [
        pytest.param(sight(state=BOOTING, silent_for=121), SECOND_LOOK, id="unknown"),
        pytest.param(sight(spoke=True, silent_for=LOST_AFTER + 31), SECOND_LOOK, id="lost"),
        pytest.param(sight(spoke=True, waits=True), STALLED_AFTER, id="stalled"),
    ],
)
def test_what_is_merely_suspected_is_ended_at_a_second_look(seen: Sight, patience: float) -> None:
    reaper = Reaper()
    assert reasons(reaper, seen) == []
    assert reasons(reaper, seen, after=patience - 1) == []
    assert len(reasons(reaper, seen, after=patience)) == 1


@pytest.mark.parametrize(
    ("seen", "better"),
    [
        pytest.param(sight(state=BOOTING, silent_for=121), sight(spoke=True), id="it spoke"),
        pytest.param(sight(waits=True), sight(waits=True, taken=1), id="it took a task in between"),
        pytest.param(sight(waits=True), sight(waits=True, runner={"active": 1}), id="it is at work"),
        pytest.param(sight(waits=True), sight(), id="nothing waits any more"),
        pytest.param(sight(waits=True), sight(state=ENDING, waits=True), id="it is ending"),
        pytest.param(sight(spoke=True, silent_for=LOST_AFTER + 31), sight(spoke=True, silent_for=1.0), id="a word"),
    ],
)
def test_a_suspicion_that_passed_begins_anew(seen: Sight, better: Sight) -> None:
    reaper = Reaper()
    reasons(reaper, seen)
    reasons(reaper, better, after=30)
    assert reasons(reaper, seen, after=61) == []


def test_one_that_is_still_there_is_ended_again_after_a_while() -> None:
    reaper, late = Reaper(), sight(runner={"deadline": NOW - 100})
    assert len(reasons(reaper, late)) == 1
    assert reasons(reaper, late, after=AGAIN_AFTER - 1) == []
    assert len(reasons(reaper, late, after=AGAIN_AFTER)) == 1


def test_a_mistake_about_all_of_them_does_not_end_all_of_them() -> None:
    reaper = Reaper()
    silent = [sight(f"i-{number}", BOOTING, ours=True, silent_for=500.0) for number in range(100)]
    assert len(reasons(reaper, *silent)) == 25
    assert reasons(reaper, *silent, after=10) == []
    assert len(reasons(reaper, *silent, after=SECOND_LOOK)) == 25
    assert len(reasons(Reaper(), *silent[:FEW])) == FEW


def test_what_is_certain_has_no_bound() -> None:
    late = [sight(f"i-{number}", runner={"deadline": NOW - 100}) for number in range(100)]
    assert len(reasons(Reaper(), *late)) == 100


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(list(RunnerState)), st.integers(0, 3), st.booleans()), max_size=40
    )
)
def test_a_runner_that_speaks_in_time_and_works_is_never_ended(looks: list[tuple[int, RunnerState, int, bool]]) -> None:
    reaper, now = Reaper(), 0.0
    for seconds, state, active, waits in looks:
        now += seconds
        busy = sight(state=state, runner={"active": max(1, active)}, spoke=True, silent_for=float(seconds), waits=waits)
        assert reasons(reaper, busy, after=now) == []
