"""Should this runner end, and why? Pure: values in, a reason out."""

from __future__ import annotations

from dataclasses import dataclass

from .runner import Limits

#: Seconds a runner waits for a broker it lost before it ends: what it held is with other runners by then.
BROKER_PATIENCE = 300.0
#: Seconds without work after which a cordoned runner ends that would otherwise never be idle for too long.
CORDONED_PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """What a runner knows of itself. Moments are seconds of one monotonic clock; None where it did not happen.

    `quiet_since` is when nothing was active or reserved any more; `taken` counts tasks accepted since the start;
    `cordoned` says that no more of them are taken.
    """

    started_at: float
    hello_at: float | None = None
    quiet_since: float | None = None
    disconnected_since: float | None = None
    taken: int = 0
    slots: int = 1
    cordoned: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Why a runner ends. Work that slips in at the last moment keeps one that is merely `idle`."""

    reason: str
    idle: bool = False


def reason_to_end(vitals: Vitals, limits: Limits, now: float) -> Ending | None:
    """Return why the runner must end now, or None. `now` is of the clock the vitals are of."""
    reason = _too_old(vitals, limits, now) or _without_broker(vitals, limits, now)
    if reason is None and limits.single_use and vitals.taken >= vitals.slots:
        reason = f"single use: {vitals.taken} tasks taken by {vitals.slots} slots"
    if reason is not None:
        return Ending(reason=reason)
    return _idle(vitals, limits, now)


def _too_old(vitals: Vitals, limits: Limits, now: float) -> str | None:
    over = now - vitals.started_at >= limits.max_lifetime
    return f"it lived {limits.max_lifetime:g} s (max_lifetime)" if over else None


def _without_broker(vitals: Vitals, limits: Limits, now: float) -> str | None:
    if vitals.hello_at is None:
        over = now - vitals.started_at >= limits.boot_timeout
        return f"no broker within {limits.boot_timeout:g} s (boot_timeout)" if over else None
    if vitals.disconnected_since is None:
        return None
    lost = now - vitals.disconnected_since
    return f"no broker for {lost:.0f} s" if lost >= BROKER_PATIENCE else None


def _idle(vitals: Vitals, limits: Limits, now: float) -> Ending | None:
    patience = limits.idle_shutdown_after
    if patience is None and vitals.cordoned:
        patience = CORDONED_PATIENCE
    if vitals.quiet_since is None or vitals.disconnected_since is not None or patience is None:
        return None
    quiet, name = now - vitals.quiet_since, ", cordoned" if vitals.cordoned else ""
    return Ending(reason=f"idle for {quiet:.0f} s{name}", idle=True) if quiet >= patience else None
