"""How is a long listing read in little time? The SDK's time goes into what its model names, whoever needs it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from botocore.session import Session, get_session
from botocore.utils import parse_timestamp

#: What is read of an instance; reading the rest as well takes twice as long.
MEMBERS = frozenset({
    "InstanceId", "InstanceLifecycle", "InstanceType", "LaunchTime", "Placement", "State", "StateReason", "SubnetId",
    "Tags",
})  # fmt: skip


def lean_session() -> Session:
    """Return a session of the SDK's core whose clients read of an instance only `MEMBERS`."""
    session = get_session()
    session.register_component("data_loader", LeanLoader(session.get_component("data_loader")))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    return session


class LeanLoader:
    """The SDK's own loader of models, with less in the one of EC2."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """Return a model as the SDK's loader does."""
        model = self._loader.load_service_model(service_name, type_name, api_version)
        if (service_name, type_name) != ("ec2", "service-2"):
            return model
        shapes = model["shapes"]
        members = {name: member for name, member in shapes["Instance"]["members"].items() if name in MEMBERS}
        return {**model, "shapes": {**shapes, "Instance": {**shapes["Instance"], "members": members}}}


def read_time(value: Any) -> datetime:
    """Read a time as AWS writes it; at once where it is in ISO 8601, which EC2 uses, else as the SDK does."""
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return parse_timestamp(value)
