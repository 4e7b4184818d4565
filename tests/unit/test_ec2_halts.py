from __future__ import annotations

import dataclasses

import pytest

from celery_flame_ec2.backends.ec2.halts import Halts
from celery_flame_ec2.backends.ec2.recipe import Recipe, Rung

FIRST, SECOND, THIRD = (
    Rung(market="on-demand", instance_type=kind, subnet_id="subnet-a") for kind in ("c7i.large", "c6i.large", "t3.nano")
)
LADDER = (FIRST, SECOND, THIRD)
MADE = Recipe(image="ami-1", instance_types=("c7i.large", "c6i.large", "t3.nano"))
OTHER = dataclasses.replace(MADE, image="ami-2")
NO = "it will be refused again"


@pytest.fixture
def halts() -> Halts:
    return Halts(300)


def test_nothing_is_closed_at_first(halts: Halts) -> None:
    assert halts.open_part("video", MADE, LADDER, 0) == (LADDER, None)
    assert halts.blind("video", 0) is None


@pytest.mark.parametrize(("rung", "left"), [(FIRST, ()), (SECOND, (FIRST,)), (THIRD, (FIRST, SECOND))])
def test_a_lasting_no_closes_its_rung_and_all_after_it(halts: Halts, rung: Rung, left: tuple[Rung, ...]) -> None:
    halt, news = halts.stop("video", NO, 0, recipe=MADE, rung=rung)
    assert news
    assert halts.open_part("video", MADE, LADDER, 59) == (left, halt)
    assert halts.open_part("video", MADE, LADDER, 60) == (LADDER, None)


def test_another_recipe_and_another_pool_are_open_at_once(halts: Halts) -> None:
    halts.stop("video", NO, 0, recipe=MADE, rung=FIRST)
    assert halts.open_part("video", OTHER, LADDER, 1) == (LADDER, None)
    assert halts.open_part("audio", MADE, LADDER, 1) == (LADDER, None)


def test_the_same_no_again_holds_twice_as_long_up_to_an_hour_and_is_no_news(halts: Halts) -> None:
    now, lengths, told = 0.0, [], []
    for _ in range(8):
        halt, news = halts.stop("video", NO, now, recipe=MADE, rung=FIRST)
        lengths.append(halt.hold.length)
        told.append(news)
        now = halt.hold.until
    assert lengths == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert told == [True] + [False] * 7


def test_a_no_to_another_recipe_begins_anew(halts: Halts) -> None:
    halts.stop("video", NO, 0, recipe=MADE, rung=FIRST)
    halts.stop("video", NO, 60, recipe=MADE, rung=FIRST)
    halt, _ = halts.stop("video", NO, 61, recipe=OTHER, rung=FIRST)
    assert halt.hold.length == 60


def test_another_reason_is_news(halts: Halts) -> None:
    halts.stop("video", NO, 0, recipe=MADE, rung=FIRST)
    assert halts.stop("video", "now it is something else", 60, recipe=MADE, rung=FIRST)[1]


def test_a_launch_that_went_well_ends_it(halts: Halts) -> None:
    halts.stop("video", NO, 0, recipe=MADE, rung=FIRST)
    halts.end("video")
    halts.end("video")
    assert halts.open_part("video", MADE, LADDER, 1) == (LADDER, None)


def test_the_next_look_comes_before_a_long_hold_ends(halts: Halts) -> None:
    now = 0.0
    for _ in range(5):
        halt, _ = halts.stop("video", NO, now, recipe=MADE, rung=FIRST)
        assert halts.retry_in(halt, now) == min(300, halt.hold.length)
        now = halt.hold.until
    assert halts.retry_in(halt, now) == 0


def test_without_a_recipe_nothing_is_looked_up_for_a_while_and_never_for_longer_than_a_recipe_holds(
    halts: Halts,
) -> None:
    now, lengths = 0.0, []
    for _ in range(5):
        halt, _ = halts.stop("video", NO, now)
        assert halts.blind("video", now) == halt
        lengths.append(halt.hold.length)
        now = halt.hold.until
        assert halts.blind("video", now) is None
    assert lengths == [60, 120, 240, 300, 300]
    assert halts.open_part("video", MADE, LADDER, now - 1) == (LADDER, None)
