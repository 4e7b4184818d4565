"""Will an instance in these subnets reach what it needs? Pure: what EC2 describes in, findings out."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ....finding import Finding, failed, ok, unknown, warning

Described = Mapping[str, Any]
EVERYWHERE = "0.0.0.0/0"


class Exit(enum.Enum):
    """Where a subnet's default route leads."""

    OPEN = "leads out"
    CLOSED = "leads to an internet gateway, and instances there get no public address: nothing comes back"
    NONE = "is not there"
    BROKEN = "leads to something that is deleted"
    ELSEWHERE = "leads out of this VPC's sight"


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How instances of one subnet get out. `table` is its route table's id, `target` what the default route names."""

    subnet: str
    exit: Exit
    table: str = ""
    target: str = ""
    endpoints: frozenset[str] = frozenset()  #: services, such as "s3", that the VPC has an endpoint for


def subnets(described: Collection[Described], wanted: Sequence[str], most: int) -> Iterator[Finding]:
    """Tell whether the subnets are there, of one VPC, and hold a pool of so many."""
    known = {str(subnet.get("SubnetId")): subnet for subnet in described}
    if missing := [name for name in wanted if name not in known]:
        yield failed("subnets", f"no {', '.join(missing)} in this region", "check options 'subnet_id' and 'region'")
    vpcs = {str(subnet.get("VpcId")) for subnet in known.values()}
    if len(vpcs) > 1:
        told = f"of different VPCs ({', '.join(sorted(vpcs))}), and security groups belong to one"
        yield failed("subnets", told, "keep subnets of one VPC in 'subnet_id'")
    if known:
        yield _room(
            {name: int(known[name].get("AvailableIpAddressCount", 0)) for name in wanted if name in known}, most
        )


def _room(free: Mapping[str, int], most: int) -> Finding:
    told = ", ".join(f"{name} {count}" for name, count in free.items())
    total, full = sum(free.values()), [name for name, count in free.items() if not count]
    if not total:
        return failed("addresses", f"no free address: {told}", "free some, or add other subnets to 'subnet_id'")
    if total < most:
        remedy = f"add subnets to 'subnet_id', or set 'max' to {total} and what runs now"
        return warning("addresses", f"{total} free, and 'max' is {most}: {told}", remedy)
    if full:
        return warning("addresses", f"{', '.join(full)} is full: {told}", f"take {', '.join(full)} out of 'subnet_id'")
    return ok("addresses", f"free: {told}")


def way(subnet: Described, tables: Collection[Described], endpoints: Collection[Described], public: bool | None) -> Way:
    """Return how instances there get out; `public` says whether they get a public address, None as the subnet does."""
    table = _table(subnet, tables)
    default = [route for route in table.get("Routes", ()) if route.get("DestinationCidrBlock") == EVERYWHERE]
    route = default[0] if default else {}
    has_address = bool(subnet.get("MapPublicIpOnLaunch")) if public is None else public
    name = str(table.get("RouteTableId", ""))
    return Way(
        subnet=str(subnet.get("SubnetId")),
        exit=_exit(route, has_address),
        table=name,
        target=_target(route),
        endpoints=frozenset(_services(str(subnet.get("VpcId")), name, endpoints)),
    )


def _table(subnet: Described, tables: Collection[Described]) -> Described:
    """Return the route table that a subnet was given, else its VPC's main one."""
    of_vpc = [table for table in tables if table.get("VpcId") == subnet.get("VpcId")]
    links = [(link, table) for table in of_vpc for link in table.get("Associations", ())]
    own = [table for link, table in links if link.get("SubnetId") == subnet.get("SubnetId")]
    main = [table for link, table in links if link.get("Main")]
    return (own or main or [{}])[0]


def _exit(route: Described, has_address: bool) -> Exit:
    target = _target(route)
    if not target:
        return Exit.NONE
    if route.get("State") == "blackhole":
        return Exit.BROKEN
    if target.startswith("igw-"):
        return Exit.OPEN if has_address else Exit.CLOSED
    # An instance or an interface there is a NAT that somebody runs.
    return Exit.OPEN if target.startswith(("nat-", "i-", "eni-")) else Exit.ELSEWHERE


def _target(route: Described) -> str:
    kinds = ("NatGatewayId", "InstanceId", "NetworkInterfaceId", "GatewayId", "TransitGatewayId")
    others = ("VpcPeeringConnectionId", "LocalGatewayId", "CarrierGatewayId", "CoreNetworkArn", "VpcEndpointId")
    return next((str(route[kind]) for kind in (*kinds, *others) if route.get(kind)), "")


def _services(vpc: str, table: str, endpoints: Collection[Described]) -> Iterator[str]:
    """Yield the services reached from a route table without leaving the VPC."""
    for endpoint in endpoints:
        if endpoint.get("VpcId") != vpc or str(endpoint.get("State", "available")).lower() != "available":
            continue
        gateway = endpoint.get("VpcEndpointType", "Gateway") == "Gateway"
        # Without private names an interface endpoint is found only by who was told its own name.
        if table in endpoint.get("RouteTableIds", ()) if gateway else endpoint.get("PrivateDnsEnabled"):
            yield str(endpoint.get("ServiceName")).rpartition(".")[2]


def routes(ways: Collection[Way], needs: Collection[str], region: str) -> Iterator[Finding]:
    """Tell for each AWS service a runner needs, such as "s3", from which subnets it is reached."""
    for service in needs:
        check = f"route to {service.upper() if len(service) < 4 else service}"
        good = [way for way in ways if way.exit is Exit.OPEN or service in way.endpoints]
        if good:
            yield ok(check, "; ".join(sorted({_how(way, service) for way in good})))
        for way in ways:
            if way not in good:
                yield _no_route(check, way, service, region)


def _how(way: Way, service: str) -> str:
    if service in way.endpoints:
        return f"an endpoint in the VPC ({way.table})"
    return f"{way.target} ({way.table})"


def _no_route(check: str, way: Way, service: str, region: str) -> Finding:
    table = way.table or "its route table"
    told = f"{way.subnet}: the default route of {table} {way.exit.value}, and there is no endpoint for {service}"
    endpoint = f"an endpoint for com.amazonaws.{region}.{service}" + (f" to {table}" if service == "s3" else "")
    if way.exit is Exit.ELSEWHERE:
        where = f"{way.subnet}: the default route of {table} leads to {way.target}"
        return unknown(check, where, f"see that {service} is reached from there, or add {endpoint}")
    gateway = "a route from 0.0.0.0/0 to a NAT gateway"
    if way.exit is Exit.CLOSED:
        return failed(check, told, f"set 'associate_public_ip' to True, or add {endpoint}, or {gateway}")
    return failed(check, told, f"add {endpoint}, or {gateway}, or take {way.subnet} out of 'subnet_id'")


def groups(
    described: Collection[Described], wanted: Sequence[str], vpcs: Collection[str], ports: Mapping[int, str]
) -> Iterator[Finding]:
    """Tell whether the security groups are there, of the subnets' VPC, and let out to these ports; each has a name."""
    known = {str(group.get("GroupId")): group for group in described}
    if missing := [name for name in wanted if name not in known]:
        told = f"no {', '.join(missing)} in this region"
        yield failed("security groups", told, "check options 'security_group_id' and 'region'")
    foreign = [name for name, group in known.items() if vpcs and group.get("VpcId") not in vpcs]
    if foreign:
        told = ", ".join(f"{name} is of {known[name].get('VpcId')}" for name in foreign)
        remedy = "set 'security_group_id' to groups of the subnets' VPC"
        yield failed("security groups", f"{told}, and the subnets are of {', '.join(sorted(vpcs))}", remedy)
    if known and not missing and not foreign:
        yield _egress(known, ports)


def _egress(known: Mapping[str, Described], ports: Mapping[int, str]) -> Finding:
    rules = [rule for group in known.values() for rule in group.get("IpPermissionsEgress", ())]
    names = ", ".join(known)
    shut = [f"{port} ({what})" for port, what in ports.items() if not any(_lets_out(rule, port) for rule in rules)]
    if shut:
        remedy = f"add an outbound rule for TCP {', '.join(shut)} to one of 'security_group_id'"
        return failed("security groups", f"{names} let nothing out to port {', '.join(shut)}", remedy)
    told = ", ".join(f"{port} ({what})" for port, what in ports.items())
    return ok("security groups", f"{names} let out to port {told}")


def _lets_out(rule: Described, port: int) -> bool:
    if rule.get("IpProtocol") == "-1":
        return True
    return rule.get("IpProtocol") in {"tcp", "6"} and rule.get("FromPort", 0) <= port <= rule.get("ToPort", 65535)
