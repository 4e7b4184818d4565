"""What does a launch template say? Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: With one of these a network interface is one single thing in the world, and so is the instance that has it.
FIXED = frozenset({"NetworkInterfaceId", "PrivateIpAddress", "PrivateIpAddresses", "Ipv6Addresses"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One version of a launch template; `data` is what EC2 describes as LaunchTemplateData."""

    id: str
    version: str
    data: Mapping[str, Any]

    def __str__(self) -> str:
        return f"launch template {self.id} version {self.version}"

    @property
    def user_data(self) -> bytes:
        """Return its own user data.

        Raises:
            ValueError: it is not base64.
        """
        try:
            return base64.b64decode(self.data.get("UserData") or "", validate=True)
        except binascii.Error as exc:
            raise ValueError(f"it is not base64 ({exc})") from exc

    @property
    def market(self) -> str | None:
        """Return the market it names, such as "spot"."""
        market: str | None = (self.data.get("InstanceMarketOptions") or {}).get("MarketType")
        return market

    @property
    def interfaces(self) -> tuple[Mapping[str, Any], ...]:
        """Return its network interfaces, the primary one first where it has one."""
        return tuple(sorted(self.data.get("NetworkInterfaces") or (), key=_place))

    @property
    def primary(self) -> Mapping[str, Any]:
        """Return its primary network interface; nothing where it has none, and a launch has to add it."""
        return next((interface for interface in self.interfaces[:1] if _place(interface) == (0, 0)), {})

    @property
    def fixed(self) -> tuple[str, ...]:
        """Return what of its network interfaces no two instances can have."""
        return tuple(sorted({name for interface in self.interfaces for name in FIXED if interface.get(name)}))

    @property
    def places_itself(self) -> bool:
        """Return whether its instances know their subnet, or are in the default one as groups by name need it."""
        return bool({"SubnetId", "NetworkInterfaceId"} & self.primary.keys() or self.data.get("SecurityGroups"))

    @property
    def has_security_groups(self) -> bool:
        """Return whether its instances know their security groups, wherever it says them."""
        return bool({"Groups", "NetworkInterfaceId"} & self.primary.keys()) or self.has_groups_of_its_own

    @property
    def has_groups_of_its_own(self) -> bool:
        """Return whether it says security groups outside a network interface."""
        return bool(self.data.get("SecurityGroupIds") or self.data.get("SecurityGroups"))

    def tags(self, kind: str) -> dict[str, str]:
        """Return its tags for resources of a kind, such as "instance"."""
        listed = [each for each in self.data.get("TagSpecifications") or () if each.get("ResourceType") == kind]
        return {tag["Key"]: tag.get("Value", "") for each in listed for tag in each.get("Tags") or ()}


def _place(interface: Mapping[str, Any]) -> tuple[int, int]:
    return int(interface.get("NetworkCardIndex") or 0), int(interface.get("DeviceIndex") or 0)
