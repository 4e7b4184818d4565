"""Should this runner end, and why? Pure: values in, a reason out."""

from __future__ import annotations

from dataclasses import dataclass

from .runner import Limits

#: Seconds a runner waits for a broker it lost before it ends: what it held is with other runners by then.
BROKER_PATIENCE = 300.0
#: Seconds without work after which a cordoned runner ends at the latest: time to be told that it is wanted back.
CORDONED_PATIENCE = 1.0
#: Seconds before EC2 takes a machine that are kept for handing back what did not finish, and for powering off.
NOTICE_MARGIN = 15.0
#: Every kind of ending, in words.
ENDING_KINDS = {
    "boot": "it never came up",
    "cordoned": "idle, and told to take no more work",
    "idle": "without work",
    "no_broker": "without broker for too long",
    "old": "`max_lifetime`",
    "other": "it gave no reason, or one of its own",
    "reaped": "a parent ended it",
    "rebalance": "EC2 recommended it",
    "recalled": "needed no more before it was up",
    "single_use": "`single_use`",
    "spot": "EC2 took the machine",
    "told": "an operator or a signal told it to",
}
#: How the reasons of a kind begin, and how one of them ends.
BEGINNINGS = {
    "idle": "idle for ",
    "no_broker": "no broker ",
    "old": "it lived ",
    "reaped": "reaped: ",
    "rebalance": "rebalance ",
    "recalled": "recalled",
    "single_use": "single use: ",
    "spot": "spot interruption ",
    "told": "told by ",
}
CORDONED = ", cordoned"
#: The reason of who was recalled.
RECALLED = "recalled: needed no more before it was up"


def kind_of(reason: str) -> str:
    """Return which of ENDING_KINDS a reason is of that a runner gave, or that its reaper gave."""
    if reason.endswith(CORDONED):
        return "cordoned"
    return next((kind for kind, words in BEGINNINGS.items() if reason.startswith(words)), "other")


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """What a runner knows of itself. Moments are seconds of one monotonic clock; None where it did not happen.

    `quiet_since` is when nothing was active or reserved any more; `taken` counts tasks accepted since the start;
    `cordoned` says that no more of them are taken. `told` says who told it to end, `taken_away_at` is when EC2 takes
    the machine, `rebalance` whether EC2 thinks that likely.
    """

    started_at: float
    hello_at: float | None = None
    quiet_since: float | None = None
    disconnected_since: float | None = None
    taken: int = 0
    slots: int = 1
    cordoned: bool = False
    told: str = ""
    taken_away_at: float | None = None
    rebalance: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """Why a runner ends. Work that slips in at the last moment keeps one that is merely `idle`.

    `noticed` is an end that EC2 announced: then running tasks have until it comes, whatever `shutdown_timeout` is.
    """

    reason: str
    idle: bool = False
    noticed: bool = False


def reason_to_end(vitals: Vitals, limits: Limits, now: float) -> Ending | None:
    """Return why the runner must end now, or None. `now` is of the clock the vitals are of."""
    if vitals.taken_away_at is not None:
        left = max(0.0, vitals.taken_away_at - now)
        return Ending(reason=f"spot interruption notice: EC2 takes the machine in {left:.0f} s", noticed=True)
    reason = vitals.told or _too_old(vitals, limits, now) or _without_broker(vitals, limits, now)
    if not reason and limits.single_use and vitals.taken >= vitals.slots:
        reason = f"single use: {vitals.taken} tasks taken by {vitals.slots} slots"
    if not reason and vitals.rebalance and limits.end_on_rebalance:
        reason = "rebalance recommendation (end_on_rebalance)"
    return Ending(reason=reason) if reason else _idle(vitals, limits, now)


def drain_until(ending: Ending, vitals: Vitals, limits: Limits, began_at: float) -> float:
    """Return until when running tasks may finish, in a drain that began at `began_at`."""
    until = began_at + limits.shutdown_timeout
    if vitals.taken_away_at is None:
        return until
    noticed = vitals.taken_away_at - NOTICE_MARGIN
    return noticed if ending.noticed else min(until, noticed)


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
    if vitals.cordoned:
        patience = CORDONED_PATIENCE if patience is None else min(patience, CORDONED_PATIENCE)
    if vitals.quiet_since is None or vitals.disconnected_since is not None or patience is None:
        return None
    quiet, name = now - vitals.quiet_since, CORDONED if vitals.cordoned else ""
    return Ending(reason=f"idle for {quiet:.0f} s{name}", idle=True) if quiet >= patience else None
