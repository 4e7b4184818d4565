"""What does AWS know of a template, an image, a type? Each answer is one call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from ...edition import Edition, edition_of, key_of
from ...errors import BackendError
from .clients import Refused, asking
from .instances import LIVING
from .recipe import RootDisk
from .template import Template

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

RESOLVE = "resolve:ssm:"
FILTER_VALUES = 200  #: the most values one filter takes


def template(client: EC2Client, template_id: str, version: str) -> Template:
    """Return one version of a launch template; its number, so that a launch sent twice means the same one.

    Raises:
        BackendError: there is no such template or version, or EC2 does not say.
    """
    with asking("ec2:DescribeLaunchTemplateVersions"):
        answer = client.describe_launch_template_versions(LaunchTemplateId=template_id, Versions=[version])
    for found in answer.get("LaunchTemplateVersions", ()):
        data: Any = found.get("LaunchTemplateData", {})
        return Template(id=template_id, version=str(found.get("VersionNumber", version)), data=data)
    raise BackendError(
        f"launch template {template_id} has no version {version}; check options 'launch_template_id' and "
        "'launch_template_version'"
    )


def image_id(ssm: Any, image: str) -> str:
    """Return the id of an image that is named by "resolve:ssm:/path", with a version or label after another colon.

    Raises:
        BackendError: the parameter cannot be read, or holds no image.
    """
    name = image.removeprefix(RESOLVE)
    with asking("ssm:GetParameter"):
        answer = ssm.get_parameter(Name=name)
    value = str(answer["Parameter"]["Value"]).strip()
    if not value.startswith("ami-"):
        raise BackendError(f"parameter {name!r} does not hold an image's id; check option 'image_id'")
    return value


def root_disk(client: EC2Client, image: str) -> RootDisk | None:
    """Return the disk an image boots from, or None where that is not a volume.

    Raises:
        BackendError: there is no such image, or EC2 does not say.
    """
    with asking("ec2:DescribeImages"):
        answer: Any = client.describe_images(ImageIds=[image])
    for found in answer.get("Images", ()):
        name = found.get("RootDeviceName")
        if not name or found.get("RootDeviceType") == "instance-store":
            return None
        disks = {disk.get("DeviceName"): disk.get("Ebs", {}) for disk in found.get("BlockDeviceMappings", ())}
        return RootDisk(name=name, size=disks.get(name, {}).get("VolumeSize"))
    raise BackendError(f"there is no image {image} in this region; check options 'image_id' and 'region'")


def zones(client: EC2Client, subnet_ids: Collection[str]) -> dict[str, str]:
    """Return the availability zones of subnets by their ids. One that does not exist is missing, and fails no other.

    Raises:
        BackendError: EC2 does not say.
    """
    wanted: Any = [{"Name": "subnet-id", "Values": sorted(set(subnet_ids))}]
    with asking("ec2:DescribeSubnets"):
        answer: Any = client.describe_subnets(Filters=wanted)
    return {str(found["SubnetId"]): str(found["AvailabilityZone"]) for found in answer.get("Subnets", ())}


def launched_with(client: EC2Client, token: str) -> list[dict[str, Any]]:
    """Return the living instances that came of the launch with this client token.

    Raises:
        BackendError: EC2 does not say.
    """
    return _instances(client, {"client-token": [token], "instance-state-name": list(LIVING)})


def instances(client: EC2Client, ids: Collection[str]) -> list[dict[str, Any]]:
    """Return these instances, terminated ones too; one that EC2 does not know yet is missing, and fails no other.

    Raises:
        BackendError: EC2 does not say.
    """
    wanted = sorted(ids)
    parts = (wanted[start : start + FILTER_VALUES] for start in range(0, len(wanted), FILTER_VALUES))
    return [instance for part in parts for instance in _instances(client, {"instance-id": part})]


def _instances(client: EC2Client, by: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    filters: Any = [{"Name": name, "Values": values} for name, values in by.items()]
    with asking("ec2:DescribeInstances"):
        answer: Any = client.describe_instances(Filters=filters)
    return [instance for found in answer.get("Reservations", ()) for instance in found.get("Instances", ())]


def vcpus(client: EC2Client, types: Collection[str]) -> int:
    """Return the number of vCPUs of the smallest of these types.

    Raises:
        BackendError: EC2 does not say.
    """
    with asking("ec2:DescribeInstanceTypes"):
        answer: Any = client.describe_instance_types(InstanceTypes=sorted(types))  # type: ignore[arg-type]
    counts = [found.get("VCpuInfo", {}).get("DefaultVCpus", 0) for found in answer.get("InstanceTypes", ())]
    if not counts or min(counts) < 1:
        raise BackendError(f"EC2 does not say how many vCPUs {', '.join(sorted(types))} have; set 'max_concurrency'")
    return int(min(counts))


def edition(s3: Any, url: str, *, version: str | None = None) -> Edition:
    """Return the state of a bundle, or of one version of it; of a prefix, that of its release.json.

    Raises:
        Refused: S3 does not tell, or has no such version.
        BackendError: there is no such bundle.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    exactly = {"VersionId": version} if version else {}
    try:
        with asking("s3:GetObjectVersion" if version else "s3:GetObject"):
            head = s3.head_object(Bucket=bucket, Key=key_of(key), ChecksumMode="ENABLED", **exactly)
    except Refused as exc:
        if exc.refusal.code != "HTTP 404" or version:
            raise
        if key.endswith("/"):
            return Edition(url=url)  # nothing under it tells one state from another
        raise BackendError(f"there is no bundle {url}; push it, or check option 's3_bundle_url'") from exc
    return edition_of(url, head)


def architecture(client: EC2Client, image: str) -> str | None:
    """Return what an image is for, as EC2 calls it; None where there is none, or that is not told.

    Raises:
        BackendError: EC2 does not say.
    """
    with asking("ec2:DescribeImages"):
        answer: Any = client.describe_images(ImageIds=[image])
    return next((found.get("Architecture") for found in answer.get("Images", ())), None)
