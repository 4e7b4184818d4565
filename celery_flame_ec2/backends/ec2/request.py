"""What is asked of EC2 for one launch? Pure: a recipe and a rung in, the parameters of RunInstances out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...config import RootVolume
from .instances import POOL
from .recipe import Recipe, Rung

#: What is tagged in the launch call itself, so that nothing of ours ever exists without its owner's name.
TAGGED = ("instance", "volume", "network-interface")
IN_METADATA = re.compile(r"(?!(\.|\.\.|_index)$)[0-9a-zA-Z\-_+=,.@:]{1,255}")  #: names that metadata can show
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
        "MetadataOptions": _metadata_options(made, tags),
        "TagSpecifications": _tag_specifications(made, rung, tags),
        "LaunchTemplate": made.template
        and {"LaunchTemplateId": made.template.id, "Version": made.template.version},
        "ImageId": made.image_id,
        "InstanceType": rung.instance_type,
        "InstanceMarketOptions": _market_options(made, rung),
        "BlockDeviceMappings": _disks(made),
        "IamInstanceProfile": _profile(made.iam_instance_profile),
        "KeyName": made.key_name,
        **_network(made, rung),
        **_endable(made),
    }  # fmt: skip
    return _said(request)


def _tag_specifications(made: Recipe, rung: Rung, tags: Mapping[str, str]) -> list[dict[str, Any]]:
    """Tag what the launch makes: with the template's tags too, as a list in a request may replace its whole list."""
    # EC2 refuses tags for spot requests where there will be none.
    kinds = (*TAGGED, SPOT_REQUEST) if _market(made, rung) == "spot" else TAGGED
    of_template = {kind: made.template.tags(kind) if made.template else {} for kind in kinds}
    named = {"Name": f"flame {tags[POOL]}"}
    return [{"ResourceType": kind, "Tags": _listed({**named, **of_template[kind], **tags})} for kind in kinds]


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _metadata_options(made: Recipe, tags: Mapping[str, str]) -> dict[str, Any]:
    """Require version 2, whatever a template says: the bootstrap speaks it. All else is the template's to say."""
    of_template = dict(made.template_data.get("MetadataOptions") or {})
    of_template.pop("State", None)
    options = {"HttpPutResponseHopLimit": 1, "InstanceMetadataTags": "enabled", **of_template}
    names = {*tags, *(made.template.tags("instance") if made.template else ())}
    if not all(IN_METADATA.fullmatch(name) for name in names):
        options["InstanceMetadataTags"] = "disabled"  # EC2 refuses to show tags whose names no path can hold
    return {**options, "HttpEndpoint": "enabled", "HttpTokens": "required"}


def _market(made: Recipe, rung: Rung) -> str | None:
    return rung.market or (made.template.market if made.template else None)


def _market_options(made: Recipe, rung: Rung) -> dict[str, Any] | None:
    """Ask for spot once, and to have it terminated: a persistent request would raise an instance again and again."""
    of_template = made.template_data.get("InstanceMarketOptions") or {}
    if _market(made, rung) == "spot":
        price = (of_template.get("SpotOptions") or {}).get("MaxPrice")
        once = {"MaxPrice": price, "SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        return {"MarketType": "spot", "SpotOptions": _said(once)}
    return {"MarketType": "on-demand"} if rung.market == "on-demand" and of_template else None


def _endable(made: Recipe) -> dict[str, bool]:
    """Take back a template's protections under which a parent could not end what it raised."""
    return {name: False for name in ("DisableApiStop", "DisableApiTermination") if made.template_data.get(name)}


def _network(made: Recipe, rung: Rung) -> dict[str, Any]:
    """Say subnet and groups in the one form that EC2 takes beside what the template says."""
    interfaces, primary = (made.template.interfaces, made.template.primary) if made.template else ((), {})
    groups = list(made.security_group_ids)
    if not interfaces and made.associate_public_ip is None:
        return {"SubnetId": rung.subnet_id, "SecurityGroupIds": groups}
    ours = {"SubnetId": rung.subnet_id, "Groups": groups, "AssociatePublicIpAddress": made.associate_public_ip}
    if primary and not _said(ours):
        return {}
    # A list in a request takes the place of the template's whole list, so what that says is said again.
    others = [dict(interface) for interface in interfaces if interface is not primary]
    return {"NetworkInterfaces": [{"DeviceIndex": 0, **primary, **_said(ours)}, *others]}


def _disks(made: Recipe) -> list[dict[str, Any]] | None:
    """Say what the root disk is like: the options' word first, then the template's, then that it is encrypted."""
    if made.root_disk is None:
        return None
    of_template = made.template_data.get("BlockDeviceMappings") or ()
    disks = {str(disk.get("DeviceName")): dict(disk) for disk in of_template}
    root = disks.pop(made.root_disk.name, None)
    if root is not None and made.root_volume is None:
        return None
    ours = _ebs(made.root_volume or RootVolume())
    ebs = {"VolumeSize": made.root_disk.size, **_fitting((root or {}).get("Ebs") or {}, ours), **ours}
    return [{"DeviceName": made.root_disk.name, "Ebs": _said(ebs)}, *disks.values()]


def _fitting(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template says of a volume without what only its own volume type can do, where ours is another."""
    other = ours.get("VolumeType") not in (None, theirs.get("VolumeType"))
    return {name: value for name, value in theirs.items() if not (other and name in ("Iops", "Throughput"))}


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
