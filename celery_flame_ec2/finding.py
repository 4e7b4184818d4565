"""What did one check find, and what is to be done about it?"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass


class Verdict(enum.Enum):
    """What a check says."""

    OK = "ok"
    WARNING = "warning"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of a check-up. `pools` is empty where it is of the whole deployment.

    `silent` marks what is unknown because broker or AWS did not answer: asking again may tell.
    """

    check: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    pools: tuple[str, ...] = ()
    silent: bool = False


def ok(check: str, seen: str) -> Finding:
    """Say that all is well."""
    return Finding(check=check, verdict=Verdict.OK, seen=seen)


def warning(check: str, seen: str, remedy: str) -> Finding:
    """Say that it will work, and what it costs."""
    return Finding(check=check, verdict=Verdict.WARNING, seen=seen, remedy=remedy)


def unknown(check: str, seen: str, remedy: str, *, silent: bool = False) -> Finding:
    """Say that it cannot be told."""
    return Finding(check=check, verdict=Verdict.UNKNOWN, seen=seen, remedy=remedy, silent=silent)


def failed(check: str, seen: str, remedy: str, *, silent: bool = False) -> Finding:
    """Say that it cannot work."""
    return Finding(check=check, verdict=Verdict.FAILED, seen=seen, remedy=remedy, silent=silent)


def of_pools(findings: Iterable[tuple[str, Finding]], every: Collection[str]) -> list[Finding]:
    """Return what was found for single pools, each finding once; what is so for `every` pool is of no single one."""
    pools: dict[Finding, dict[str, None]] = {}
    for pool, finding in findings:
        pools.setdefault(finding, {})[pool] = None
    return [
        dataclasses.replace(finding, pools=() if named.keys() == set(every) else tuple(named))
        for finding, named in pools.items()
    ]
