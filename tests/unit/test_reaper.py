"""Whom the reaper ends, by tables; and whom it never ends."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.reaper import (
    AGAIN_AFTER,
    DEAF_FOR,
    FEW,
    FRESH,
    LOST_AFTER,
    SECOND_LOOK,
    STALLED_AFTER,
    Reaper,
    Sight,
)
from celery_flame_ec2.runner import Limits, Runner, RunnerState

NOW = 1_000_000.0
LIMITS = Limits(boot_timeout=120.0, shutdown_timeout=30.0)
UP, BOOTING, ENDING = RunnerState.UP, RunnerState.BOOTING, RunnerState.ENDING


SPOKE = 1.0  #: seconds since its last word


def sight(name: str = "i-1", state: RunnerState = UP, *, runner: dict[str, Any] | None = None, **fields: Any) -> Sight:
    made = Runner(id=name, pool="video", state=state, **{"launched_at": NOW - 10, **(runner or {})})
    return Sight(runner=made, **{"limits": LIMITS, "since": NOW - 1000, "heard_at": SPOKE, **fields})


def reasons(reaper: Reaper, *sights: Sight, after: float = 0.0) -> list[str]:
    """Look at these `after` seconds; heard a moment ago means then."""
    now = NOW + after
    return [reap.reason for reap in reaper.look([at(sight, now) for sight in sights], now, now)]


def at(sight: Sight, now: float) -> Sight:
    heard_at = None if sight.heard_at is None else now - sight.heard_at
    return dataclasses.replace(sight, heard_at=heard_at)


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
        pytest.param(sight(waits=True), None, id="work that waits since a moment ago"),
    ],
)
def test_what_is_ended_at_once(seen: Sight, reason: str | None) -> None:
    assert reasons(Reaper(), seen) == ([reason] if reason else [])


MUTE = {"heard_at": None}


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        pytest.param(
            sight(state=BOOTING, ours=True, **MUTE), LIMITS.boot_timeout + DEAF_FOR, id="ours that never spoke"
        ),
        pytest.param(sight(state=BOOTING, **MUTE), LIMITS.boot_timeout + SECOND_LOOK, id="another's that never spoke"),
        pytest.param(sight(waits=True), STALLED_AFTER, id="one that takes no work"),
    ],
)
def test_what_is_merely_suspected_is_ended_after_a_while(seen: Sight, seconds: float) -> None:
    reaper, ended = Reaper(), []
    for after in range(300):
        ended += [after] if reasons(reaper, seen, after=after) else []
    assert seconds <= ended[0] <= seconds + 1


def test_one_that_fell_silent_is_ended_when_it_must_have_ended_itself() -> None:
    reaper, bound = Reaper(), LOST_AFTER + LIMITS.shutdown_timeout
    ended = [
        after
        for after in range(600)
        if reaper.look([sight(heard_at=NOW)], NOW + after, NOW) and after < bound + SECOND_LOOK + AGAIN_AFTER
    ]
    assert ended == [bound + SECOND_LOOK + 1]


@pytest.mark.parametrize("seen", [sight(state=BOOTING, ours=True, **MUTE), sight(heard_at=99_999.0)])
def test_where_words_do_not_arrive_silence_says_nothing(seen: Sight) -> None:
    reaper, deaf = Reaper(), dataclasses.replace(seen, since=None)
    assert [reasons(reaper, deaf, after=after) for after in range(0, 2000, 10)] == [[]] * 200


def test_silence_counts_from_when_words_began_to_arrive() -> None:
    reaper, late = Reaper(), sight(state=BOOTING, ours=True, heard_at=None, since=NOW + 500)
    assert [after for after in range(0, 700, 10) if reasons(reaper, late, after=after)] == [650, 680]


def test_where_it_is_noticed_a_moment_later_that_no_words_came_nobody_is_ended() -> None:
    reaper, hushed = Reaper(), sight(state=BOOTING, ours=True, heard_at=None)
    for after in (0, 121, 121 + DEAF_FOR - 5):
        assert reasons(reaper, hushed, after=after) == []
    assert reasons(reaper, dataclasses.replace(hushed, since=None), after=121 + DEAF_FOR) == []
    assert reasons(reaper, dataclasses.replace(hushed, since=NOW + 150), after=151) == []


def test_an_old_word_does_not_say_that_a_runner_takes_no_work() -> None:
    reaper, mute = Reaper(), sight(waits=True, heard_at=FRESH + 5)
    assert [reasons(reaper, mute, after=after) for after in range(0, 300, 10)] == [[]] * 30


def test_the_clock_of_ec2_does_not_matter_to_how_long_a_boot_takes() -> None:
    reaper = Reaper()
    skewed = sight(state=BOOTING, ours=True, heard_at=None, runner={"launched_at": NOW - 5000})
    assert reasons(reaper, skewed) == []
    assert reasons(reaper, skewed, after=119) == []
    assert reasons(reaper, skewed, after=121) == []
    assert len(reasons(reaper, skewed, after=121 + DEAF_FOR)) == 1


@pytest.mark.parametrize(
    ("seen", "better"),
    [
        pytest.param(sight(waits=True), sight(waits=True, taken=1), id="it took a task in between"),
        pytest.param(sight(waits=True), sight(waits=True, runner={"active": 1}), id="it is at work"),
        pytest.param(sight(waits=True), sight(), id="nothing waits any more"),
        pytest.param(sight(waits=True), sight(state=ENDING, waits=True), id="it is ending"),
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
    silent = [sight(f"i-{number}", BOOTING, ours=True, heard_at=None) for number in range(100)]
    assert reasons(reaper, *silent) == []
    assert reasons(reaper, *silent, after=121) == []
    assert len(reasons(reaper, *silent, after=141)) == 25
    assert reasons(reaper, *silent, after=151) == []
    assert len(reasons(reaper, *silent, after=141 + SECOND_LOOK)) == 25


def test_a_few_may_be_ended_together() -> None:
    reaper = Reaper()
    silent = [sight(f"i-{number}", BOOTING, ours=True, heard_at=None) for number in range(FEW)]
    for after in (0, 121):
        assert reasons(reaper, *silent, after=after) == []
    assert len(reasons(reaper, *silent, after=121 + DEAF_FOR)) == FEW


def test_what_is_certain_has_no_bound() -> None:
    late = [sight(f"i-{number}", runner={"deadline": NOW - 100}) for number in range(100)]
    assert len(reasons(Reaper(), *late)) == 100


@given(
    st.lists(
        st.tuples(st.floats(0.5, 30), st.sampled_from(list(RunnerState)), st.integers(0, 3), st.booleans()), max_size=60
    )
)
def test_a_runner_that_speaks_in_time_and_works_is_never_ended(
    looks: list[tuple[float, RunnerState, int, bool]],
) -> None:
    """Its words may be old, and say that it was idle when it said them."""
    reaper, now, taken = Reaper(), 0.0, 0
    for seconds, state, active, waits in looks:
        now, taken = now + seconds, taken + 1
        busy = sight(state=state, runner={"active": active}, heard_at=seconds, taken=taken, waits=waits)
        assert reasons(reaper, busy, after=now) == []
