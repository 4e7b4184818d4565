from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.backends.ec2.limiter import REQUESTS, RESOURCES, Limiter

steps = st.lists(
    st.tuples(st.floats(0, 20), st.integers(1, 400), st.booleans()), min_size=1, max_size=60
)  # a pause, how many are wanted, and whether they were refused


def most() -> float:
    return 1.0


def test_five_requests_are_allowed_at_once_and_then_two_a_second() -> None:
    limiter = Limiter(0, jitter=most)
    assert [limiter.take(1, 0) for _ in range(6)] == [1, 1, 1, 1, 1, 0]
    assert limiter.wait(0) == pytest.approx(0.5)
    assert [limiter.take(1, 1) for _ in range(3)] == [1, 1, 0]


def test_a_thousand_instances_are_allowed_at_once_and_then_two_a_second() -> None:
    limiter = Limiter(0, jitter=most)
    assert limiter.take(1200, 0) == 1000
    assert limiter.take(100, 0) == 0
    assert limiter.wait(0) == pytest.approx(0.5)
    assert limiter.take(100, 10) == 20


def test_no_request_is_spent_where_no_instance_is_allowed() -> None:
    limiter = Limiter(0, jitter=most)
    limiter.take(1000, 0)
    for _ in range(10):
        assert limiter.take(1, 0) == 0
    assert [limiter.take_request(0) for _ in range(5)] == [True] * 4 + [False]


def test_what_was_not_launched_is_given_back_and_never_more_than_there_can_be() -> None:
    limiter = Limiter(0, jitter=most)
    limiter.take(1000, 0)
    limiter.give_back(300)
    assert limiter.take(1000, 0) == 300
    limiter.give_back(5000)
    assert limiter.take(5000, 0) == 1000


def test_after_ec2_said_it_was_too_much_it_rests_twice_as_long_each_time_in_a_row() -> None:
    limiter, now, rests = Limiter(0, jitter=most), 0.0, []
    for _ in range(8):
        rests.append(limiter.throttled(now))
        assert limiter.take(1, now + rests[-1] - 0.01) == 0
        assert limiter.wait(now) == pytest.approx(rests[-1])
        now += rests[-1]
        assert limiter.take(1, now) == 1
    assert rests == [1, 2, 4, 8, 16, 32, 32, 32]
    limiter.heard()
    assert limiter.throttled(now) == 1


def test_no_two_parents_come_back_at_the_same_moment() -> None:
    assert [Limiter(0, jitter=lambda drawn=drawn: drawn).throttled(0) for drawn in (0.0, 0.5, 1.0)] == [0.5, 0.75, 1.0]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limiter = Limiter(100, jitter=most)
    while limiter.take(1, 100):
        pass
    assert limiter.take(1, 0) == 0
    assert limiter.take(1, 0.5) == 1


@given(start=st.floats(0, 2e9), steps=steps)
def test_no_window_sees_more_requests_or_instances_than_the_buckets_allow(
    start: float, steps: list[tuple[float, int, bool]]
) -> None:
    limiter, now = Limiter(start, jitter=most), start
    sent: list[tuple[float, int]] = []  # when, and how many were launched
    for pause, wanted, refused in steps:
        now += pause
        while granted := limiter.take(wanted, now):
            assert granted <= wanted
            sent.append((now, 0 if refused else granted))
            limiter.give_back(granted if refused else 0)
    for first, (begin, _) in enumerate(sent):
        launched = 0
        for number, (end, count) in enumerate(sent[first:], start=1):
            launched += count
            assert number <= REQUESTS[0] + REQUESTS[1] * (end - begin) + 1e-3
            assert launched <= RESOURCES[0] + RESOURCES[1] * (end - begin) + 1e-3


@given(start=st.floats(0, 2e9), steps=steps)
def test_after_the_wait_that_is_told_a_request_is_allowed(start: float, steps: list[tuple[float, int, bool]]) -> None:
    limiter, now = Limiter(start, jitter=most), start
    for pause, wanted, throttled in steps:
        now += pause
        limiter.take(wanted, now)
        if throttled:
            limiter.throttled(now)
        now += limiter.wait(now)
        assert limiter.take(1, now) == 1
