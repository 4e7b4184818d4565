"""What did an operator decide for a pool, and what becomes of a plan then? Pure."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from .config import PoolSettings, Settings
from .errors import OverrideError
from .policy import Plan

#: What gives a pool's number back to its policy.
AUTO = "auto"
#: What can be decided, of which type; each in an entry `name:pool` of its own: of two who decide at once none loses.
_KINDS = {"paused": bool, "wanted": int}


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A pool that is `paused` launches nothing; one with `wanted` has so many runners, whatever its policy wants.

    `by` whom and when (`at`, in seconds since the epoch; inf: nobody can tell) the last of it was decided.
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
    """What an operator asks for these pools: that this is decided, or (None) is no more."""

    pools: tuple[str, ...]
    decides: str
    value: bool | int | None
    by: str

    def entries(self, now: float) -> dict[str, str | None]:
        """Return what is to be written in a store for it, and what (None) is to be taken away."""
        told = json.dumps({"value": self.value, "by": self.by, "at": round(now, 1)})
        return {f"{self.decides}:{pool}": None if self.value is None else told for pool in self.pools}


@dataclass(frozen=True, kw_only=True, slots=True)
class Decisions:
    """What operators decided, by pool; or why that is `unknown`."""

    by_pool: Mapping[str, Override] = field(default_factory=dict)
    unknown: str = ""

    def of(self, pool: str, known: Override) -> Override:
        """Return what is decided for a pool, of which so much was known."""
        return known if self.unknown else self.by_pool.get(pool, Override())

    def doubt(self, pools: Container[str]) -> str:
        """Return why more may be decided than these pools know of; empty where that is all."""
        of_none = (each.by for pool, each in self.by_pool.items() if pool not in pools and math.isinf(each.at))
        return self.unknown or "; ".join(f"of no pool here: {by}" for by in sorted(of_none))


def pause(settings: Settings, pool: str | None, *, by: str, paused: bool = True) -> Request:
    """Ask that one pool launches nothing, or all of them; or with `paused` False that they launch again.

    Raises:
        SettingsError: there is no such pool.
    """
    pools = settings.pools if pool is None else (settings.pool(pool),)
    return Request(pools=tuple(each.name for each in pools), decides="paused", value=paused or None, by=by)


def scale(settings: Settings, pool: str, number: str, *, by: str) -> Request:
    """Ask that a pool has so many runners, within its `min` and `max`, or as its policy wants: `auto`.

    Raises:
        SettingsError: there is no such pool.
        OverrideError: it cannot have so many.
    """
    chosen = settings.pool(pool)
    wanted = None if number == AUTO else _number(chosen, number)
    return Request(pools=(pool,), decides="wanted", value=wanted, by=by)


def _number(pool: PoolSettings, number: str) -> int:
    if number.isascii() and number.isdigit() and len(number) < 10 and pool.min <= int(number) <= pool.max:
        return int(number)
    bounds = f"a whole number from {pool.min} (min) to {pool.max} (max)"
    raise OverrideError(f"pool {pool.name!r}: the number of runners must be {bounds} or {AUTO!r}, got {number[:40]!r}")


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


def read(entries: Mapping[str, str]) -> Decisions:
    """Return what the entries of a store say, in whatever order they were written; what cannot be read is a pause."""
    by_pool: dict[str, Override] = {}
    for entry, text in entries.items():
        kind, _, pool = entry.partition(":")
        pool = pool if kind in _KINDS else ""  # where nobody could take it away
        by_pool[pool] = _with(by_pool.get(pool, Override()), kind, entry, text)
    return Decisions(by_pool=by_pool)


def _with(before: Override, kind: str, entry: str, text: str) -> Override:
    try:
        found = json.loads(text)
        value, by, at = found["value"], str(found["by"]), float(found["at"])
        if type(value) is not _KINDS[kind] or not math.isfinite(at):
            raise ValueError(text)
    except (KeyError, OverflowError, RecursionError, TypeError, ValueError):
        # It may be a pause; whoever decides this anew takes it away.
        by = f"an entry that cannot be read: {entry!r}: {text[:80]!r}"
        return dataclasses.replace(before, paused=True, by=by, at=math.inf)
    last = before if before.at > at else Override(by=by, at=at)
    decided: dict[str, Any] = {kind: value}
    return dataclasses.replace(before, by=last.by, at=last.at, **decided)
