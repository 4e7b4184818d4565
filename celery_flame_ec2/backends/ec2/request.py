"""What is asked of EC2 for one launch? Pure: a recipe and a rung in, the parameters of RunInstances out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...config import RootVolume
from .recipe import Recipe, Rung

#: What is tagged in the launch call itself, so that nothing of ours ever exists without its owner's name.
TAGGED = ("instance", "volume", "network-interface")
SPOT_REQUEST = "spot-instances-request"  #: and this, where the launch asks for spot


def run_instances_request(
    made: Recipe, rung: Rung, *, count: int, token: str, tags: Mapping[str, str], user_data: bytes
) -> dict[str, Any]:
    """Return the parameters of one RunInstances call, to be sent again unchanged where its answer is lost."""
    request: dict[str, Any] = {
        "ClientToken": token,
        "MinCount": 1,
        "MaxCount": count,
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": _metadata_options(made),
        "TagSpecifications": _tag_specifications(rung, tags),
        "LaunchTemplate": made.template
        and {"LaunchTemplateId": made.template.id, "Version": made.template.version},
        "ImageId": made.image_id,
        "InstanceType": rung.instance_type,
        "InstanceMarketOptions": _market_options(made, rung),
        "BlockDeviceMappings": _disks(made),
        "IamInstanceProfile": _profile(made.iam_instance_profile),
        "KeyName": made.key_name,
        **_network(made, rung),
    }  # fmt: skip
    return _said(request)


def _tag_specifications(rung: Rung, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    listed = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    kinds = (*TAGGED, SPOT_REQUEST) if rung.market == "spot" else TAGGED
    return [{"ResourceType": kind, "Tags": listed} for kind in kinds]


def _metadata_options(made: Recipe) -> dict[str, Any]:
    """Require version 2 with tags, whatever a template says: the bootstrap speaks it; keep its hop limit."""
    of_template = (made.template.data.get("MetadataOptions") if made.template else None) or {}
    hops = of_template.get("HttpPutResponseHopLimit", 1)
    needed = {"HttpEndpoint": "enabled", "HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    return {**needed, "HttpPutResponseHopLimit": hops}


def _market_options(made: Recipe, rung: Rung) -> dict[str, Any] | None:
    if rung.market == "spot":
        once = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        return {"MarketType": "spot", "SpotOptions": once}
    overruled = made.template is not None and bool(made.template.data.get("InstanceMarketOptions"))
    return {"MarketType": "on-demand"} if rung.market == "on-demand" and overruled else None


def _network(made: Recipe, rung: Rung) -> dict[str, Any]:
    """Say subnet and groups in the one form that EC2 takes beside what the template says."""
    interfaces = made.template.interfaces if made.template else ()
    groups = list(made.security_group_ids)
    if not interfaces and made.associate_public_ip is None:
        return {"SubnetId": rung.subnet_id, "SecurityGroupIds": groups}
    ours = {"SubnetId": rung.subnet_id, "Groups": groups, "AssociatePublicIpAddress": made.associate_public_ip}
    if not _said(ours):
        return {}
    # A list in a request takes the place of the template's whole list, so what that says is said again.
    first, *others = interfaces or ({"DeviceIndex": 0},)
    return {"NetworkInterfaces": [{**first, **_said(ours)}, *map(dict, others)]}


def _disks(made: Recipe) -> list[dict[str, Any]] | None:
    if made.root_disk is None:
        return None
    of_template = (made.template.data.get("BlockDeviceMappings") if made.template else None) or ()
    disks = {str(disk.get("DeviceName")): dict(disk) for disk in of_template}
    root = disks.pop(made.root_disk.name, {})
    ebs = {"VolumeSize": made.root_disk.size, **root.get("Ebs", {}), **_ebs(made.root_volume or RootVolume())}
    return [{"DeviceName": made.root_disk.name, "Ebs": _said(ebs)}, *disks.values()]


def _ebs(volume: RootVolume) -> dict[str, Any]:
    ebs = {
        "VolumeSize": volume.size,
        "VolumeType": volume.type,
        "Iops": volume.iops,
        "Throughput": volume.throughput,
        "Encrypted": volume.encrypted or None,  # false would only be refused for an encrypted image
        "DeleteOnTermination": True,  # an image may say otherwise, and then every runner leaves its disk behind
    }
    return _said(ebs)


def _profile(profile: str | None) -> dict[str, str] | None:
    if profile is None:
        return None
    return {"Arn" if profile.startswith("arn:") else "Name": profile}


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None and value != []}
