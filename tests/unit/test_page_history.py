"""What the status page remembers of the last hours."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_flame_ec2.page.history import DECISIONS, FEWEST, MOMENTS, SAMPLES, SPAN, History, Sample

NOON = 1_800_000_000.0


def history(*pools: str, interval: float = 1.0) -> History:
    return History(pools or ("video",), interval=interval, now=NOON)


def played(samples: list[Sample], *, interval: float = 1.0) -> dict[str, Any]:
    kept = history(interval=interval)
    for number, sample in enumerate(samples):
        kept.add({"video": sample}, {}, NOON + number * interval)
    return kept.as_json()


def test_each_round_is_a_moment_at_first() -> None:
    shown = played([Sample(3, up=1), Sample(None, booting=2), Sample(0)])

    assert shown["at"] == [NOON, NOON + 1, NOON + 2]
    assert shown["step"] == 1.0
    assert shown["pools"]["video"] == {
        "waiting": [3, None, 0], "booting": [0, 2, 0], "up": [1, 0, 0], "cordoned": [0, 0, 0], "ending": [0, 0, 0],
    }  # fmt: skip


def test_a_full_ring_keeps_all_that_happened_in_moments_of_twice_the_length() -> None:
    shown = played([Sample(7)] + [Sample(0)] * MOMENTS)

    assert shown["step"] == 2.0
    assert shown["at"][0] == NOON
    assert shown["pools"]["video"]["waiting"][:2] == [7, 0]
    assert len(shown["at"]) == MOMENTS // 2 + 1


def test_the_oldest_goes_once_the_hours_are_full_and_a_short_burst_stays_until_then() -> None:
    rounds = int(SPAN)
    shown = played([Sample(0)] * (rounds // 2) + [Sample(900, up=20)] + [Sample(0)] * rounds)

    assert shown["step"] * MOMENTS >= SPAN
    assert len(shown["at"]) <= MOMENTS
    assert SPAN <= shown["at"][-1] + shown["step"] - shown["at"][0] < 2 * SPAN
    assert max(shown["pools"]["video"]["waiting"]) == 900
    assert max(shown["pools"]["video"]["up"]) == 20


def test_states_of_two_moments_are_never_added_up() -> None:
    kept = history()
    kept.add({"video": Sample(1, booting=4)}, {}, NOON)
    kept.add({"video": Sample(None, up=3, ending=2)}, {}, NOON + 0.5)
    kept.add({"video": Sample(2, up=4)}, {}, NOON + 0.9)

    (waiting,), *states = kept.as_json()["pools"]["video"].values()
    assert waiting == 2
    assert [count for (count,) in states] == [0, 3, 0, 2]


def test_a_decision_is_remembered_when_it_is_new() -> None:
    kept = history("video", "audio")
    for second, text in enumerate(["", "launch 2: a", "launch 2: a", "launch 1: b", "launch 2: a"]):
        kept.add({}, {"video": text, "audio": ""}, NOON + second)

    assert kept.as_json()["decisions"] == [
        {"at": NOON + 4, "pool": "video", "text": "launch 2: a"},
        {"at": NOON + 3, "pool": "video", "text": "launch 1: b"},
        {"at": NOON + 1, "pool": "video", "text": "launch 2: a"},
    ]


def test_only_so_many_decisions_are_remembered() -> None:
    kept = history()
    for number in range(DECISIONS + 5):
        kept.add({}, {"video": f"launch {number}"}, NOON + number)

    texts = [decision["text"] for decision in kept.as_json()["decisions"]]
    assert len(texts) == DECISIONS
    assert texts[0] == f"launch {DECISIONS + 4}"


def test_a_copy_stays_as_it_is() -> None:
    kept = history()
    kept.add({"video": Sample(1)}, {"video": "launch 1"}, NOON)
    before = kept.copy()
    kept.add({"video": Sample(5)}, {"video": "launch 2"}, NOON + 0.5)
    kept.add({"video": Sample(2)}, {}, NOON + 5)

    assert before.as_json()["pools"]["video"]["waiting"] == [1]
    assert len(before.as_json()["decisions"]) == 1
    assert kept.as_json()["pools"]["video"]["waiting"] == [5, 2]


@settings(deadline=None, max_examples=50)
@given(
    pools=st.sampled_from([1, 150, 1500]),
    interval=st.sampled_from([0.1, 1.0, 7.3, 60.0]),
    waits=st.lists(st.floats(0, 4 * SPAN), min_size=1, max_size=300),
)
def test_memory_is_bounded_and_time_goes_on_whatever_the_rounds_do(
    pools: int, interval: float, waits: list[float]
) -> None:
    names = [f"pool{number}" for number in range(pools)]
    kept, now = history(*names, interval=interval), NOON
    for number, wait in enumerate(waits):
        now += wait
        kept.add({names[0]: Sample(number)}, {}, now)
    shown = kept.as_json()
    assert len(shown["at"]) <= min(MOMENTS, max(FEWEST, SAMPLES // pools))
    assert shown["at"] == sorted(set(shown["at"]))
    assert shown["pools"][names[0]]["waiting"][-1] == len(waits) - 1
    json.dumps(shown, allow_nan=False)
