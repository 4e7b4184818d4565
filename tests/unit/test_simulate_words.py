"""Do a few words describe the load they seem to, and are others refused with the remedy?"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.simulate.words import Flow, parse_flow, parse_seconds

TIMES = {"5": 5, "0": 0, ".5": 0.5, "10ms": 0.01, "90s": 90, "1.5m": 90, "2h": 7200, "1d": 86400}
BAD_FLOWS = {
    "": "a whole number above 0 and at most 100 before the x, got ''",
    "5": "how long tasks run stands behind the x: expected a time such as 5, 10ms, 1.5m, 2h or 1d, above 0",
    "x5": "before the x, got ''",
    "0x5": "above 0 and at most 100 before the x, got '0'",
    "101x5": "at most 100 before the x, got '101'",
    "1.5x5": "a whole number above 0 and at most 100 before the x, got '1.5'",
    "-1x5": "before the x, got '-1'",
    "5x0": "above 0 and at most a hundred years, got '0'",
    "5xsoon": "got 'soon'",
    "5x~": "got ''",
    "5x40000d": "at most a hundred years, got '40000d'",
    "5x1@2,3": "each part of a mix has a weight, a whole number from 1, as in 10ms@98,10m@2; got '3'",
    "5x1@0": "got '1@0'",
    "5x1..": "how long tasks run stands behind the x",
}


def drawn(flow: Flow, *, at: float = 0.0, seconds: float = 100.0, count: int = 4000) -> list[float]:
    runtime, source = flow.runtime(seconds), random.Random(1)
    return [runtime(source, at) for _ in range(count)]


def flow(text: str) -> Flow:
    return parse_flow(text, most=100, whole=False)


@pytest.mark.parametrize(("text", "seconds"), TIMES.items())
def test_a_time_may_have_a_unit(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5 h", "-5", "1e3", "5w", "nan", "inf", "5m5", "1_0", "٣"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time such as 5, 10ms"):
        parse_seconds(text)


def test_a_number_of_tasks_and_a_fixed_time() -> None:
    assert flow("0.5x5").number == 0.5
    assert set(drawn(flow("0.5x5"))) == {5}


def test_a_tilde_is_a_mean() -> None:
    runtimes = drawn(flow("2x~5"))
    assert len(set(runtimes)) > 3000
    assert sum(runtimes) / len(runtimes) == pytest.approx(5, rel=0.05)


def test_a_mix_is_drawn_by_weights() -> None:
    runtimes = drawn(flow("2x10ms@3,~10m@1"))
    assert runtimes.count(0.01) / len(runtimes) == pytest.approx(0.75, abs=0.03)
    assert max(runtimes) > 1000


def test_dots_change_the_runtime_half_way() -> None:
    jump = flow("2x1..10@1")
    assert set(drawn(jump, at=49.9)) == {1}
    assert set(drawn(jump, at=50)) == {10}


@pytest.mark.parametrize(("text", "told"), BAD_FLOWS.items())
def test_what_describes_no_load_is_refused_with_what_is_expected(text: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the words are compared below
        parse_flow(text, most=100, whole=True)
    assert told in str(refused.value)


@given(st.text(alphabet="0123456789.x~@,smhd-", max_size=12))
def test_whatever_is_said_it_is_a_load_or_refused(text: str) -> None:
    try:
        said = flow(text)
    except ValueError:
        return
    assert 0 < said.number <= 100
    assert all(0 <= runtime < float("inf") for runtime in drawn(said, count=3))
