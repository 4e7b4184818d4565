"""What a queue teaches: by looks at small queues whose truth is known."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.experience import ENOUGH, FIRST_BOOT, FIRST_RUNTIME, LASTING, SPAN, SPANS, Experience


def look(past: Experience, second: float, *, waiting: int = 0, running: int = 0, taken: int = 0) -> Experience:
    return past.after(waiting=waiting, running=running, taken=taken, now=second)


def served(past: Experience, *, seconds: range, each: float, slots: int = 10) -> Experience:
    """Let all slots be busy with tasks that run for `each` seconds, one look a second."""
    ended = past.ended + round(slots / each)
    for second in seconds:
        past = look(past, second, running=slots, taken=slots + ended)
        ended += round(slots / each)
    return past


def test_nothing_seen_is_a_guess() -> None:
    past = Experience()
    assert (past.runtime, past.boot, past.arrivals.steady, past.at_least) == (FIRST_RUNTIME, FIRST_BOOT, 0.0, 0.0)


def test_what_waits_at_the_first_look_did_not_arrive() -> None:
    past = look(Experience(), 0, waiting=1000)
    for second in range(1, 70):
        past = look(past, second, waiting=1000)
    assert past.arrivals.steady == past.arrivals.lasting == 0.0


def test_tasks_arrive_that_wait_or_were_taken() -> None:
    past = Experience()
    for second in range(70):  # three a second: one is taken, two wait
        past = look(past, second, waiting=2 * second, running=second, taken=second)
    assert past.arrivals.steady == pytest.approx(3.0)


def test_a_burst_is_not_a_rate() -> None:
    past = look(Experience(), 0)
    for second in range(1, 70):
        past = look(past, second, waiting=10_000)
    assert past.arrivals.steady == 0.0
    assert past.arrivals.lasting > 0


def test_what_arrives_seldom_shows_in_what_lasts() -> None:
    past = Experience()
    for second in range(0, 7200, 5):
        past = look(past, second, waiting=0, taken=second // 100)
    assert past.arrivals.steady == 0.0
    assert past.arrivals.lasting == pytest.approx(0.01, rel=0.15)


def test_what_was_taken_is_not_counted_twice_where_it_is_told_late() -> None:
    past = look(Experience(), 0, waiting=40)
    for second in range(1, 10 * int(SPAN)):  # the queue empties at once, what was taken is told two seconds later
        past = look(past, second, waiting=0, running=40 * (second > 2), taken=40 * (second > 2))
    assert sum(past.arrivals.spans) == past.arrivals.steady == 0.0


def test_a_queue_that_is_purged_brings_no_arrivals_below_none() -> None:
    past = look(look(Experience(), 0, waiting=1000), 5, waiting=0)
    for second in range(6, 30):
        past = look(past, second, waiting=second)
    assert past.arrivals.lasting >= 0
    assert min(past.arrivals.spans) >= 0


def test_few_arrivals_are_not_known_before_a_minute_was_counted() -> None:
    past = Experience()
    known = []
    for second in range(62):
        past = look(past, second)
        known.append(past.arrivals.known)
    assert known.index(True) == SPANS * SPAN


@pytest.mark.parametrize("each", [0.1, 1.0, 5.0])
def test_a_runtime_is_the_time_at_work_over_the_ends(each: float) -> None:
    past = served(Experience(), seconds=range(300), each=each)
    assert past.runtime == pytest.approx(each, rel=0.05)
    assert past.at_least is None


def test_tasks_that_have_not_ended_count_with_what_they_ran() -> None:
    past = Experience()
    for second in range(200):
        past = look(past, second, running=10, taken=10)
    assert past.at_least == pytest.approx(150, rel=0.3)  # those of long ago count for less
    assert past.runtime > 1000  # ten have run for 200 s each, and none has ended


def test_a_runtime_is_known_when_enough_tasks_have_ended() -> None:
    past = look(Experience(), 0, running=10, taken=10)
    assert look(past, 1, running=10, taken=10 + ENOUGH - 1).at_least is not None
    assert look(past, 1, running=10, taken=10 + ENOUGH).at_least is None


def test_a_runtime_that_jumps_is_felt_within_minutes() -> None:
    past = served(Experience(), seconds=range(600), each=0.5)
    longer = served(past, seconds=range(600, 780), each=5.0)
    assert longer.runtime > 3


def test_a_few_short_tasks_do_not_hide_that_most_run_for_long() -> None:
    past = served(Experience(), seconds=range(600), each=10.0)
    quick = served(past, seconds=range(600, 610), each=0.5)
    assert quick.runtime > 3.0


def test_a_mix_of_runtimes_teaches_its_mean() -> None:
    draw = random.Random(1)
    ends = sorted(600.0 * draw.random() + (0.01 if draw.random() < 0.9 else 60.0) for _ in range(600))
    starts = sorted(end - (0.01 if index % 10 else 60.0) for index, end in enumerate(ends))
    past = Experience()
    for second in range(-60, 600):
        taken = sum(start <= second for start in starts)
        past = look(past, second, running=taken - sum(end <= second for end in ends), taken=taken)
    assert past.runtime == pytest.approx(6.0, rel=0.5)


def test_idle_time_fades_no_runtime() -> None:
    past = served(Experience(), seconds=range(100), each=2.0)
    ended = look(past, 100, running=0, taken=past.last.taken if past.last else 0)
    idle = look(ended, 10_000, taken=ended.last.taken if ended.last else 0)
    assert idle.runtime == ended.runtime


def test_what_happens_while_nothing_can_be_measured_teaches_nothing() -> None:
    past = served(Experience(), seconds=range(100), each=2.0)
    assert past.missed().runtime == past.runtime
    after = look(past.missed(), 1000, waiting=5000, running=3, taken=90_000)
    assert (after.ended, after.runtime, after.arrivals.spans) == (past.ended, past.runtime, past.arrivals.spans)


def test_a_clock_that_was_set_back_teaches_nothing() -> None:
    past = served(Experience(), seconds=range(100), each=2.0)
    assert look(past, -3600, waiting=7, taken=10**6).ended == past.ended


def test_arrivals_fade_over_what_lasts() -> None:
    past = Experience()
    for second in range(0, 3600, 10):
        past = look(past, second, taken=second)
    quiet = look(past, 3590 + LASTING, taken=3590)
    assert quiet.arrivals.lasting == pytest.approx(past.arrivals.lasting / 2.718, rel=0.05)
    assert quiet.arrivals.steady == 0.0


def test_boots_are_averaged_the_last_ones_more() -> None:
    past = Experience().after(waiting=0, running=0, taken=0, now=0.0, boots=[20.0] * 30)
    assert past.boot == pytest.approx(20.0, rel=0.01)
    assert past.after(waiting=0, running=0, taken=0, now=1.0, boots=[100.0]).boot == pytest.approx(44.0, rel=0.01)


counts = st.integers(0, 10**9)


@given(
    looks=st.lists(st.tuples(st.floats(-10, 1e6), counts, counts, counts), max_size=20),
    boots=st.lists(st.floats(0, 3600), max_size=3),
)
def test_whatever_was_measured_what_was_learned_is_a_number_that_can_be(
    looks: list[tuple[float, int, int, int]], boots: list[float]
) -> None:
    past, now = Experience(), 0.0
    for elapsed, waiting, running, taken in looks:
        now += elapsed
        past = past.after(waiting=waiting, running=running, taken=taken, now=now, boots=boots)
    assert 0 <= past.runtime < float("inf")
    assert 0 <= past.boot <= 3600
    assert 0 <= past.arrivals.steady < float("inf")
    assert 0 <= past.arrivals.lasting < float("inf")
    assert dataclasses.replace(past, last=None) == past.missed()
