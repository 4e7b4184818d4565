"""What readers of the status page are told of the last rounds."""

from __future__ import annotations

import dataclasses
import json

from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.overview import DecisionOverview
from celery_flame_ec2.page.rounds import Rounds
from tests.overviews import NOON, overview, pool
from tests.unit.test_lease import Clock

SETTINGS = Settings(pools=(PoolSettings(name="video", queues=("video",)),))


def test_before_the_first_round_nothing_is_known_and_nothing_is_well() -> None:
    rounds = Rounds(SETTINGS, monotonic=Clock())

    for answer in (rounds.status(), rounds.history(), rounds.health()):
        assert answer.status == 503
        assert answer.body == b"the first round is not over yet\n"


def test_the_status_is_the_overview_and_tells_its_age() -> None:
    clock = Clock()
    rounds = Rounds(SETTINGS, monotonic=clock)
    rounds.take(overview(pool(waiting=7)))
    clock.now += 12

    answer = rounds.status()
    assert json.loads(answer.body) == json.loads(json.dumps(overview(pool(waiting=7)).as_json()))
    assert answer.headers["Age"] == "12"


def test_the_history_is_of_what_rounds_showed() -> None:
    rounds = Rounds(SETTINGS, monotonic=Clock())
    decided = DecisionOverview(reason="launch 2: much waits", at=NOON, ago=0.0)
    states = {"booting": 2, "up": 0, "cordoned": 0, "ending": 0}
    rounds.take(overview(pool(waiting=7)))
    rounds.take(overview(pool(waiting=None, states=states, last_decision=decided), at=NOON + 1))

    shown = json.loads(rounds.history().body)
    assert shown["now"] == NOON + 1
    assert shown["pools"]["video"]["waiting"] == [7, None]
    assert shown["pools"]["video"]["booting"] == [0, 2]
    assert shown["decisions"] == [{"at": NOON + 1, "pool": "video", "text": "launch 2: much waits"}]


def test_health_goes_when_rounds_stop_and_comes_back_with_them() -> None:
    clock = Clock()
    rounds = Rounds(dataclasses.replace(SETTINGS, interval=5.0), monotonic=clock)
    rounds.take(overview())
    clock.now += 50
    assert rounds.health().status == 200
    clock.now += 0.1
    assert rounds.health().status == 503
    assert rounds.health().body == (b"the last round ended 50 s ago, and one is due every 5 s (flame_interval)\n")
    rounds.take(overview())
    assert rounds.health().status == 200
    assert rounds.health().body == b"rounds go on: the last one ended 0.0 s ago\n"


def test_short_intervals_do_not_make_a_slow_round_an_illness() -> None:
    clock = Clock()
    rounds = Rounds(dataclasses.replace(SETTINGS, interval=0.1), monotonic=clock)
    rounds.take(overview())
    clock.now += 30
    assert rounds.health().status == 200
