"""How is little memory and time spent on EC2's answers? The SDK's go into what its model names, whoever needs it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from botocore.loaders import create_loader
from botocore.session import Session, get_session
from botocore.utils import parse_timestamp

#: What is asked of EC2; its model has 800 operations, which take 14 MB.
OPERATIONS = (
    "DescribeImages", "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances",
    "DescribeLaunchTemplateVersions", "DescribeRouteTables", "DescribeSecurityGroups", "DescribeSubnets",
    "DescribeVpcEndpoints", "GetConsoleOutput", "RunInstances", "TerminateInstances",
)  # fmt: skip
#: Whose endpoints are asked for; those of all others take 7 MB.
SERVICES = frozenset({"ec2", "iam", "s3", "secretsmanager", "sqs", "ssm", "sts"})
#: What is read of an instance; reading the rest as well takes twice as long.
MEMBERS = frozenset({
    "InstanceId", "InstanceLifecycle", "InstanceType", "LaunchTime", "Placement", "State", "StateReason", "SubnetId",
    "Tags",
})  # fmt: skip


def lean_session() -> Session:
    """Return a session of the SDK's core whose EC2 clients know `OPERATIONS`, and read of an instance `MEMBERS`."""
    session = get_session()
    loader = LeanLoader(session.get_component("data_loader"), session.get_config_variable("data_path"))
    session.register_component("data_loader", loader)
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    return session


class LeanLoader:
    """The SDK's own loader of models, with less in the one of EC2."""

    def __init__(self, loader: Any, data_path: str | None) -> None:
        self._loader, self._data_path = loader, data_path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """Return a model as the SDK's loader does."""
        if (service_name, type_name) == ("ec2", "service-2"):
            return self._ec2
        return self._loader.load_service_model(service_name, type_name, api_version)

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        """Return any other data as the SDK's loader does."""
        if name == "endpoints":
            return self._endpoints
        found: tuple[Any, str] = self._loader.load_data_with_path(name)
        return found

    @cached_property
    def _ec2(self) -> Any:
        return json.loads(_lean_model(self._data_path))

    @cached_property
    def _endpoints(self) -> tuple[Any, str]:
        text, path = _lean_endpoints(self._data_path)
        return json.loads(text), path


def _lean_model(data_path: str | None) -> str:
    """Return EC2's model as text: what lay among the parts that are not needed would keep their memory."""
    whole: Any = create_loader(data_path).load_service_model("ec2", "service-2")  # a loader keeps all it read
    instance = whole["shapes"]["Instance"]
    members = {name: member for name, member in instance["members"].items() if name in MEMBERS}
    shapes = {**whole["shapes"], "Instance": {**instance, "members": members}}
    operations = {name: whole["operations"][name] for name in OPERATIONS}
    return json.dumps({**whole, "operations": operations, "shapes": needed(shapes, operations)})


def _lean_endpoints(data_path: str | None) -> tuple[str, str]:
    """Return where the services of `SERVICES` are, as text for the same reason, and the file that says it."""
    whole, path = create_loader(data_path).load_data_with_path("endpoints")
    partitions = [
        {**each, "services": {name: place for name, place in each["services"].items() if name in SERVICES}}
        for each in whole["partitions"]
    ]
    return json.dumps({**whole, "partitions": partitions}), path


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
