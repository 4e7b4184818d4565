"""Do image and instance types exist, and do they go together? Pure: what EC2 describes in, findings out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ....finding import Finding, failed, ok, warning


def image(described: Mapping[str, Any]) -> Finding:
    """Tell whether an image can be booted from now."""
    name, state = described.get("ImageId"), described.get("State", "unknown")
    if state != "available":
        return failed("image", f"{name} is {state}, not available", "set 'image_id' to an image that is available")
    root = described.get("RootDeviceName") or "no root device"
    kind = "on the host's own disk" if described.get("RootDeviceType") == "instance-store" else "on a volume"
    return ok("image", f"{name} is available, {described.get('Architecture')}, root {root} {kind}")


def types(described: Collection[Mapping[str, Any]], wanted: Sequence[str], markets: Collection[str]) -> Finding:
    """Tell whether every type exists in the region and can be had in the markets that are asked for."""
    known = {kind.get("InstanceType"): kind for kind in described}
    if strange := [name for name in wanted if name not in known]:
        remedy = f"take {', '.join(strange)} out of 'instance_type', or set another 'region'"
        return failed("instance types", f"this region has no {', '.join(strange)}", remedy)
    for market in markets:
        classes = {name: known[name].get("SupportedUsageClasses", (market,)) for name in wanted}
        if refused := [name for name in wanted if market not in classes[name]]:
            remedy = f"take {', '.join(refused)} out of 'instance_type', or {market!r} out of 'market'"
            return failed("instance types", f"{', '.join(refused)} cannot be had as {market}", remedy)
    return ok("instance types", ", ".join(map(_size, map(known.__getitem__, wanted))))


def _size(kind: Mapping[str, Any]) -> str:
    cpus, memory = kind.get("VCpuInfo", {}).get("DefaultVCpus"), kind.get("MemoryInfo", {}).get("SizeInMiB")
    told = [f"{cpus} vCPUs" if cpus else "", f"{memory / 1024:g} GiB" if memory else ""]
    return " ".join(filter(None, (str(kind.get("InstanceType")), *filter(None, told))))


def architecture(described: Mapping[str, Any], kinds: Collection[Mapping[str, Any]]) -> Finding:
    """Tell whether the image runs on every type."""
    name, needs = described.get("ImageId"), str(described.get("Architecture"))
    runs = {str(kind.get("InstanceType")): _architectures(kind) for kind in kinds}
    unfit = {kind: archs for kind, archs in runs.items() if archs and needs not in archs}
    if not unfit:
        return ok("architecture", f"{needs}, image and types alike")
    told = ", ".join(f"{kind} is {' or '.join(archs)}" for kind, archs in sorted(unfit.items()))
    others = sorted({arch for archs in unfit.values() for arch in archs})
    remedy = f"set 'image_id' to an image for {' or '.join(others)}, or 'instance_type' to types of {needs}"
    return failed("architecture", f"{name} is for {needs}, and {told}", remedy)


def _architectures(kind: Mapping[str, Any]) -> list[str]:
    return list(kind.get("ProcessorInfo", {}).get("SupportedArchitectures", ()))


def offered(offerings: Collection[Mapping[str, Any]], wanted: Sequence[str], zones: Mapping[str, str]) -> Finding:
    """Tell whether the types are offered where the subnets are; `zones` gives each subnet's."""
    there = {(offer.get("InstanceType"), offer.get("Location")) for offer in offerings}
    missing = [(kind, zone) for kind in wanted for zone in sorted(set(zones.values())) if (kind, zone) not in there]
    pairs = len(wanted) * len(set(zones.values()))
    if not missing:
        return ok("zones", f"{', '.join(wanted)} in {', '.join(sorted(set(zones.values())))}")
    told = ", ".join(f"{kind} in {zone}" for kind, zone in missing)
    choice = ", ".join(_choices(offerings, {kind for kind, _ in missing})) or "another zone"
    remedy = f"add subnets of {choice} to 'subnet_id', or other types to 'instance_type'"
    if len(missing) == pairs:
        return failed("zones", f"not offered: {told}", remedy)
    return warning("zones", f"not offered, so tried in vain: {told}", remedy)


def _choices(offerings: Collection[Mapping[str, Any]], wanted: Collection[str]) -> Iterator[str]:
    yield from sorted({str(offer.get("Location")) for offer in offerings if offer.get("InstanceType") in wanted})
