"""What changed between two looks at a pool's runners."""

from __future__ import annotations

from celery_flame_ec2.presence import Word
from celery_flame_ec2.roster import Event, Roster
from celery_flame_ec2.runner import Launch, Runner, RunnerState

NOW = 5_000.0
VISIBLE_WITHIN = 60.0


LAUNCH = Launch(token="t1", pool="p", count=3)


def runner(name: str, *, at: float = NOW, state: RunnerState = RunnerState.BOOTING, launch: str = "") -> Runner:
    return Runner(id=name, pool="p", launched_at=at, state=state, launch=launch)


def new_roster() -> Roster:
    return Roster("p", visible_within=VISIBLE_WITHIN)


def word(name: str, state: RunnerState = RunnerState.UP, *, active: int = 0, reason: str = "") -> dict[str, Word]:
    return {name: Word(runner_id=name, pool="p", owner="o", state=state, active=active, reason=reason)}


def test_a_launched_runner_counts_before_any_listing_shows_it() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    roster.update([], {}, NOW + 1)
    assert [each.id for each in roster.runners] == ["a"]


def test_what_is_unclear_can_be_asked_while_another_thread_launches() -> None:
    class Launching(Roster):
        def _may_be_unlisted(self, asked_at: float, now: float) -> bool:
            self.asked(Launch(token=f"new {len(self._open)}", pool="p", count=1), now)
            return super()._may_be_unlisted(asked_at, now)

    roster = Launching("p", visible_within=VISIBLE_WITHIN)
    roster.asked(LAUNCH, NOW)
    assert roster.unclear(NOW) == 3


def test_a_launched_runner_that_no_listing_ever_shows_is_gone_after_a_while() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    (change,) = roster.update([], {}, NOW + VISIBLE_WITHIN)
    assert (change.event, change.ours, change.heard) == (Event.GONE, True, False)
    assert roster.runners == ()


def test_a_launched_runner_counts_from_when_it_was_asked_for_however_long_the_round_took() -> None:
    roster, late = new_roster(), NOW + VISIBLE_WITHIN / 2
    roster.asked(Launch(token="t1", pool="p", count=1), late)
    roster.launched([runner("a", launch="t1")], NOW)
    roster.answered(["t1"])
    roster.update([], {}, NOW + VISIBLE_WITHIN)
    assert len(roster.runners) == 1
    roster.update([], {}, late + VISIBLE_WITHIN)
    assert roster.runners == ()


def test_a_listed_runner_is_not_counted_twice() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    roster.update([runner("a")], {}, NOW + 1)
    assert len(roster.runners) == 1


def test_the_first_word_brings_a_runner_up_once() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    assert [change.event for change in roster.update(None, word("a"), NOW + 5)] == [Event.UP]
    assert roster.update(None, word("a", active=3), NOW + 6) == ()
    assert (roster.runners[0].state, roster.runners[0].active) == (RunnerState.UP, 3)


def test_a_runner_that_ends_is_told_with_the_reason_it_gave() -> None:
    roster = new_roster()
    roster.update([runner("a")], word("a"), NOW)
    roster.update(None, word("a", RunnerState.ENDING, reason="idle for 30 s"), NOW + 1)
    (change,) = roster.update([], {}, NOW + 2)
    assert (change.event, change.reason, change.heard) == (Event.GONE, "idle for 30 s", True)


def test_a_machine_that_shuts_down_is_ending_whatever_was_heard_before() -> None:
    roster = new_roster()
    roster.update([runner("a", state=RunnerState.ENDING)], word("a"), NOW)
    assert roster.runners[0].state is RunnerState.ENDING


def test_a_machine_that_shuts_down_before_its_hello_was_never_heard() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    roster.update([runner("a", state=RunnerState.ENDING)], {}, NOW)
    (change,) = roster.update([], {}, NOW + 5)
    assert (change.heard, change.ours) == (False, True)


def test_an_adopted_runner_is_not_ours() -> None:
    roster = new_roster()
    roster.update([runner("a")], {}, NOW)
    (change,) = roster.update([], {}, NOW + 1)
    assert not change.ours


def test_the_first_success_forgets_the_failures() -> None:
    roster = new_roster()
    roster.failed("no capacity", NOW)
    roster.failed("no capacity", NOW + 5)
    assert (roster.failures.count, roster.failures.at) == (2, NOW + 5)
    roster.update([runner("a", at=NOW + 6)], word("a"), NOW + 10)
    assert roster.failures.count == 0


def test_a_runner_of_before_the_failures_does_not_show_that_launches_go_well_again() -> None:
    roster = new_roster()
    roster.failed("no bundle", NOW + 5, launch="t1")
    roster.update([runner("old")], word("old"), NOW + 10)
    assert roster.failures.count == 1


def test_a_launch_of_which_one_machine_came_up_did_not_fail() -> None:
    roster = new_roster()
    roster.failed("terminated by EC2", NOW + 5, launch="t1")
    roster.update([runner("a", launch="t1")], word("a"), NOW + 10)
    assert roster.failures.count == 0


def test_machines_of_two_launches_that_fail_in_turns_count_as_two() -> None:
    roster = new_roster()
    for number in range(12):
        roster.failed("no bundle", NOW + number, launch=f"t{number % 2}")
    assert (roster.failures.count, roster.failures.boots) == (2, 2)


def test_a_launch_on_a_cloud_whose_clock_is_behind_counts_until_it_is_listed() -> None:
    roster = new_roster()
    roster.launched([runner("a", at=NOW - 300)], NOW)
    roster.update([], {}, NOW + 30)
    assert len(roster.runners) == 1


def test_where_nobody_is_heard_what_outlived_its_boot_is_up_and_shows_that_launches_go_well() -> None:
    roster = new_roster()
    roster.failed("no bundle", NOW - 5, launch="t1")
    roster.update([runner("a"), runner("b", at=NOW + 100)], {}, NOW + 121)
    roster.take_for_up(120.0, NOW + 121)
    assert [each.state for each in roster.runners] == [RunnerState.UP, RunnerState.BOOTING]
    assert roster.failures.count == 0


def test_a_failure_of_long_ago_does_not_lengthen_the_next_pause() -> None:
    roster = new_roster()
    for hours in range(8):
        roster.failed("throttled", NOW + hours * 3600)
    assert roster.failures.count == 1


def test_without_a_fresh_listing_nobody_is_gone() -> None:
    roster = new_roster()
    roster.update([runner("a"), runner("b")], {}, NOW)
    assert roster.update(None, {}, NOW + 1000) == ()
    assert len(roster.runners) == 2


def test_what_a_launch_may_raise_counts_until_listings_showed_all_of_it() -> None:
    roster = new_roster()
    roster.asked(LAUNCH, NOW)
    assert roster.unclear(NOW) == 3
    roster.update([runner("a", launch="t1"), runner("x")], {}, NOW + 1)
    assert roster.unclear(NOW + 1) == 2
    roster.update([runner("b", launch="t1")], {}, NOW + 2)
    assert roster.unclear(NOW + 2) == 1, "one that came and went is no longer unclear"


def test_a_launch_that_no_listing_shows_for_a_while_never_was() -> None:
    roster = new_roster()
    roster.asked(LAUNCH, NOW)
    assert roster.unclear(NOW + VISIBLE_WITHIN) == 0
    roster.update([], {}, NOW + VISIBLE_WITHIN)
    assert roster.open_tokens == frozenset()


def test_an_answered_launch_is_in_flight_until_its_runners_are_listed() -> None:
    roster = new_roster()
    roster.asked(LAUNCH, NOW)
    fresh = roster.launched([runner("a", launch="t1")], NOW)
    roster.answered(["t1"])
    assert [each.id for each in fresh] == ["a"]
    assert (roster.unclear(NOW), set(roster.in_flight(NOW))) == (0, {"t1"})
    roster.update([runner("a", launch="t1")], {}, NOW + 1)
    assert set(roster.in_flight(NOW + 1)) == set()


def test_a_runner_that_is_listed_already_is_not_launched_again_by_a_late_answer() -> None:
    roster = new_roster()
    roster.update([runner("a", launch="t1")], {}, NOW)
    assert roster.launched([runner("a", launch="t1"), runner("b", launch="t1")], NOW) == (runner("b", launch="t1"),)
    assert len(roster.runners) == 2


def test_an_unanswered_launch_is_asked_for_less_and_less_often() -> None:
    roster = new_roster()
    asked = []
    roster.asked(LAUNCH, NOW)
    for second in range(1, 40):
        for held in roster.unanswered(NOW + second):
            roster.asked(held.launch, NOW + second, tries=held.tries + 1)
            asked.append(second)
    assert asked == [1, 3, 7, 15, 31]


def test_a_launch_of_the_parent_before_counts_but_cannot_be_asked_for() -> None:
    roster = new_roster()
    roster.asked(LAUNCH, NOW, tries=0)
    assert (roster.unclear(NOW), roster.unanswered(NOW + 30)) == (3, ())


def test_machines_of_one_launch_that_fail_to_boot_count_once() -> None:
    roster = new_roster()
    for _ in range(50):
        roster.failed("no bundle", NOW, launch="t1")
    roster.failed("no bundle", NOW + 60, launch="t2")
    assert (roster.failures.count, roster.failures.boots) == (2, 2)


def test_a_refusal_is_no_failed_boot_and_keeps_the_pause_it_names() -> None:
    roster = new_roster()
    roster.failed("no capacity", NOW, pause=180.0)
    assert (roster.failures.boots, roster.failures.pause) == (0, 180.0)
    roster.failed("throttled", NOW)
    assert roster.failures.pause is None


def test_a_runner_that_said_hello_and_why_it_ends_and_is_gone_since_the_last_look_was_heard() -> None:
    roster = new_roster()
    roster.update([runner("a"), runner("b")], {}, NOW)
    words = {**word("a", RunnerState.ENDING, reason="idle for 30 s"), **word("b")}
    came, *gone = roster.update([], words, NOW + 10)
    assert (came.event, came.runner.id) == (Event.UP, "b")
    told = [(change.event, change.runner.id, change.heard, change.reason) for change in gone]
    assert told == [(Event.GONE, "a", True, "idle for 30 s"), (Event.GONE, "b", True, "")]


def took(name: str, taken: int, *, active: int = 0) -> dict[str, Word]:
    fields = {"state": RunnerState.UP, "active": active, "taken": taken}
    return {name: Word(runner_id=name, pool="p", owner="o", **fields)}  # type: ignore[arg-type]


def test_what_runners_took_is_counted_and_stays_counted_when_they_are_gone() -> None:
    roster = new_roster()
    roster.launched([runner("a"), runner("b")], NOW)
    roster.update([runner("a"), runner("b")], took("a", 3) | took("b", 1), NOW + 1)
    roster.update([runner("b")], took("a", 7) | took("b", 2), NOW + 2)
    assert roster.taken == 9, "what it took since the look before is in its last word"
    roster.update([runner("b")], took("b", 4), NOW + 3)
    assert roster.taken == 11


def test_what_an_adopted_runner_took_before_its_first_word_here_does_not_count() -> None:
    roster = new_roster()
    roster.update([runner("a")], took("a", 500, active=2), NOW)
    assert (roster.taken, roster.joined) == (0, True)
    roster.update(None, took("a", 503, active=2), NOW + 1)
    assert (roster.taken, roster.joined) == (3, False)


def test_an_adopted_runner_without_work_and_one_of_ours_change_nothing_that_was_counted() -> None:
    roster = new_roster()
    roster.launched([runner("ours")], NOW)
    roster.update([runner("ours"), runner("idle")], took("ours", 2, active=2) | took("idle", 9), NOW)
    assert (roster.taken, roster.joined) == (2, False)


def test_what_a_runner_took_never_gets_less() -> None:
    roster = new_roster()
    roster.launched([runner("a")], NOW)
    counted = []
    for said in (5, 3, 6):
        roster.update(None, took("a", said), NOW + 1)
        counted.append(roster.taken)
    assert counted == [5, 5, 6]


def test_a_boot_is_timed_by_the_clock_of_the_parent_that_launched() -> None:
    roster = new_roster()
    roster.launched([runner("ours", at=NOW - 300)], NOW)
    changes = roster.update([runner("ours", at=NOW - 300), runner("adopted")], word("ours") | word("adopted"), NOW + 40)
    assert {change.runner.id: change.seconds for change in changes} == {"ours": 40, "adopted": None}
