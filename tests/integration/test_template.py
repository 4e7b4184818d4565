"""Launch templates as users have them, before a cloud that adds up call and template as EC2 does."""

from __future__ import annotations

import base64
import email
import gzip
import uuid
from typing import Any

import pytest

from celery_flame_ec2.errors import LaunchError
from tests.box.cloud import Cloud
from tests.integration.test_ec2 import LETTER, NOTHING, backend, cloud, instances, one_cloud, template

__all__ = ("cloud", "one_cloud")  # fixtures

THEIRS = b"#!/bin/sh\necho prepared >/etc/prepared\n"
TAGS = [{"Key": "Name", "Value": "web"}, {"Key": "team", "Value": "video"}]


def theirs(cloud: Cloud, **data: Any) -> str:
    """Make a template with much in it; return its id."""
    known = {
        "ImageId": cloud.image_id,
        "InstanceType": "t3.large",
        "SecurityGroupIds": [cloud.security_group_ids[1]],
        "InstanceInitiatedShutdownBehavior": "stop",
        "DisableApiTermination": True,
        "MetadataOptions": {"HttpTokens": "optional", "HttpPutResponseHopLimit": 2},
        "TagSpecifications": [{"ResourceType": "instance", "Tags": TAGS}],
        "UserData": base64.b64encode(gzip.compress(THEIRS)).decode(),
    }
    return template(cloud, **{**known, **data})


def launched(cloud: Cloud, **options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Launch one runner; return its instance, and what was asked for on the wire."""
    backend(cloud, **{**NOTHING, **options}).launch(LETTER, 1)
    (instance,) = instances(cloud)
    return instance, dict(cloud.called("RunInstances")[-1].params)


def attribute(cloud: Cloud, instance: dict[str, Any], name: str) -> Any:
    ec2 = cloud.client("ec2")
    answer = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute=name)
    return answer[name[:1].upper() + name[1:]]["Value"]


def test_a_template_is_used_whole_and_what_must_be_ours_is_ours(cloud: Cloud) -> None:
    instance, sent = launched(cloud, launch_template_id=theirs(cloud))
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert (tags["Name"], tags["team"], tags["flame:pool"]) == ("web", "video", "video")
    assert instance["InstanceType"] == "t3.large"
    assert [group["GroupId"] for group in instance["SecurityGroups"]] == [cloud.security_group_ids[1]]
    assert attribute(cloud, instance, "instanceInitiatedShutdownBehavior") == "terminate"
    assert attribute(cloud, instance, "disableApiTermination") is False
    assert sent["MetadataOptions.HttpTokens"] == "required"
    assert sent["MetadataOptions.HttpPutResponseHopLimit"] == "2"


def test_a_templates_user_data_goes_along_and_ours_arms_the_power_off_before_it(cloud: Cloud) -> None:
    instance, _ = launched(cloud, launch_template_id=theirs(cloud))
    data = gzip.decompress(base64.b64decode(attribute(cloud, instance, "userData")))
    parts = list(email.message_from_bytes(data).walk())[1:]
    assert [part.get_filename() for part in parts] == ["boothook.sh", "bootstrap.py", "launch-template"]
    assert parts[-1].get_payload(decode=True) == THEIRS


def test_the_parent_can_end_what_a_template_would_protect(cloud: Cloud) -> None:
    one = backend(cloud, launch_template_id=theirs(cloud), **NOTHING)
    (runner,) = one.launch(LETTER, 1)
    one.terminate([runner.id])
    assert instances(cloud) == []


@pytest.mark.parametrize("version", ["$Latest", "$Default"])
def test_a_launch_sent_twice_means_the_version_of_the_first_time(cloud: Cloud, version: str) -> None:
    named = theirs(cloud)
    cloud.lose_answer("RunInstances")
    launched(cloud, launch_template_id=named, launch_template_version=version)
    first, second = cloud.called("RunInstances")
    assert first.params == second.params
    assert first.params["LaunchTemplate.Version"] == "1"


def test_a_later_version_is_not_used_before_it_was_read(cloud: Cloud) -> None:
    named = theirs(cloud)
    one = backend(cloud, launch_template_id=named, launch_template_version="$Latest", **NOTHING)
    one.launch(LETTER, 1)
    later = {"ImageId": cloud.image_id, "InstanceType": "t3.nano"}
    cloud.client("ec2").create_launch_template_version(LaunchTemplateId=named, LaunchTemplateData=later)
    (runner,) = one.launch(LETTER, 1)
    assert runner.instance_type == "t3.large"


def test_an_image_that_a_template_names_by_a_parameter_is_launched_by_its_id(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**cloud.environment(), "AWS_ENDPOINT_URL": cloud.endpoint}.items():
        monkeypatch.setenv(name, value)
    parameter = f"/images/{uuid.uuid4().hex}"
    cloud.client("ssm").put_parameter(Name=parameter, Value=cloud.image_id, Type="String")
    _, sent = launched(cloud, launch_template_id=theirs(cloud, ImageId=f"resolve:ssm:{parameter}"))
    assert sent["ImageId"] == cloud.image_id
    assert sent["BlockDeviceMapping.1.Ebs.Encrypted"] == "true"


def test_a_persistent_spot_request_of_a_template_is_never_sent(cloud: Cloud) -> None:
    lasting = {"SpotInstanceType": "persistent", "InstanceInterruptionBehavior": "stop", "MaxPrice": "0.05"}
    market = {"MarketType": "spot", "SpotOptions": lasting}
    instance, sent = launched(cloud, launch_template_id=theirs(cloud, InstanceMarketOptions=market))
    assert instance["InstanceLifecycle"] == "spot"
    options = {name.rpartition(".")[2]: value for name, value in sent.items() if ".SpotOptions." in name}
    assert options == {
        "SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", "MaxPrice": "0.05",
    }  # fmt: skip
    kinds = {value for name, value in sent.items() if name.endswith(".ResourceType")}
    assert kinds == {"instance", "volume", "network-interface", "spot-instances-request"}


def test_a_root_disk_is_encrypted_beside_a_templates_data_disk(cloud: Cloud) -> None:
    disk = {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 3}}
    _, sent = launched(cloud, launch_template_id=theirs(cloud, BlockDeviceMappings=[disk]))
    disks = {
        sent[f"BlockDeviceMapping.{n}.DeviceName"]: sent.get(f"BlockDeviceMapping.{n}.Ebs.Encrypted") for n in "12"
    }
    assert disks == {"/dev/xvda": "true", "/dev/sdb": None}


def test_user_data_for_windows_launches_nothing_and_names_the_template(cloud: Cloud) -> None:
    named = theirs(cloud, UserData=base64.b64encode(b"<powershell></powershell>").decode())
    with pytest.raises(LaunchError, match=f"launch template {named} version 1 has user data .* script for Windows"):
        backend(cloud, launch_template_id=named, **NOTHING).launch(LETTER, 1)
    assert cloud.called("RunInstances") == []


def test_a_subnet_outside_a_templates_zone_launches_nothing(cloud: Cloud) -> None:
    (zone,) = {
        subnet["AvailabilityZone"]
        for subnet in cloud.client("ec2").describe_subnets(SubnetIds=[cloud.subnet_ids[0]])["Subnets"]
    }
    named = theirs(cloud, Placement={"AvailabilityZone": zone})
    options = {**NOTHING, "subnet_id": cloud.subnet_ids}
    with pytest.raises(LaunchError, match=f"is for zone {zone}, where {cloud.subnet_ids[1]} is not"):
        backend(cloud, launch_template_id=named, **options).launch(LETTER, 1)
    assert cloud.called("RunInstances") == []
