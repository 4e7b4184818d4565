from __future__ import annotations

import base64
from datetime import datetime, timezone
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from celery_flame_ec2 import userdata
from celery_flame_ec2.backends.ec2.recipe import Recipe, RootDisk, Rung, recipe, rungs
from celery_flame_ec2.backends.ec2.request import run_instances_request
from celery_flame_ec2.backends.ec2.template import Template
from celery_flame_ec2.config import Ec2Options, RootVolume
from celery_flame_ec2.errors import BackendError
from celery_flame_ec2.imds import Identity

TAGS = {"flame:owner": "shop", "flame:pool": "video"}
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
    plain: dict[str, Any] = {"count": 1, "token": "t0", "tags": TAGS, "user_data": USER_DATA}
    request = run_instances_request(made, rung or next(rungs(made)), **(plain | changes))
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    sent = request | {"UserData": base64.b64encode(request["UserData"]).decode()}
    report = ParamValidator().validate(sent, model.input_shape)
    assert not report.has_errors(), report.generate_report()
    return request


def test_a_plain_request_is_exactly_this() -> None:
    named = {"Name": "flame video", **TAGS}
    tags = [{"Key": key, "Value": value} for key, value in sorted(named.items())]
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
    first = request_of(made, ON_DEMAND, tags={**TAGS, "b": "2", "a": "1"})
    assert first == request_of(made, ON_DEMAND, tags={"a": "1", "b": "2", **TAGS})


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


def with_disks(disks: list[dict[str, Any]], volume: RootVolume | None = None) -> Any:
    return root(
        Recipe(
            image="ami-00000002",
            template=template(ImageId="ami-00000002", BlockDeviceMappings=disks),
            root_disk=RootDisk(name="/dev/xvda", size=8),
            root_volume=volume,
        )
    )


def test_a_root_disk_of_the_templates_is_left_alone_where_the_user_says_nothing_of_it() -> None:
    assert with_disks(DISKS) is None


def test_the_root_disk_beside_other_disks_of_a_template_is_encrypted() -> None:
    ours = {"VolumeSize": 8, "Encrypted": True, "DeleteOnTermination": True}
    assert with_disks(DISKS[1:]) == [{"DeviceName": "/dev/xvda", "Ebs": ours}, DISKS[1]]


def test_a_root_volume_of_the_users_changes_the_templates_root_and_keeps_its_other_disks() -> None:
    merged = {"VolumeSize": 40, "KmsKeyId": "k", "Encrypted": True, "DeleteOnTermination": True}
    assert with_disks(DISKS, RootVolume(size=40)) == [{"DeviceName": "/dev/xvda", "Ebs": merged}, DISKS[1]]


@pytest.mark.parametrize(("kind", "kept"), [("gp3", True), (None, True), ("gp2", False)])
def test_what_only_the_templates_volume_type_can_do_goes_where_the_user_names_another(
    kind: str | None, kept: bool
) -> None:
    fast = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeType": "gp3", "Iops": 4000, "Throughput": 500}}
    (disk,) = with_disks([fast], RootVolume(type=kind))
    assert ({"Iops", "Throughput"} <= disk["Ebs"].keys()) is kept
    assert disk["Ebs"]["VolumeType"] == kind or kind is None


FULL = {
    "ImageId": "ami-00000002",
    "InstanceType": "r7i.large",
    "IamInstanceProfile": {"Name": "theirs"},
    "KeyName": "theirs",
    "SecurityGroupIds": ["sg-00000003"],
    "UserData": "IyEvYmluL3NoCg==",
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


SPOT = {"ImageId": "ami-00000002", "InstanceMarketOptions": {"MarketType": "spot"}}
LASTING = {
    "SpotInstanceType": "persistent",
    "InstanceInterruptionBehavior": "stop",
    "ValidUntil": datetime(2030, 1, 1, tzinfo=timezone.utc),
    "MaxPrice": "0.05",
}


@pytest.mark.parametrize("market", [(), ("spot",)], ids=["the template's", "the user's"])
def test_spot_of_a_template_is_asked_for_once_at_its_price_and_its_request_is_tagged(market: tuple[str, ...]) -> None:
    of_template = template(**{**SPOT, "InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": LASTING}})
    options = Ec2Options(market=market) if market else Ec2Options()
    request = request_of(recipe(options, of_template, None))
    assert request["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {
            "MaxPrice": "0.05",
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
        },
    }
    assert "spot-instances-request" in [tagged["ResourceType"] for tagged in request["TagSpecifications"]]


def test_a_market_of_a_template_that_is_not_spot_is_left_to_it() -> None:
    block = {"ImageId": "ami-00000002", "InstanceMarketOptions": {"MarketType": "capacity-block"}}
    assert "InstanceMarketOptions" not in request_of(recipe(Ec2Options(), template(**block), None))


def test_the_templates_tags_stay_and_ours_go_before_them() -> None:
    theirs = [{"Key": "Name", "Value": "web"}, {"Key": "flame:owner", "Value": "somebody"}]
    of_template = template(
        ImageId="ami-00000002",
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": theirs},
            {"ResourceType": "spot-instances-request", "Tags": theirs},
        ],
    )
    sent = request_of(recipe(Ec2Options(), of_template, None))["TagSpecifications"]
    assert {each["ResourceType"]: {tag["Key"]: tag["Value"] for tag in each["Tags"]} for each in sent} == {
        "instance": {"Name": "web", **TAGS},
        "volume": {"Name": "flame video", **TAGS},
        "network-interface": {"Name": "flame video", **TAGS},
    }


def test_a_name_among_the_users_tags_goes_before_any_other() -> None:
    theirs = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web"}]}]
    made = recipe(Ec2Options(), template(ImageId="ami-00000002", TagSpecifications=theirs), None)
    for each in request_of(made, tags={**TAGS, "Name": "mine"})["TagSpecifications"]:
        assert {"Key": "Name", "Value": "mine"} in each["Tags"]


def test_metadata_shows_no_tags_where_a_templates_tag_has_a_name_that_it_cannot_show() -> None:
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "kubernetes.io/cluster", "Value": "x"}]}]
    made = recipe(Ec2Options(), template(ImageId="ami-00000002", TagSpecifications=tagged), None)
    assert request_of(made)["MetadataOptions"]["InstanceMetadataTags"] == "disabled"


def test_metadata_is_as_the_template_says_but_for_version_2() -> None:
    theirs = {
        "State": "pending",
        "HttpEndpoint": "disabled",
        "HttpTokens": "optional",
        "HttpPutResponseHopLimit": 3,
        "HttpProtocolIpv6": "enabled",
        "InstanceMetadataTags": "disabled",
    }
    made = recipe(Ec2Options(), template(ImageId="ami-00000002", MetadataOptions=theirs), None)
    assert request_of(made)["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 3,
        "HttpProtocolIpv6": "enabled",
        "InstanceMetadataTags": "disabled",
    }


def test_protection_that_would_keep_a_parent_from_ending_an_instance_is_taken_back() -> None:
    guarded = {"ImageId": "ami-00000002", "DisableApiTermination": True, "DisableApiStop": True}
    request = request_of(recipe(Ec2Options(), template(**guarded, InstanceInitiatedShutdownBehavior="stop"), None))
    assert (request["DisableApiTermination"], request["DisableApiStop"]) == (False, False)
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert "DisableApiTermination" not in request_of(recipe(USER, None, None))


def test_a_template_without_a_primary_interface_gets_one() -> None:
    second = {"DeviceIndex": 1, "SubnetId": "subnet-00000004"}
    of_template = template(ImageId="ami-00000002", NetworkInterfaces=[second])
    assert request_of(recipe(Ec2Options(), of_template, None))["NetworkInterfaces"] == [{"DeviceIndex": 0}, second]
    options = Ec2Options(subnet_id=("subnet-00000001",))
    assert request_of(recipe(options, of_template, None))["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "SubnetId": "subnet-00000001"},
        second,
    ]


def test_an_interface_as_ec2_describes_it_can_be_said_again_with_every_word() -> None:
    model = botocore.session.get_session().get_service_model("ec2")
    described = model.shape_for("LaunchTemplateInstanceNetworkInterfaceSpecification").members
    assert described.keys() <= model.shape_for("InstanceNetworkInterfaceSpecification").members.keys()


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


def test_user_data_of_a_template_comes_along_as_a_part_of_its_own() -> None:
    made = recipe(Ec2Options(), template(**FULL), None)
    assert made.user_data == userdata.part(b"#!/bin/sh\n")
    assert recipe(USER, None, None).user_data == ""


@pytest.mark.parametrize("text", ["not base64", base64.b64encode(b"<powershell>secret</powershell>").decode()])
def test_user_data_that_cannot_go_to_cloud_init_is_refused_with_the_template_named_and_a_remedy(text: str) -> None:
    with pytest.raises(BackendError, match="lt-00000001 version 7 has user data that cannot") as failure:
        recipe(Ec2Options(), template(ImageId="ami-00000002", UserData=text), None)
    assert "'launch_template_version'" in str(failure.value)
    assert "secret" not in str(failure.value)
