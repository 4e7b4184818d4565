"""What changed between two looks at a pool's runners."""

from __future__ import annotations

from celery_flame_ec2.presence import Word
from celery_flame_ec2.roster import VISIBLE_WITHIN, Event, Roster
from celery_flame_ec2.runner import Runner, RunnerState

NOW = 5_000.0


def runner(name: str, *, at: float = NOW, state: RunnerState = RunnerState.BOOTING) -> Runner:
    return Runner(id=name, pool="p", launched_at=at, state=state)


def word(name: str, state: RunnerState = RunnerState.UP, *, active: int = 0, reason: str = "") -> dict[str, Word]:
    return {name: Word(runner_id=name, pool="p", owner="o", state=state, active=active, reason=reason)}


def test_a_launched_runner_counts_before_any_listing_shows_it() -> None:
    roster = Roster("p")
    roster.launched([runner("a")])
    roster.update([], {}, NOW + 1)
    assert [each.id for each in roster.runners] == ["a"]


def test_a_launched_runner_that_no_listing_ever_shows_is_gone_after_a_while() -> None:
    roster = Roster("p")
    roster.launched([runner("a")])
    (change,) = roster.update([], {}, NOW + VISIBLE_WITHIN)
    assert (change.event, change.ours, change.heard) == (Event.GONE, True, False)
    assert roster.runners == ()


def test_a_listed_runner_is_not_counted_twice() -> None:
    roster = Roster("p")
    roster.launched([runner("a")])
    roster.update([runner("a")], {}, NOW + 1)
    assert len(roster.runners) == 1


def test_the_first_word_brings_a_runner_up_once() -> None:
    roster = Roster("p")
    roster.launched([runner("a")])
    assert [change.event for change in roster.update(None, word("a"), NOW + 5)] == [Event.UP]
    assert roster.update(None, word("a", active=3), NOW + 6) == ()
    assert (roster.runners[0].state, roster.runners[0].active) == (RunnerState.UP, 3)


def test_a_runner_that_ends_is_told_with_the_reason_it_gave() -> None:
    roster = Roster("p")
    roster.update([runner("a")], word("a"), NOW)
    roster.update(None, word("a", RunnerState.ENDING, reason="idle for 30 s"), NOW + 1)
    (change,) = roster.update([], {}, NOW + 2)
    assert (change.event, change.reason, change.heard) == (Event.GONE, "idle for 30 s", True)


def test_a_machine_that_shuts_down_is_ending_whatever_was_heard_before() -> None:
    roster = Roster("p")
    roster.update([runner("a", state=RunnerState.ENDING)], word("a"), NOW)
    assert roster.runners[0].state is RunnerState.ENDING


def test_a_machine_that_shuts_down_before_its_hello_was_never_heard() -> None:
    roster = Roster("p")
    roster.launched([runner("a")])
    roster.update([runner("a", state=RunnerState.ENDING)], {}, NOW)
    (change,) = roster.update([], {}, NOW + 5)
    assert (change.heard, change.ours) == (False, True)


def test_an_adopted_runner_is_not_ours() -> None:
    roster = Roster("p")
    roster.update([runner("a")], {}, NOW)
    (change,) = roster.update([], {}, NOW + 1)
    assert not change.ours


def test_the_first_success_forgets_the_failures() -> None:
    roster = Roster("p")
    roster.failed("no capacity", NOW)
    roster.failed("no capacity", NOW + 5)
    assert (roster.failures.count, roster.failures.at) == (2, NOW + 5)
    roster.update([runner("a")], word("a"), NOW + 10)
    assert roster.failures.count == 0


def test_a_failure_of_long_ago_does_not_lengthen_the_next_pause() -> None:
    roster = Roster("p")
    for hours in range(8):
        roster.failed("throttled", NOW + hours * 3600)
    assert roster.failures.count == 1


def test_without_a_fresh_listing_nobody_is_gone() -> None:
    roster = Roster("p")
    roster.update([runner("a"), runner("b")], {}, NOW)
    assert roster.update(None, {}, NOW + 1000) == ()
    assert len(roster.runners) == 2
