from __future__ import annotations

import base64
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from celery_flame_ec2.backends.ec2.recipe import Recipe, RootDisk, Rung, Template, recipe, rungs
from celery_flame_ec2.backends.ec2.request import run_instances_request
from celery_flame_ec2.config import Ec2Options, RootVolume
from celery_flame_ec2.errors import BackendError
from celery_flame_ec2.imds import Identity

USER_DATA = b"\x1f\x8b not text"
USER = Ec2Options(
    image_id="ami-00000001", subnet_id=("subnet-00000001",), security_group_id=("sg-00000001", "sg-00000002")
)
HERE = Identity(
    instance_id="i-00000009",
    image_id="ami-00000009",
    instance_type="m7i.large",
    region="eu-west-1",
    zone="eu-west-1a",
    subnet_id="subnet-00000009",
    security_group_ids=("sg-00000009", "sg-00000010"),
    instance_profile_arn="arn:aws:iam::123456789012:instance-profile/here",
)
ON_DEMAND = Rung(market="on-demand", instance_type="t3.nano", subnet_id="subnet-00000001")


def template(**data: Any) -> Template:
    return Template(id="lt-00000001", version="7", data=data)


def request_of(made: Recipe, rung: Rung | None = None, **changes: Any) -> dict[str, Any]:
    """Build a request, and let AWS's own model check its names and shapes."""
    plain: dict[str, Any] = {"count": 1, "token": "t0", "tags": {"flame:owner": "shop"}, "user_data": USER_DATA}
    request = run_instances_request(made, rung or next(rungs(made)), **(plain | changes))
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    sent = request | {"UserData": base64.b64encode(request["UserData"]).decode()}
    report = ParamValidator().validate(sent, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    return request


def test_a_plain_request_is_exactly_this() -> None:
    tags = [{"Key": "flame:owner", "Value": "shop"}]
    assert request_of(recipe(USER, None, None), count=5) == {
        "ClientToken": "t0",
        "MinCount": 1,
        "MaxCount": 5,
        "UserData": USER_DATA,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
            "InstanceMetadataTags": "enabled",
        },
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
        ],
        "ImageId": "ami-00000001",
        "InstanceType": "t3.nano",
        "SubnetId": "subnet-00000001",
        "SecurityGroupIds": ["sg-00000001", "sg-00000002"],
    }


def test_the_same_values_give_the_same_request() -> None:
    made = recipe(USER, None, None)
    first = request_of(made, ON_DEMAND, tags={"b": "2", "a": "1"})
    assert first == request_of(made, ON_DEMAND, tags={"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("profile", "sent"),
    [
        ("arn:aws:iam::123456789012:instance-profile/web", {"Arn": "arn:aws:iam::123456789012:instance-profile/web"}),
        ("web", {"Name": "web"}),
    ],
)
def test_a_profile_is_sent_by_arn_or_by_name(profile: str, sent: dict[str, str]) -> None:
    options = Ec2Options(image_id="ami-00000001", iam_instance_profile=profile)
    assert request_of(recipe(options, None, None))["IamInstanceProfile"] == sent


def test_a_key_pair_is_sent_by_name() -> None:
    assert request_of(recipe(Ec2Options(image_id="ami-00000001", key_name="me"), None, None))["KeyName"] == "me"


@pytest.mark.parametrize("public", [True, False])
def test_a_public_address_is_asked_for_in_a_network_interface_that_says_all_of_the_network(public: bool) -> None:
    options = Ec2Options(
        image_id="ami-00000001",
        subnet_id=("subnet-00000001",),
        security_group_id=("sg-00000001",),
        associate_public_ip=public,
    )
    request = request_of(recipe(options, None, None))
    assert request["NetworkInterfaces"] == [
        {
            "DeviceIndex": 0,
            "SubnetId": "subnet-00000001",
            "Groups": ["sg-00000001"],
            "AssociatePublicIpAddress": public,
        }
    ]
    assert not {"SubnetId", "SecurityGroupIds"} & request.keys()


def test_spot_is_asked_for_once_ends_by_terminating_and_has_its_request_tagged() -> None:
    request = request_of(recipe(USER, None, None), Rung(market="spot", instance_type="t3.nano", subnet_id=None))
    assert request["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
    assert "spot-instances-request" in [tagged["ResourceType"] for tagged in request["TagSpecifications"]]


def test_falling_back_to_on_demand_says_nothing_of_a_market() -> None:
    options = Ec2Options(image_id="ami-00000001", market=("spot", "on-demand"))
    made = recipe(options, None, None)
    markets = [request_of(made, rung).get("InstanceMarketOptions", {}).get("MarketType") for rung in rungs(made)]
    assert markets == ["spot", None]


def test_the_rungs_are_market_by_type_by_subnet_in_the_users_order() -> None:
    options = Ec2Options(
        image_id="ami-00000001",
        market=("spot", "on-demand"),
        instance_type=("c7i.large", "c6i.large"),
        subnet_id=("subnet-00000002", "subnet-00000001"),
    )
    assert [str(rung) for rung in rungs(recipe(options, None, None))] == [
        "spot c7i.large subnet-00000002",
        "spot c7i.large subnet-00000001",
        "spot c6i.large subnet-00000002",
        "spot c6i.large subnet-00000001",
        "on-demand c7i.large subnet-00000002",
        "on-demand c7i.large subnet-00000001",
        "on-demand c6i.large subnet-00000002",
        "on-demand c6i.large subnet-00000001",
    ]


def root(made: Recipe) -> Any:
    return request_of(made).get("BlockDeviceMappings")


def test_the_root_disk_is_encrypted_unless_the_user_says_otherwise() -> None:
    made = Recipe(image="ami-00000001", root_disk=RootDisk(name="/dev/xvda", size=8))
    assert root(made) == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "Encrypted": True, "DeleteOnTermination": True}}
    ]
    plain = Recipe(
        image="ami-00000001", root_disk=RootDisk(name="/dev/xvda", size=8), root_volume=RootVolume(encrypted=False)
    )
    assert root(plain) == [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8, "DeleteOnTermination": True}}]


def test_every_option_of_the_root_disk_is_sent() -> None:
    volume = RootVolume(size=40, type="gp3", iops=4000, throughput=250)
    assert root(Recipe(image="ami-00000001", root_disk=RootDisk(name="/dev/sda1", size=8), root_volume=volume)) == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {
                "VolumeSize": 40,
                "VolumeType": "gp3",
                "Iops": 4000,
                "Throughput": 250,
                "Encrypted": True,
                "DeleteOnTermination": True,
            },
        }
    ]


def test_an_image_whose_root_is_no_volume_gets_none() -> None:
    assert root(Recipe(image="ami-00000001", root_disk=None)) is None


DISKS = [
    {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "KmsKeyId": "k"}},
    {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 100}},
]


def test_a_templates_disks_are_left_alone_where_the_user_says_nothing_of_them() -> None:
    assert not recipe(Ec2Options(), template(ImageId="ami-00000002", BlockDeviceMappings=DISKS), None).shapes_root
    assert recipe(Ec2Options(), template(ImageId="ami-00000002"), None).shapes_root


def test_a_root_volume_of_the_users_changes_the_templates_root_and_keeps_its_other_disks() -> None:
    of_template = template(ImageId="ami-00000002", BlockDeviceMappings=DISKS)
    volume = RootVolume(size=40)
    made = Recipe(
        image="ami-00000002", template=of_template, root_disk=RootDisk(name="/dev/xvda", size=8), root_volume=volume
    )
    assert made.shapes_root
    merged = {"VolumeSize": 40, "KmsKeyId": "k", "Encrypted": True, "DeleteOnTermination": True}
    assert root(made) == [{"DeviceName": "/dev/xvda", "Ebs": merged}, DISKS[1]]


FULL = {
    "ImageId": "ami-00000002",
    "InstanceType": "r7i.large",
    "IamInstanceProfile": {"Name": "theirs"},
    "KeyName": "theirs",
    "SecurityGroupIds": ["sg-00000003"],
    "UserData": "dGhlaXJz",
}
#: What must be ours whatever a template says.
ALWAYS = {
    "ClientToken",
    "InstanceInitiatedShutdownBehavior",
    "LaunchTemplate",
    "MaxCount",
    "MetadataOptions",
    "MinCount",
    "TagSpecifications",
    "UserData",
}


@pytest.mark.parametrize("identity", [None, HERE], ids=["alone", "auto_configure"])
def test_nothing_is_sent_of_what_a_template_with_an_interface_says(identity: Identity | None) -> None:
    interface = {"DeviceIndex": 0, "SubnetId": "subnet-00000003", "Groups": ["sg-00000003"]}
    of_template = template(**{**FULL, "SecurityGroupIds": [], "NetworkInterfaces": [interface]})
    assert request_of(recipe(Ec2Options(), of_template, identity)).keys() == ALWAYS


def test_metadata_fills_only_the_subnet_where_the_template_says_all_but_that() -> None:
    request = request_of(recipe(Ec2Options(), template(**FULL), HERE))
    assert request.keys() == ALWAYS | {"SubnetId"}
    assert request["SubnetId"] == "subnet-00000009"


def test_the_template_is_named_with_the_version_that_was_read() -> None:
    request = request_of(recipe(Ec2Options(), template(**FULL), None))
    assert request["LaunchTemplate"] == {"LaunchTemplateId": "lt-00000001", "Version": "7"}


def test_the_users_own_words_go_before_the_templates() -> None:
    options = Ec2Options(
        instance_type=("c7i.large",),
        subnet_id=("subnet-00000001",),
        security_group_id=("sg-00000001",),
        iam_instance_profile="mine",
        key_name="mine",
    )
    request = request_of(recipe(options, template(**FULL), HERE))
    assert request["InstanceType"] == "c7i.large"
    assert (request["SubnetId"], request["SecurityGroupIds"]) == ("subnet-00000001", ["sg-00000001"])
    assert (request["IamInstanceProfile"], request["KeyName"]) == ({"Name": "mine"}, "mine")
    assert "ImageId" not in request


def test_a_subnet_of_the_users_goes_into_the_templates_network_interface() -> None:
    second = {"DeviceIndex": 1, "SubnetId": "subnet-00000004"}
    first = {"DeviceIndex": 0, "Groups": ["sg-00000003"], "AssociatePublicIpAddress": True}
    of_template = template(ImageId="ami-00000002", NetworkInterfaces=[second, first])
    request = request_of(recipe(Ec2Options(subnet_id=("subnet-00000001",)), of_template, None))
    assert request["NetworkInterfaces"] == [{**first, "SubnetId": "subnet-00000001"}, second]
    assert not {"SubnetId", "SecurityGroupIds"} & request.keys()


def test_a_public_address_beside_a_templates_own_groups_is_refused_before_ec2_does() -> None:
    with pytest.raises(BackendError, match="lt-00000001 has security groups outside a network interface"):
        recipe(Ec2Options(associate_public_ip=True), template(**FULL), None)


SPOT = {"ImageId": "ami-00000002", "InstanceMarketOptions": {"MarketType": "spot"}}


def test_a_templates_market_holds_where_the_user_names_none() -> None:
    assert "InstanceMarketOptions" not in request_of(recipe(Ec2Options(), template(**SPOT), None))


def test_falling_back_from_a_templates_spot_really_is_on_demand() -> None:
    made = recipe(Ec2Options(market=("spot", "on-demand")), template(**SPOT), None)
    markets = [request_of(made, rung)["InstanceMarketOptions"]["MarketType"] for rung in rungs(made)]
    assert markets == ["spot", "on-demand"]


def test_metadata_fills_everything_a_user_left_out() -> None:
    request = request_of(recipe(Ec2Options(), None, HERE))
    assert request["ImageId"] == HERE.image_id
    assert request["InstanceType"] == HERE.instance_type
    assert request["SubnetId"] == HERE.subnet_id
    assert request["SecurityGroupIds"] == ["sg-00000009", "sg-00000010"]
    assert request["IamInstanceProfile"] == {"Arn": HERE.instance_profile_arn}


def test_metadata_fills_nothing_a_user_gave() -> None:
    options = Ec2Options(
        image_id="ami-00000001",
        subnet_id=("subnet-00000001",),
        security_group_id=("sg-00000001",),
        instance_type=("c7i.large",),
        iam_instance_profile="mine",
    )
    assert recipe(options, None, HERE) == recipe(options, None, None)


@pytest.mark.parametrize(
    ("options", "of_template", "identity", "types"),
    [
        (USER, None, None, ("t3.nano",)),
        (USER, None, HERE, ("m7i.large",)),
        (Ec2Options(), template(ImageId="ami-00000002"), None, ("t3.nano",)),
        (Ec2Options(), template(**FULL), None, ("r7i.large",)),
        (Ec2Options(), template(**FULL), HERE, ("r7i.large",)),
        (Ec2Options(instance_type=("a1.large", "b1.large")), template(**FULL), HERE, ("a1.large", "b1.large")),
    ],
)
def test_the_type_is_the_users_or_the_templates_or_this_instances_or_the_smallest(
    options: Ec2Options, of_template: Template | None, identity: Identity | None, types: tuple[str, ...]
) -> None:
    assert recipe(options, of_template, identity).known_types == types


def test_a_template_without_an_image_is_named() -> None:
    with pytest.raises(BackendError, match="launch template lt-00000001 version 7 names no image"):
        recipe(Ec2Options(), template(), None)
