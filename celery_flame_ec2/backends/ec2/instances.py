"""What does an instance say of the runner it is? Pure: tags and descriptions in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ...parent import Parent
from ...runner import Runner, RunnerState

OWNER, POOL, DEADLINE, WARM, LAUNCH = "flame:owner", "flame:pool", "flame:deadline", "flame:warm", "flame:launch"
RELEASE, HELLO = "flame:release", "flame:hello"
#: Seconds beyond the last moment at which a healthy runner is gone by itself.
DEADLINE_MARGIN = 300.0
#: States of an instance that is not gone; one that is `terminated` stays listed for an hour.
LIVING = ("pending", "running", "shutting-down", "stopping", "stopped")
OFF, GOING = frozenset({"stopping", "stopped"}), frozenset({"shutting-down", "terminated"})


def tags_of(
    letter: Parent, *, token: str, now: float, extra: Mapping[str, str], release: str = "", hello: str = "worker"
) -> dict[str, str]:
    """Return the tags of everything one launch creates; `now` and the deadline are seconds since the epoch.

    `release` tells which edition of its bundle the instance runs, `hello` who says that it is up.
    """
    limits = letter.limits
    lifetime = limits.boot_timeout + limits.max_lifetime + limits.shutdown_timeout
    ours = {
        OWNER: letter.owner,
        POOL: letter.pool,
        DEADLINE: str(math.ceil(now + lifetime + DEADLINE_MARGIN)),
        WARM: "true" if letter.warm else "false",
        LAUNCH: token,
        RELEASE: release,
        HELLO: hello,
    }
    return {**extra, **ours}


def runner_of(instance: Mapping[str, Any], now: float, tags: Mapping[str, str] | None = None) -> Runner:
    """Read an instance as EC2 describes it, or with the `tags` it was just given.

    What is missing or malformed reads as unknown, and never raises.
    """
    tags = read_tags(instance) if tags is None else tags
    state, going = _state(instance), has_ended(instance)
    launched = instance.get("LaunchTime")
    return Runner(
        id=str(instance.get("InstanceId", "")),
        pool=tags.get(POOL, ""),
        # Not 0 where it is missing: that would look as old as an instance can be.
        launched_at=launched.timestamp() if isinstance(launched, datetime) else now,
        state=RunnerState.ENDING if going or state in OFF else RunnerState.BOOTING,
        deadline=_seconds(tags.get(DEADLINE)),
        warm=tags.get(WARM) == "true",
        powered_off=state in OFF,
        shutting_down=going,
        instance_type=instance.get("InstanceType"),
        market="spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand",
        zone=(instance.get("Placement") or {}).get("AvailabilityZone"),
        launch=tags.get(LAUNCH, ""),
        release=tags.get(RELEASE, ""),
        speaks=tags.get(HELLO) != "start",
    )


def has_ended(instance: Mapping[str, Any]) -> bool:
    """Return whether an instance is gone, or about to be."""
    return _state(instance) in GOING


def read_tags(instance: Mapping[str, Any]) -> dict[str, str]:
    """Return an instance's tags by key."""
    return {str(tag.get("Key", "")): str(tag.get("Value", "")) for tag in instance.get("Tags") or ()}


def _state(instance: Mapping[str, Any]) -> Any:
    return (instance.get("State") or {}).get("Name")


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:  # written by someone else, or cut: a deadline that cannot be read is none
        return None
    return seconds if math.isfinite(seconds) else None
