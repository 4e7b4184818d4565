from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_flame_ec2.testing.clock import Clock
from tests.box.conditions import Conditions, Failure, Limit, Offer
from tests.box.wire import Refusal

OFFER = Offer(market="on-demand", instance_type="c7i.large", zone="eu-a", subnet_id="subnet-1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def conditions(clock: Clock) -> Conditions:
    return Conditions(clock)


def refused(what: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(Refusal) as caught:
        what()
    return caught.value.refuse.code, caught.value.refuse.status


def test_nothing_is_short_until_it_is_set(conditions: Conditions) -> None:
    for _ in range(100):
        conditions.admit("RunInstances", resources=100)
    assert conditions.grant(OFFER, least=1, most=5000) == 5000
    conditions.launched(["i-1"], OFFER)
    assert conditions.lists("i-1")
    assert conditions.due() == {}


def test_a_launch_gets_what_room_there_is_and_then_nothing(conditions: Conditions) -> None:
    conditions.room["on-demand", "c7i.large", "eu-a"] = 3
    assert conditions.grant(OFFER, least=1, most=5) == 3
    conditions.launched(["i-1", "i-2", "i-3"], OFFER)
    assert refused(lambda: conditions.grant(OFFER, least=1, most=5)) == ("InsufficientInstanceCapacity", 500)


def test_a_launch_that_wants_more_at_least_than_there_is_gets_nothing(conditions: Conditions) -> None:
    conditions.room["on-demand", "c7i.large", "eu-a"] = 3
    assert refused(lambda: conditions.grant(OFFER, least=4, most=5)) == ("InsufficientInstanceCapacity", 500)


def test_room_is_of_one_market_one_type_and_one_zone(conditions: Conditions) -> None:
    conditions.room["on-demand", "c7i.large", "eu-a"] = 0
    others = (
        Offer(market="spot", instance_type="c7i.large", zone="eu-a"),
        Offer(market="on-demand", instance_type="c7i.xlarge", zone="eu-a"),
        Offer(market="on-demand", instance_type="c7i.large", zone="eu-b"),
    )
    assert [conditions.grant(other, least=1, most=2) for other in others] == [2, 2, 2]


def test_a_subnet_has_an_address_again_when_an_instance_ends(conditions: Conditions) -> None:
    conditions.addresses["subnet-1"] = 1
    assert conditions.grant(OFFER, least=1, most=2) == 1
    conditions.launched(["i-1"], OFFER)
    code, status = refused(lambda: conditions.grant(OFFER, least=1, most=2))
    assert (code, status) == ("InsufficientFreeAddressesInSubnet", 400)
    conditions.ended("i-1")
    conditions.ended("i-1")
    assert conditions.grant(OFFER, least=1, most=2) == 1


@pytest.mark.parametrize(
    ("market", "code"), [("spot", "MaxSpotInstanceCountExceeded"), ("on-demand", "VcpuLimitExceeded")]
)
def test_a_quota_counts_what_lives_of_a_market_and_family(conditions: Conditions, market: str, code: str) -> None:
    small = Offer(market=market, instance_type="c7i.large", zone="eu-a")
    large = Offer(market=market, instance_type="c7i.xlarge", zone="eu-b")
    conditions.quotas[market, "c7i"] = 3
    conditions.launched(["i-1", "i-2"], small)
    assert conditions.grant(large, least=1, most=2) == 1
    conditions.launched(["i-3"], large)
    assert refused(lambda: conditions.grant(small, least=1, most=2)) == (code, 400)
    conditions.ended("i-1")
    assert conditions.grant(small, least=1, most=2) == 1
    assert conditions.living() == {(market, "c7i"): 2}


def test_six_launch_requests_at_once_are_one_too_many(conditions: Conditions, clock: Clock) -> None:
    conditions.throttle_as_aws()
    for _ in range(5):
        conditions.admit("RunInstances")
    assert refused(lambda: conditions.admit("RunInstances")) == ("RequestLimitExceeded", 503)
    clock.now += 0.5
    conditions.admit("RunInstances")
    assert refused(lambda: conditions.admit("RunInstances")) == ("RequestLimitExceeded", 503)


def test_instances_asked_for_have_a_bucket_of_their_own_and_a_throttled_call_takes_nothing(
    conditions: Conditions, clock: Clock
) -> None:
    conditions.throttle_as_aws()
    conditions.admit("RunInstances", resources=900)
    for _ in range(10):
        assert refused(lambda: conditions.admit("RunInstances", resources=101))[0] == "RequestLimitExceeded"
    conditions.admit("RunInstances", resources=100)
    clock.now += 5
    conditions.admit("RunInstances", resources=10)


def test_a_listing_without_filter_may_be_asked_half_as_often(conditions: Conditions) -> None:
    conditions.throttle_as_aws()

    def listings(*, filtered: bool) -> int:
        for count in range(1000):
            try:
                conditions.admit("DescribeInstances", filtered=filtered)
            except Refusal:
                return count
        return 1000

    assert listings(filtered=True) == 100
    assert listings(filtered=False) == 50


def test_a_bucket_never_holds_more_than_its_burst(conditions: Conditions, clock: Clock) -> None:
    conditions.requests = {"RunInstances": Limit(burst=1, refill=1)}
    clock.now += 3600
    conditions.admit("RunInstances")
    assert refused(lambda: conditions.admit("RunInstances"))[0] == "RequestLimitExceeded"


def test_a_launch_and_an_end_are_seen_late(conditions: Conditions, clock: Clock) -> None:
    conditions.launch_lag, conditions.end_lag = lambda: 10.0, lambda: 5.0
    conditions.launched(["i-1"], OFFER)
    seen = []
    for seconds in (9.0, 1.0):
        clock.now += seconds
        seen.append(conditions.lists("i-1"))
    conditions.ended("i-1")
    for seconds in (4.0, 1.0):
        clock.now += seconds
        seen.append(conditions.lists_end("i-1"))
    assert seen == [False, True, False, True]


def test_a_granted_launch_fails_once_and_later(conditions: Conditions, clock: Clock) -> None:
    failure = Failure(after=7.0, code="Client.VolumeLimitExceeded")
    fates = iter([failure, None, failure])
    conditions.fate = lambda _: next(fates)
    conditions.launched(["i-1", "i-2", "i-3"], OFFER)
    conditions.ended("i-3")
    assert conditions.due() == {}
    clock.now += 7
    assert conditions.due() == {"i-1": failure}
    assert conditions.due() == {}
