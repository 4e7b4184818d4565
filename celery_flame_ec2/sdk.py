"""How is little memory and time spent on AWS's answers? The SDK's go into what its models name, whoever needs it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from botocore.loaders import JSONFileLoader
from botocore.session import Session, get_session
from botocore.utils import parse_timestamp

#: What is asked of these services; the other 900 operations of their models take 18 MB. By CreateSession a client of S3
#: opens a directory bucket by itself.
OPERATIONS: Mapping[str, Collection[str]] = {
    "ec2": (
        "DescribeImages", "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances",
        "DescribeLaunchTemplateVersions", "DescribeRouteTables", "DescribeSecurityGroups", "DescribeSubnets",
        "DescribeVpcEndpoints", "GetConsoleOutput", "RunInstances", "TerminateInstances",
    ),
    "s3": (
        "CreateSession", "DeleteObject", "DeleteObjects", "GetObject", "HeadBucket", "HeadObject", "ListObjectsV2",
        "PutObject",
    ),
}  # fmt: skip
#: Whose endpoints are asked for; those of all others take 7 MB.
SERVICES = frozenset({"ec2", "iam", "s3", "secretsmanager", "sqs", "ssm", "sts"})
#: What is read of an instance; reading the rest as well takes twice as long.
MEMBERS = frozenset({
    "InstanceId", "InstanceLifecycle", "InstanceType", "LaunchTime", "Placement", "State", "StateReason", "SubnetId",
    "Tags",
})  # fmt: skip


def lean_session() -> Session:
    """Return a session of the SDK's core whose clients know of a service `OPERATIONS`, and of an instance `MEMBERS`."""
    session = get_session()
    session.get_component("data_loader").file_loader = LeanFiles()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    return session


class LeanFiles(JSONFileLoader):
    """The SDK's files of data, with less in them."""

    def load_file(self, file_path: str) -> Any:
        """Return what the file of this path without its ending holds, as the SDK does; None where there is none."""
        for path, open_it in ((f"{file_path}.json", open), (f"{file_path}.json.gz", gzip.open)):
            if Path(path).is_file():
                with open_it(path, "rb") as file:
                    return lean(file_path, json.loads(file.read(), object_hook=_without_prose))
        return super().load_file(file_path)


def lean(file_path: str, whole: Any) -> Any:
    """Return what is needed of what a file of the SDK's holds."""
    path = Path(file_path)  # service/version/kind, or kind
    kind, service = path.name, path.parent.parent.name
    if kind == "endpoints":
        return _anew({**whole, "partitions": [_lean_partition(each) for each in whole["partitions"]]})
    if kind == "service-2" and service in OPERATIONS:
        return _anew(_lean_model(whole, OPERATIONS[service]))
    return whole


def _anew(data: Any) -> Any:
    """Return the same elsewhere in memory: what lies among parts that are not needed would keep theirs."""
    return json.loads(json.dumps(data))


def _without_prose(part: dict[str, Any]) -> dict[str, Any]:
    """Empty what is written in a part of a model for people; the SDK wants it to be there."""
    if isinstance(part.get("documentation"), str):
        part["documentation"] = ""
    return part


def _lean_partition(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the services of `SERVICES` are."""
    return {**whole, "services": {name: place for name, place in whole["services"].items() if name in SERVICES}}


def _lean_model(whole: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Return a service's model with these operations."""
    shapes = whole["shapes"]
    if "Instance" in shapes:  # of EC2
        members = shapes["Instance"]["members"]
        kept = {name: member for name, member in members.items() if name in MEMBERS}
        shapes = {**shapes, "Instance": {**shapes["Instance"], "members": kept}}
    operations = {name: operation for name, operation in whole["operations"].items() if name in names}
    return {**whole, "operations": operations, "shapes": needed(shapes, operations)}


def needed(shapes: Mapping[str, Any], operations: Mapping[str, Any]) -> dict[str, Any]:
    """Return the shapes that operations are made of."""
    found: dict[str, Any] = {}
    names = set(_named(operations))
    while names:
        new = {name: shapes[name] for name in names if name not in found}
        found |= new
        names = set(_named(new))
    return found


def _named(part: Any) -> Iterator[str]:
    """Yield the shapes that a part of a model names."""
    if isinstance(part, Mapping):
        if isinstance(name := part.get("shape"), str):
            yield name
        for each in part.values():
            yield from _named(each)
    elif isinstance(part, Collection) and not isinstance(part, str):
        for each in part:
            yield from _named(each)


def read_time(value: Any) -> datetime:
    """Read a time as AWS writes it; at once where it is in ISO 8601, which EC2 uses, else as the SDK does."""
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return parse_timestamp(value)
