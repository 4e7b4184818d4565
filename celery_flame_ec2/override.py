"""What did an operator decide for a pool, and what becomes of a plan then? Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from .config import PoolSettings, Settings
from .errors import OverrideError
from .policy import Plan

#: What gives a pool's number back to its policy.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A pool that is `paused` launches nothing; one with `wanted` has so many runners, whatever its policy wants.

    `by` whom and when (`at`, in seconds since the epoch) it was last changed.
    """

    paused: bool = False
    wanted: int | None = None
    by: str = ""
    at: float = 0.0

    def __bool__(self) -> bool:
        """Tell whether anything is decided."""
        return self.paused or self.wanted is not None

    def __str__(self) -> str:
        """Say what is decided, and by whom; empty where nothing is."""
        held = [] if self.wanted is None else [f"held at {self.wanted}"]
        said = " and ".join([*held, *(["paused"] if self.paused else [])])
        return f"{said} by {self.by}" if said else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What an operator asks for these pools: `changes` of their overrides."""

    pools: tuple[str, ...]
    changes: tuple[tuple[str, Any], ...]
    by: str

    def applied(self, before: Override, now: float) -> Override:
        """Return the override with what is asked for."""
        return dataclasses.replace(before, **dict(self.changes), by=self.by, at=round(now, 1))


def pause(settings: Settings, pool: str | None, *, by: str, paused: bool = True) -> Request:
    """Ask that one pool launches nothing, or all of them; or with `paused` False that they launch again.

    Raises:
        SettingsError: there is no such pool.
    """
    pools = settings.pools if pool is None else (settings.pool(pool),)
    return Request(pools=tuple(each.name for each in pools), changes=(("paused", paused),), by=by)


def scale(settings: Settings, pool: str, number: str, *, by: str) -> Request:
    """Ask that a pool has so many runners, within its `min` and `max`, or as its policy wants: `auto`.

    Raises:
        SettingsError: there is no such pool.
        OverrideError: it cannot have so many.
    """
    chosen = settings.pool(pool)
    wanted = None if number == AUTO else _number(chosen, number)
    return Request(pools=(pool,), changes=(("wanted", wanted),), by=by)


def _number(pool: PoolSettings, number: str) -> int:
    if number.isascii() and number.isdigit() and pool.min <= int(number) <= pool.max:
        return int(number)
    bounds = f"a whole number from {pool.min} (min) to {pool.max} (max)"
    raise OverrideError(f"pool {pool.name!r}: the number of runners must be {bounds} or {AUTO!r}, got {number!r}")


def bounded(pool: PoolSettings, override: Override) -> PoolSettings:
    """Return the pool as its policy shall see it: a number it is held at is min and max at once."""
    if override.wanted is None:
        return pool
    wanted = min(pool.max, max(pool.min, override.wanted))  # the settings may have changed since
    return dataclasses.replace(pool, min=wanted, max=wanted)


def explained(plan: Plan, override: Override) -> Plan:
    """Return the plan with what an operator decided in its reason; of a paused pool it launches nothing."""
    if not override:
        return plan
    plan = dataclasses.replace(plan, reason=f"{plan.reason}; {override}")
    if not override.paused:
        return plan
    # With nothing wanted no unanswered launch is asked for again either.
    return dataclasses.replace(plan, launch=0, warm=0, wanted=None, held=plan.held or plan.launch > 0)


def dumped(override: Override) -> str | None:
    """Return it as text for a store; None where nothing is decided."""
    return json.dumps(dataclasses.asdict(override)) if override else None


def loaded(text: str) -> Override:
    """Read what `dumped` wrote.

    Raises:
        OverrideError: it is not that.
    """
    try:
        found = json.loads(text)
        wanted, at = found["wanted"], float(found["at"])
        if type(found["paused"]) is not bool or not (wanted is None or type(wanted) is int) or not math.isfinite(at):
            raise ValueError(text)
    except (KeyError, TypeError, ValueError) as exc:
        raise OverrideError(f"an operator's decision cannot be read: {text[:200]}") from exc
    return Override(paused=found["paused"], wanted=wanted, by=str(found.get("by", "")), at=at)
