"""Where does a message go back to, and whose keys are whose?"""

from __future__ import annotations

import pytest

from celery_flame_ec2.holdings import destinations, keys_of


@pytest.mark.parametrize(
    ("bound", "queues", "where"),
    [
        pytest.param(["video"], ("video", "audio"), ["video"], id="the queue it is routed to"),
        pytest.param(["all", "video"], ("video",), ["video"], id="not the copies of others"),
        pytest.param(["other"], ("video",), ["other"], id="what its own code consumed beside the pool's queues"),
        pytest.param([], ("video", "audio"), ["video"], id="nothing leads to any more"),
        pytest.param([None], ("video",), ["video"], id="nothing, in kombu's words"),
        pytest.param(["video", "audio"], ("video", "audio"), ["video", "audio"], id="a copy for each"),
    ],
)
def test_a_message_goes_back_to_the_queues_it_may_have_come_from(
    bound: list[str | None], queues: tuple[str, ...], where: list[str]
) -> None:
    assert destinations(bound, queues) == where


def test_no_two_runners_or_owners_share_a_key() -> None:
    keys = [key for owner in ("a", "b") for runner in ("1", "2") for key in keys_of(owner, runner).values()]
    assert len(set(keys)) == len(keys) == 12
