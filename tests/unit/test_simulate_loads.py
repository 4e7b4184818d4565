"""Do described loads bring the tasks that their words promise?"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_flame_ec2.simulate import (
    Task,
    burst,
    daily,
    exponential,
    fixed,
    floods,
    jumping,
    mixed,
    poisson,
)

HOUR, DAY = 3600.0, 86400.0
LOADS: dict[str, Callable[[int], Iterator[Task]]] = {
    "burst": lambda seed: burst(50, exponential(2), seed=seed),
    "poisson": lambda seed: poisson(0.5, exponential(2), seconds=600, seed=seed),
    "daily": lambda seed: daily(0.002, mixed([(fixed(1), 1), (exponential(9), 2)]), seed=seed),
    "floods": lambda seed: floods(20, jumping(fixed(1), fixed(9), at=300), every=120, over=30, seconds=600, seed=seed),
}


def mean_runtime(tasks: list[Task]) -> float:
    return sum(task.runtime for task in tasks) / len(tasks)


@pytest.mark.parametrize("name", LOADS)
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_a_load_is_the_same_for_the_same_seed_and_in_order(name: str, seed: int) -> None:
    tasks = list(LOADS[name](seed))
    assert tasks == list(LOADS[name](seed))
    assert tasks != list(LOADS[name](seed + 1))
    assert tasks == sorted(tasks, key=lambda task: task.arrival)
    assert all(task.arrival >= 0 and task.runtime >= 0 for task in tasks)


def test_a_burst_comes_at_once() -> None:
    assert list(burst(3, fixed(1.5))) == [Task(0.0, 1.5)] * 3


def test_poisson_arrivals_have_their_rate_and_end_in_time() -> None:
    tasks = list(poisson(2, exponential(5), seconds=5 * HOUR))
    assert len(tasks) == pytest.approx(36_000, rel=0.02)
    assert mean_runtime(tasks) == pytest.approx(5, rel=0.02)
    assert tasks[-1].arrival < 5 * HOUR
    gaps = [later.arrival - task.arrival for task, later in itertools.pairwise(tasks)]
    mean = sum(gaps) / len(gaps)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.05)  # as exponential ones


def test_a_day_has_its_mean_and_its_peak_at_noon() -> None:
    tasks = list(daily(0.5, fixed(5), seconds=DAY, peak=10))
    assert len(tasks) == pytest.approx(0.5 * DAY, rel=0.02)
    hours = Counter(int(task.arrival // HOUR) for task in tasks)
    assert hours[12] == pytest.approx(HOUR * 10 / 11, rel=0.08)
    assert hours[0] == pytest.approx(HOUR / 11, rel=0.25)
    assert max(hours, key=lambda hour: hours[hour]) in (10, 11, 12, 13)


def test_the_next_day_is_like_the_first() -> None:
    days = Counter(int(task.arrival // DAY) for task in daily(0.1, fixed(5), seconds=2 * DAY))
    assert days[0] == pytest.approx(days[1], rel=0.05)


def test_floods_come_one_after_the_other_with_nothing_between() -> None:
    tasks = list(floods(10, fixed(5), every=100, over=20, seconds=250))
    assert Counter(task.arrival // 100 for task in tasks) == {0: 10, 1: 10, 2: 10}
    assert all(task.arrival % 100 <= 20 for task in tasks)


def test_a_mix_has_its_shares() -> None:
    tasks = list(poisson(1, mixed([(fixed(0.01), 98), (fixed(600), 2)]), seconds=10 * HOUR))
    counts = Counter(task.runtime for task in tasks)
    assert counts[600] / len(tasks) == pytest.approx(0.02, abs=0.004)
    assert set(counts) == {0.01, 600}


def test_a_runtime_jumps_at_its_moment() -> None:
    tasks = list(poisson(1, jumping(fixed(1), fixed(10), at=HOUR), seconds=2 * HOUR))
    assert {task.runtime for task in tasks if task.arrival < HOUR} == {1}
    assert {task.runtime for task in tasks if task.arrival >= HOUR} == {10}
