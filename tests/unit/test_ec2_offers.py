from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.backends.ec2.offers import FIRST, LONGEST, Offer, Offers, family, key_of, next_hold
from celery_flame_ec2.backends.ec2.refusals import Meaning, Refusal

SPOT = Offer(market="spot", instance_type="c7i.large", zone="eu-west-1a", subnet_id="subnet-a")
REMEMBERED = (Meaning.CAPACITY, Meaning.SUBNET, Meaning.QUOTA)


def offer(
    market: str | None = "spot",
    instance_type: str | None = "c7i.large",
    zone: str | None = "eu-west-1a",
    subnet_id: str | None = "subnet-a",
) -> Offer:
    return Offer(market=market, instance_type=instance_type, zone=zone, subnet_id=subnet_id)


def no(meaning: Meaning, code: str = "No") -> Refusal:
    return Refusal(meaning=meaning, action="ec2:RunInstances", code=code, message="")


@pytest.mark.parametrize(
    ("meaning", "held", "free"),
    [
        (
            Meaning.CAPACITY,
            [offer(), offer(subnet_id="subnet-other-of-this-zone")],
            [
                offer(market="on-demand"),
                offer(market=None),
                offer(instance_type="c6i.large"),
                offer(zone="eu-west-1b"),
                offer(zone=None),
            ],
        ),
        (
            Meaning.SUBNET,
            [offer(), offer(market="on-demand"), offer(instance_type="p5.48xlarge")],
            [offer(subnet_id="subnet-b"), offer(subnet_id=None)],
        ),
        (
            Meaning.QUOTA,
            [offer(), offer(instance_type="t3.nano"), offer(zone="eu-west-1b", subnet_id="subnet-b")],
            [offer(market="on-demand"), offer(market=None), offer(instance_type="g5.xlarge")],
        ),
        (Meaning.THROTTLED, [], [offer()]),
        (Meaning.UNCLEAR, [], [offer()]),
        (Meaning.FATAL, [], [offer()]),
    ],
    ids=lambda value: value.name if isinstance(value, Meaning) else "",
)
def test_a_refusal_holds_for_what_it_is_about_and_for_nothing_else(
    meaning: Meaning, held: list[Offer], free: list[Offer]
) -> None:
    offers = Offers()
    offers.refused(offer(), no(meaning), 0)
    assert [one for one in held if not offers.held(one, 1)] == []
    assert [one for one in free if offers.held(one, 1)] == []


@pytest.mark.parametrize("meaning", REMEMBERED)
def test_a_refusal_holds_for_three_minutes_and_not_longer(meaning: Meaning) -> None:
    offers = Offers()
    offers.refused(SPOT, no(meaning), 1000)
    assert offers.held(SPOT, 1000 + 179.9)
    assert offers.held(SPOT, 1000 + 180) is None


def test_a_refusal_that_comes_again_when_it_ran_out_holds_twice_as_long_up_to_a_quarter_of_an_hour() -> None:
    offers, now, lengths = Offers(), 0.0, []
    for _ in range(5):
        held = offers.refused(SPOT, no(Meaning.CAPACITY), now)
        assert held
        lengths.append(held.hold.length)
        now = held.hold.until
    assert lengths == [180, 360, 720, 900, 900]


def test_a_refusal_that_comes_much_later_is_a_new_one() -> None:
    offers = Offers()
    offers.refused(SPOT, no(Meaning.CAPACITY), 0)
    held = offers.refused(SPOT, no(Meaning.CAPACITY), 361)
    assert held
    assert held.hold.length == FIRST


def test_ten_instances_lost_at_once_are_one_refusal() -> None:
    offers = Offers()
    told = [offers.refused(SPOT, no(Meaning.CAPACITY), at) for at in range(10)]
    assert [held is not None for held in told] == [True] + [False] * 9
    assert offers.held(SPOT, 180) is None


@pytest.mark.parametrize("meaning", REMEMBERED)
def test_what_is_granted_is_free_again_and_its_next_refusal_is_a_first(meaning: Meaning) -> None:
    offers = Offers()
    offers.refused(SPOT, no(meaning), 0)
    offers.granted(SPOT)
    assert offers.held(SPOT, 1) is None
    held = offers.refused(SPOT, no(meaning), 2)
    assert held
    assert held.hold.length == FIRST


def test_a_grant_elsewhere_changes_nothing_here() -> None:
    offers = Offers()
    offers.refused(SPOT, no(Meaning.CAPACITY), 0)
    offers.granted(offer(zone="eu-west-1b", subnet_id="subnet-b"))
    assert offers.held(SPOT, 1)


def test_all_are_held_until_the_first_is_free() -> None:
    offers, other = Offers(), offer(instance_type="c6i.large")
    offers.refused(SPOT, no(Meaning.CAPACITY), 0)
    offers.refused(other, no(Meaning.CAPACITY), 50)
    assert offers.free_at([SPOT, other], 60) == 180
    assert offers.free_at([other], 60) == 230
    assert offers.free_at([SPOT, other, offer(market=None)], 60) is None
    assert offers.free_at([], 60) is None


def test_of_two_refusals_the_longer_one_counts() -> None:
    offers = Offers()
    offers.refused(SPOT, no(Meaning.CAPACITY), 0)
    offers.refused(SPOT, no(Meaning.SUBNET, "InsufficientFreeAddressesInSubnet"), 100)
    held = offers.held(SPOT, 110)
    assert held
    assert (held.code, held.hold.until) == ("InsufficientFreeAddressesInSubnet", 280)


@pytest.mark.parametrize(
    ("instance_type", "name"),
    [
        *((kind, "Standard") for kind in ("a1.large", "c7i.large", "d3en.xlarge", "h1.2xlarge", "i4i.large")),
        *((kind, "Standard") for kind in ("im4gn.large", "is4gen.large", "m7g.large", "r7iz.large", "t3.nano")),
        ("z1d.large", "Standard"),
        ("f1.2xlarge", "F"),
        *((kind, "G and VT") for kind in ("g5.xlarge", "g4dn.xlarge", "gr6.4xlarge", "vt1.3xlarge")),
        ("p5.48xlarge", "P"),
        ("x2idn.16xlarge", "X"),
        ("inf2.xlarge", "INF"),
        ("trn1.2xlarge", "TRN"),
        ("dl1.24xlarge", "DL"),
        ("hpc7a.96xlarge", "HPC"),
        ("u-6tb1.metal", "High Memory"),
        ("u7i-12tb.224xlarge", "High Memory"),
        ("mac2.metal", "MAC"),
        ("q9.large", "Q"),
        ("9odd", "9ODD"),
        (None, None),
    ],
)
def test_a_type_belongs_to_the_family_that_shares_its_quota(instance_type: str | None, name: str | None) -> None:
    assert family(instance_type) == name


@pytest.mark.parametrize(
    ("meaning", "asked", "words"),
    [
        (Meaning.CAPACITY, offer(), "spot c7i.large in eu-west-1a"),
        (Meaning.CAPACITY, offer(None, None, None, None), "the template's type"),
        (Meaning.SUBNET, offer(), "an address in subnet-a"),
        (Meaning.SUBNET, offer(subnet_id=None), "an address in the subnet"),
        (Meaning.QUOTA, offer(), "spot vCPUs of Standard types"),
        (Meaning.QUOTA, offer(None, None), "vCPUs of such types"),
    ],
)
def test_what_is_held_has_words(meaning: Meaning, asked: Offer, words: str) -> None:
    assert str(key_of(asked, meaning)) == words


@given(gaps=st.lists(st.floats(0, 3000), min_size=1, max_size=30))
def test_a_hold_is_never_shorter_than_the_first_nor_longer_than_the_longest(gaps: list[float]) -> None:
    hold, now = None, 0.0
    for gap in gaps:
        now += gap
        following = next_hold(hold, now, first=FIRST, longest=LONGEST)
        assert now < following.until <= now + LONGEST
        assert FIRST <= following.length <= LONGEST
        if hold is not None and now < hold.until:
            assert following == hold
        else:
            assert following.until == now + following.length
        hold = following
