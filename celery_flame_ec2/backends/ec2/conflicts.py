"""Which launches would EC2 refuse because options and launch template do not go together? Pure.

EC2 takes what a call says in the place of what the template says, parameter by parameter, and then refuses the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .template import Template

if TYPE_CHECKING:
    from .recipe import Recipe

#: Types by the start of their name that take CPU credits without bound.
BURSTABLE = ("t2.", "t3.", "t3a.", "t4g.")


def conflicts(made: Recipe) -> Iterator[str]:
    """Yield a sentence for each thing in which options and template contradict each other, with the remedy."""
    if made.template is None:
        return
    for check in (_network, _interface, _group_names, _types, _spot):
        yield from (f"{made.template} {problem}" for problem in check(made, made.template))


def conflicts_of_place(made: Recipe, *, runners: int) -> Iterator[str]:
    """Yield the same for what depends on zones, and on how many runners there may be."""
    if made.template is None:
        return
    for problem in (*_single(made.template, runners), *_zone(made, made.template)):
        yield f"{made.template} {problem}"


def _network(made: Recipe, template: Template) -> Iterator[str]:
    asked = made.associate_public_ip is not None
    if template.has_groups_of_its_own and (asked or template.interfaces):
        beside = "option 'associate_public_ip'" if asked else "the template's network interfaces"
        yield (
            f"has security groups outside a network interface, and EC2 refuses {beside} beside them; move them into a "
            "network interface of the template"
        )
    if asked and template.interfaces and len(template.interfaces) + (not template.primary) > 1:
        yield (
            "has several network interfaces, and EC2 refuses option 'associate_public_ip' with more than one; leave "
            "the option out, or use a version with one"
        )


def _interface(made: Recipe, template: Template) -> Iterator[str]:
    said = {
        "subnet_id": any(made.subnet_ids),
        "security_group_id": bool(made.security_group_ids),
        "associate_public_ip": made.associate_public_ip is not None,
    }
    names = ", ".join(f"'{name}'" for name, found in said.items() if found)
    if names and "NetworkInterfaceId" in template.primary:
        yield (
            f"names an existing network interface, and EC2 refuses option {names} beside it; leave that out, or use a "
            "version without NetworkInterfaceId"
        )


def _group_names(made: Recipe, template: Template) -> Iterator[str]:
    said = {"subnet_id": any(made.subnet_ids), "security_group_id": bool(made.security_group_ids)}
    names = ", ".join(f"'{name}'" for name, found in said.items() if found)
    if names and template.data.get("SecurityGroups"):
        yield (
            f"names security groups by name, and EC2 refuses option {names} beside them; name them by id "
            "(SecurityGroupIds)"
        )


def _types(made: Recipe, template: Template) -> Iterator[str]:
    if template.data.get("InstanceRequirements"):
        yield (
            "has InstanceRequirements, which EC2 takes for fleets only and refuses beside any instance type; use a "
            "version without them, and list types in option 'instance_type'"
        )
    others = [name for name in made.known_types if not name.startswith(BURSTABLE)]
    if others and (template.data.get("CreditSpecification") or {}).get("CpuCredits") == "unlimited":
        yield (
            f"has unlimited CPU credits, which EC2 refuses for {', '.join(others)}; take these out of option "
            "'instance_type', or use a version without CreditSpecification"
        )


def _spot(made: Recipe, template: Template) -> Iterator[str]:
    if "spot" not in {market or template.market for market in made.markets}:
        return
    for what, found in _not_for_spot(template.data).items():
        if found:
            yield (
                f"has {what}, which EC2 refuses for spot; set option 'market' to 'on-demand' alone, or use a version "
                "without"
            )


def _not_for_spot(data: Mapping[str, Any]) -> dict[str, bool]:
    reserved, placement = data.get("CapacityReservationSpecification") or {}, data.get("Placement") or {}
    only = reserved.get("CapacityReservationPreference") == "capacity-reservations-only"
    host = placement.get("Tenancy") == "host" or placement.get("HostId") or placement.get("HostResourceGroupArn")
    return {
        "a capacity reservation": bool(reserved.get("CapacityReservationTarget")) or only,
        "a dedicated host": bool(host),
        "hibernation": bool((data.get("HibernationOptions") or {}).get("Configured")),
    }


def _single(template: Template, runners: int) -> Iterator[str]:
    if template.fixed and runners > 1:
        yield (
            f"fixes {', '.join(template.fixed)} of a network interface, which one instance alone can have; set the "
            "pool's 'max' to 1, or use a version without"
        )


def _zone(made: Recipe, template: Template) -> Iterator[str]:
    zone = (template.data.get("Placement") or {}).get("AvailabilityZone")
    elsewhere = [name for name in made.subnet_ids if name and made.zones.get(name, zone) != zone]
    if zone and elsewhere:
        yield (
            f"is for zone {zone}, where {', '.join(elsewhere)} is not; take that out of option 'subnet_id', or use a "
            "version without Placement.AvailabilityZone"
        )
