"""Which launches would EC2 refuse? Each is told with the template, the option and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from celery_flame_ec2.backends.ec2.conflicts import conflicts_of_place
from celery_flame_ec2.backends.ec2.recipe import Recipe, recipe
from celery_flame_ec2.backends.ec2.template import Template
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.errors import BackendError
from tests.unit.test_ec2_request import HERE

SUBNET = ("subnet-00000001",)
GROUP = ("sg-00000001",)
PRIMARY = {"DeviceIndex": 0}
SECOND = {"DeviceIndex": 1}
EXISTING = {"DeviceIndex": 0, "NetworkInterfaceId": "eni-00000001"}
SPOT = {"InstanceMarketOptions": {"MarketType": "spot"}}
TARGET = {"CapacityReservationTarget": {"CapacityReservationId": "cr-00000001"}}
BLOCK = {"InstanceMarketOptions": {"MarketType": "capacity-block"}, "CapacityReservationSpecification": TARGET}


def template(**data: Any) -> Template:
    return Template(id="lt-00000001", version="7", data={"ImageId": "ami-00000002", **data})


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a public address beside groups": (
        {"associate_public_ip": True}, {"SecurityGroupIds": ["sg-1"]},
        "security groups outside a network interface", "'associate_public_ip'",
    ),
    "interfaces beside groups": (
        {}, {"SecurityGroupIds": ["sg-1"], "NetworkInterfaces": [PRIMARY]},
        "security groups outside a network interface", "move them into a network interface",
    ),
    "a public address with several interfaces": (
        {"associate_public_ip": False}, {"NetworkInterfaces": [PRIMARY, SECOND]},
        "several network interfaces", "'associate_public_ip'",
    ),
    "a public address with a second interface alone": (
        {"associate_public_ip": True}, {"NetworkInterfaces": [SECOND]}, "several network interfaces", "leave",
    ),
    "a subnet for an interface that exists": (
        {"subnet_id": SUBNET}, {"NetworkInterfaces": [EXISTING]}, "existing network interface", "'subnet_id'",
    ),
    "groups for an interface that exists": (
        {"security_group_id": GROUP}, {"NetworkInterfaces": [EXISTING]},
        "existing network interface", "'security_group_id'",
    ),
    "a subnet beside groups by name": (
        {"subnet_id": SUBNET}, {"SecurityGroups": ["web"]}, "security groups by name", "'subnet_id'",
    ),
    "groups by id beside groups by name": (
        {"security_group_id": GROUP}, {"SecurityGroups": ["web"]}, "security groups by name", "SecurityGroupIds",
    ),
    "types beside what types must have": (
        {"instance_type": ("c7i.large",)}, {"InstanceRequirements": {"VCpuCount": {"Min": 2}}},
        "InstanceRequirements", "'instance_type'",
    ),
    "what types must have, alone": (
        {}, {"InstanceRequirements": {"VCpuCount": {"Min": 2}}}, "InstanceRequirements", "'instance_type'",
    ),
    "unlimited credits for types that have none": (
        {"instance_type": ("t3.large", "c7i.large")}, {"CreditSpecification": {"CpuCredits": "unlimited"}},
        "unlimited CPU credits, which EC2 refuses for c7i.large;", "'instance_type'",
    ),
    "spot in a capacity reservation": (
        {"market": ("spot", "on-demand")}, {"CapacityReservationSpecification": TARGET},
        "a capacity reservation", "'market'",
    ),
    "spot in capacity reservations only": (
        {"market": ("spot",)},
        {"CapacityReservationSpecification": {"CapacityReservationPreference": "capacity-reservations-only"}},
        "a capacity reservation", "'market'",
    ),
    "spot in a capacity block": ({"market": ("spot",)}, BLOCK, "a capacity reservation", "'market'"),
    "spot on a dedicated host": (
        {"market": ("spot",)}, {"Placement": {"Tenancy": "host"}}, "a dedicated host", "'market'",
    ),
    "a template's own spot with hibernation": (
        {}, {**SPOT, "HibernationOptions": {"Configured": True}}, "hibernation", "'market'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_ec2_would_refuse_is_refused_before_with_the_remedy(case: str) -> None:
    options, data, problem, remedy = REFUSED[case]
    with pytest.raises(BackendError, match="launch template lt-00000001 version 7 ") as failure:
        recipe(Ec2Options(**options), template(**data), None)
    assert problem in str(failure.value)
    assert remedy in str(failure.value)
    assert "; " in str(failure.value)


ACCEPTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a public address with one interface": ({"associate_public_ip": True}, {"NetworkInterfaces": [PRIMARY]}),
    "a subnet for an interface": ({"subnet_id": SUBNET}, {"NetworkInterfaces": [PRIMARY, SECOND]}),
    "a subnet beside groups by id": ({"subnet_id": SUBNET}, {"SecurityGroupIds": ["sg-1"]}),
    "other groups by id": ({"security_group_id": GROUP}, {"SecurityGroupIds": ["sg-1"]}),
    "an interface that exists, alone": ({}, {"NetworkInterfaces": [EXISTING]}),
    "unlimited credits for types that have them": (
        {"instance_type": ("t3.large", "t4g.nano")}, {"CreditSpecification": {"CpuCredits": "unlimited"}},
    ),
    "on-demand in a capacity reservation": ({}, {"CapacityReservationSpecification": TARGET}),
    "a capacity block": ({}, BLOCK),
    "spot where reservations may be used": (
        {"market": ("spot",)}, {"CapacityReservationSpecification": {"CapacityReservationPreference": "open"}},
    ),
    "spot on hardware of one's own": ({"market": ("spot",)}, {"Placement": {"Tenancy": "dedicated"}}),
    "on-demand in the place of a template's spot": (
        {"market": ("on-demand", "on-demand")}, {**SPOT, "HibernationOptions": {"Configured": True}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_ec2_takes_is_taken(case: str) -> None:
    options, data = ACCEPTED[case]
    assert recipe(Ec2Options(**options), template(**data), None).template


def test_every_problem_is_told_at_once() -> None:
    options = Ec2Options(associate_public_ip=True, subnet_id=SUBNET)
    with pytest.raises(BackendError, match=r"existing network interface.*security groups by name"):
        recipe(options, template(NetworkInterfaces=[EXISTING], SecurityGroups=["web"]), None)


@pytest.mark.parametrize("data", [{"SecurityGroups": ["web"]}, {"NetworkInterfaces": [EXISTING]}])
def test_metadata_fills_in_nothing_that_ec2_would_refuse_beside_the_template(data: dict[str, Any]) -> None:
    made = recipe(Ec2Options(), template(**data), HERE)
    assert (made.subnet_ids, made.security_group_ids) == ((None,), ())


def made(data: dict[str, Any]) -> Recipe:
    zones = {"subnet-a": "eu-west-1a", "subnet-b": "eu-west-1b"}
    subnets = ("subnet-a", "subnet-b", "subnet-unknown")
    return Recipe(image="ami-00000002", template=template(**data), subnet_ids=subnets, zones=zones)


def test_a_subnet_outside_the_zone_of_the_template_is_named() -> None:
    (problem,) = conflicts_of_place(made({"Placement": {"AvailabilityZone": "eu-west-1a"}}), runners=9)
    assert problem == (
        "launch template lt-00000001 version 7 is for zone eu-west-1a, where subnet-b is not; take that out of option "
        "'subnet_id', or use a version without Placement.AvailabilityZone"
    )
    assert list(conflicts_of_place(made({"Placement": {"GroupName": "near"}}), runners=9)) == []


@pytest.mark.parametrize("fixed", ["NetworkInterfaceId", "PrivateIpAddress"])
def test_an_interface_that_one_instance_alone_can_have_is_for_a_pool_of_one(fixed: str) -> None:
    one = made({"NetworkInterfaces": [{"DeviceIndex": 0, fixed: "x"}]})
    (problem,) = conflicts_of_place(one, runners=2)
    assert f"fixes {fixed}" in problem
    assert "'max' to 1" in problem
    assert list(conflicts_of_place(one, runners=1)) == []


def test_without_a_template_nothing_contradicts_it() -> None:
    assert list(conflicts_of_place(Recipe(image="ami-00000001"), runners=9)) == []
