"""What does the parent that acts leave for the one after it, and for whoever looks?"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import LeaseDenied, LeaseError
from .lease import Lease
from .override import Decisions, Request, read
from .policy import Failures
from .runner import Launch

logger = logging.getLogger(__name__)

#: How a note's name begins: what it is about follows.
LAUNCH, POOL = "launch:", "pool:"
LEADER = "leader"
#: Of a pool's runners that ended, so many are remembered, each with so many characters of its reason.
ENDINGS, LONGEST_REASON = 5, 200
#: Seconds that an instance is billed for however soon it ends.
LEAST_BILLED = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A runner that is gone and why, `at` in seconds since the epoch; older parents did not note what it was."""

    runner_id: str
    reason: str
    at: float
    launched_at: float | None = None
    instance_type: str | None = None
    market: str | None = None
    zone: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Seconds that `runners` are billed for which ended `since`, in seconds since the epoch."""

    since: float = 0.0
    runners: int = 0
    seconds: float = 0.0

    def after(self, launched_at: float, now: float) -> Bill:
        """Add one that is gone."""
        seconds = round(self.seconds + billed(launched_at, now), 1)
        return Bill(since=self.since or round(now, 1), runners=self.runners + 1, seconds=seconds)


def billed(launched_at: float, now: float) -> float:
    """Return for how many seconds EC2 bills a Linux instance: each one, and at least a minute."""
    return max(LEAST_BILLED, now - launched_at)


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """What a pool's queue taught until `at`, in seconds since the epoch.

    Tasks run for `runtime` seconds on average, None while too few were seen to end; `arriving` come a second, and a
    boot takes `boot` seconds.
    """

    at: float
    runtime: float | None
    boot: float
    arriving: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How it stands with one pool: its failed launches, the last decision that changed something, and what it learned.

    `settings` tells with which settings that was. `endings` are the last runners that ended, the newest last, and
    `bill` is for all of them; `release` is what the next ones run.
    """

    failures: Failures = field(default_factory=Failures)
    decision: str = ""
    decided_at: float = 0.0
    settings: str = ""
    endings: tuple[Ended, ...] = ()
    learned: Learned | None = None
    bill: Bill = field(default_factory=Bill)
    release: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What was found: launches no listing may show yet, who acts (or did), and by pool's name how it stands with it
    and what operators decided."""

    launches: tuple[Launch, ...] = ()
    standings: Mapping[str, Standing] = field(default_factory=dict)
    leader: str = ""
    decisions: Decisions = field(default_factory=Decisions)


class Notes:
    """Kept beside the lease, by the parent that holds it; without a store nothing is kept.

    EC2 lists a launch only a while after it was asked for. A parent that takes over within that while knows of it by
    its note alone, which is written before anything is asked for: so `max` holds across parents.
    """

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._left: dict[str, str] = {}
        self._standings: Mapping[str, Standing] = {}

    def read(self) -> Left:
        """Return what the parent before left.

        Raises:
            LeaseError: the store did not answer.
        """
        self._left = self._lease.notes()
        launches = _named(self._left, LAUNCH)
        self._standings = {name: _standing(note) for name, note in _named(self._left, POOL).items()}
        return Left(
            launches=tuple(_launch(token, note) for token, note in launches.items()),
            standings=self._standings,
            leader=str(_loaded(self._left.get(LEADER, "{}")).get("at", "")),
            decisions=read_overrides(self._lease),
        )

    def announce(self, launch: Launch) -> None:
        """Leave a note of a launch that is about to be asked for.

        Raises:
            LeaseError: it could not be left, or this parent does not hold the lease.
        """
        self._write({LAUNCH + launch.token: json.dumps({"pool": launch.pool, "count": launch.count})})

    def keep(self, in_flight: Iterable[str], standings: Mapping[str, Standing]) -> None:
        """Take away the notes of launches that are not in flight any more, and tell how it stands; one write, if any.

        Raises:
            LeaseError: the store did not answer, or this parent does not hold the lease.
        """
        flying = {LAUNCH + token for token in in_flight}
        changes: dict[str, str | None] = {
            name: None for name in self._left if name.startswith(LAUNCH) and name not in flying
        }
        now = {
            POOL + name: json.dumps(dataclasses.asdict(standing))
            for name, standing in standings.items()
            if standing != self._standings.get(name)
        }
        now[LEADER] = json.dumps({"at": me()})
        changes.update((name, text) for name, text in now.items() if self._left.get(name) != text)
        self._write(changes)
        self._standings = dict(standings)

    def _write(self, changes: Mapping[str, str | None]) -> None:
        if not changes:
            return
        try:
            self._lease.note(changes)
        except LeaseError:  # it may have been written all the same: then it is to be taken away, or told again
            self._left.update((name, "") for name, text in changes.items() if text is not None)
            self._standings = {}
            raise
        for name, text in changes.items():
            if text is None:
                self._left.pop(name, None)
            else:
                self._left[name] = text


def read_overrides(lease: Lease) -> Decisions:
    """Return what operators decided; anybody may. To who is refused it that is unknown.

    Raises:
        LeaseError: the store did not answer.
    """
    try:
        return read(lease.overrides())
    except LeaseDenied as exc:
        return Decisions(unknown=str(exc))


def write_overrides(lease: Lease, request: Request, now: float) -> None:
    """Note what an operator asks for; anybody may.

    Raises:
        LeaseError: the store did not answer, or refused.
    """
    lease.override(request.entries(now))


def me() -> str:
    """Return how this process is named as the parent that acts."""
    return f"{socket.gethostname()}, pid {os.getpid()}"


def _named(notes: Mapping[str, str], start: str) -> dict[str, dict[str, Any]]:
    return {name.removeprefix(start): _loaded(text) for name, text in notes.items() if name.startswith(start)}


def _launch(token: str, note: Mapping[str, Any]) -> Launch:
    count = note.get("count")
    return Launch(token=token, pool=str(note.get("pool", "")), count=count if isinstance(count, int) else 0)


def _loaded(text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except ValueError:
        note = None
    if not isinstance(note, dict):
        logger.warning("a note that no parent of this version writes was left out")
        return {}
    return note


def _standing(note: Mapping[str, Any]) -> Standing:
    try:
        failures = Failures(**note.get("failures", {}))
    except TypeError:  # written by another version
        failures = Failures()
    return Standing(
        failures=failures,
        decision=str(note.get("decision", "")),
        decided_at=_moment(note.get("decided_at")),
        settings=str(note.get("settings", "")),
        endings=_endings(note.get("endings", ())),
        learned=_learned(note.get("learned")),
        bill=_bill(note.get("bill")),
        release=str(note.get("release", "")),
    )


def _moment(found: Any) -> float:
    return float(found) if isinstance(found, (int, float)) and 0 <= found < math.inf else 0.0


def _bill(found: Any) -> Bill:
    """Return it if it is whole: an older version writes none."""
    try:
        return Bill(since=float(found["since"]), runners=int(found["runners"]), seconds=float(found["seconds"]))
    except (KeyError, TypeError, ValueError):
        return Bill()


def _learned(found: Any) -> Learned | None:
    """Return it if it is whole: another version, or none, may have written it."""
    try:
        at, boot, arriving = (float(found[name]) for name in ("at", "boot", "arriving"))
        runtime = None if found["runtime"] is None else float(found["runtime"])
    except (KeyError, TypeError, ValueError):
        return None
    if not all(0 <= number < math.inf for number in (at, boot, arriving, runtime or 0.0)):
        return None
    return Learned(at=at, runtime=runtime, boot=boot, arriving=arriving)


def _endings(found: Any) -> tuple[Ended, ...]:
    try:
        return tuple(Ended(**each) for each in found)
    except TypeError:  # written by another version
        return ()
