"""What a spot instance learns of its end, from metadata that are the test's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from celery_flame_ec2.notices import USUAL_NOTICE, Notice, Notices, open_notices
from celery_flame_ec2.parent import Parent
from tests.unit.test_imds import FakeMetadata, serving

EPOCH, MONOTONIC = 1_785_542_400.0, 500.0  # 2026-08-01T00:00:00Z


@pytest.fixture
def server() -> Iterator[FakeMetadata]:
    with serving() as server:
        yield server


def notices(server: FakeMetadata, life_cycle: str = "spot") -> Notices:
    server.leaves["instance-life-cycle"] = life_cycle
    return Notices(server.metadata(), clock=lambda: EPOCH, monotonic=lambda: MONOTONIC)


def test_nothing_is_announced_until_it_is(server: FakeMetadata) -> None:
    watching = notices(server)
    assert (watching.look(), watching.notice()) == (True, Notice())


@pytest.mark.parametrize(
    ("written", "left"),
    [
        (json.dumps({"action": "terminate", "time": "2026-08-01T00:01:50Z"}), 110.0),
        (json.dumps({"action": "stop", "time": "2026-07-31T23:59:57Z"}), -3.0),
        ("not json", USUAL_NOTICE),
        ("{}", USUAL_NOTICE),
        (json.dumps({"time": "soon"}), USUAL_NOTICE),
    ],
)
def test_a_notice_says_when_and_ends_the_looking(server: FakeMetadata, written: str, left: float) -> None:
    watching = notices(server)
    server.leaves["spot/instance-action"] = written
    assert not watching.look()
    assert watching.notice() == Notice(taken_away_at=MONOTONIC + left)


def test_a_recommendation_is_no_notice(server: FakeMetadata) -> None:
    watching = notices(server)
    server.leaves["events/recommendations/rebalance"] = json.dumps({"noticeTime": "2026-08-01T00:00:00Z"})
    assert (watching.look(), watching.notice()) == (True, Notice(rebalance=True))


def test_an_on_demand_instance_asks_once(server: FakeMetadata) -> None:
    watching = notices(server, life_cycle="on-demand")
    assert not watching.look()
    assert [request for request in server.requests if request.startswith("GET")] == [
        "GET /latest/meta-data/instance-life-cycle"
    ]


def test_metadata_that_refuse_are_asked_again_and_complained_of_once(
    server: FakeMetadata, caplog: pytest.LogCaptureFixture
) -> None:
    watching = notices(server)
    server.token_status = 403
    assert watching.look()
    assert watching.look()
    assert caplog.text.count("no spot interruption notice would be seen") == 1
    server.token_status = 200
    server.leaves["spot/instance-action"] = "{}"
    assert not watching.look()


@pytest.mark.parametrize(
    ("backend", "disabled", "asks"),
    [("ec2", "", True), ("ec2", "false", True), ("ec2", "True", False), ("local", "", False)],
)
def test_only_an_instance_asks_and_only_where_it_may(backend: str, disabled: str, asks: bool) -> None:
    letter = Parent(owner="o", pool="p", backend=backend, queues=("q",), concurrency=1)
    found = open_notices(letter, {"AWS_EC2_METADATA_DISABLED": disabled})
    assert (found is not None) == asks


def test_metadata_at_an_address_of_the_users_own_are_asked_whatever_the_environment_forbids() -> None:
    own = {"url": "http://127.0.0.1:9/latest/meta-data/", "token_url": "http://127.0.0.1:9/latest/api/token"}
    letter = Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=1, metadata=own)
    assert open_notices(letter, {"AWS_EC2_METADATA_DISABLED": "true"}) is not None
