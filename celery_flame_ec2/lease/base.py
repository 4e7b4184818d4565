"""Does this parent hold the lease now?"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from ..errors import LeaseError

logger = logging.getLogger(__name__)

#: Seconds after which a store gives the lease of a silent holder to another, and how much earlier the holder stops.
TTL, MARGIN = 10.0, 1.0
#: Seconds between two requests of who holds it, and of who would like to.
RENEW, LOOK = 3.0, 1.0
#: Seconds a store may take to answer one request.
REQUEST_TIMEOUT = 2.0
#: Seconds between two lines about the same trouble.
COMPLAIN_EVERY = 60.0
#: Seconds a parent that stops waits for a request under way.
STOP_PATIENCE = 4.0


class Store(Protocol):
    """One thing that one parent at a time can have, and notes beside it.

    Notes are read and written by one thread, and the thing itself is taken and given up by another.
    """

    #: In words for the log.
    place: str
    #: Seconds for which `take` is good, counted from before its request was sent.
    good_for: float

    def take(self) -> bool:
        """Take it, or keep it; False when another has it.

        Raises:
            LeaseError: the store did not answer, or refused.
        """

    def give_up(self) -> None:
        """Let another have it at once; the notes stay.

        Raises:
            LeaseError: the store did not answer, or refused.
        """

    def left(self) -> float:
        """Return for how many seconds somebody has it: 0 where nobody, inf where it is bound to a process.

        Asked by who does not take it himself.

        Raises:
            LeaseError: the store did not answer, or refused.
        """

    def notes(self) -> dict[str, str]:
        """Return all notes by name.

        Raises:
            LeaseError: the store did not answer, or refused.
        """

    def note(self, changes: Mapping[str, str | None]) -> None:
        """Write notes by name, and take away those that are None. Only who read the notes since it holds may.

        Raises:
            LeaseError: the store did not answer, or refused; then all or none may have been written.
        """

    def overrides(self) -> dict[str, str]:
        """Return what operators decided, by pool.

        Raises:
            LeaseError: the store did not answer, or refused.
        """

    def override(self, changes: Mapping[str, str | None]) -> None:
        """Write what an operator decided, by pool, and take away what is None; anybody may, whoever holds the lease.

        Raises:
            LeaseError: the store did not answer, or refused.
        """


class Lease:
    """Says whether this parent is the one that acts.

    What `take` granted runs out on this machine's clock alone, counted from before the request was sent: clocks need
    not agree, and a parent that was stopped past its lease knows it when it wakes. Without a store it is always held.
    """

    def __init__(self, store: Store | None = None, *, clock: Callable[[], float] | None = None) -> None:
        self._store = store
        #: Whether other processes know what is written here.
        self.shared = store is not None
        #: In words, for a log.
        self.place = store.place if store else "no lease"
        self._clock = clock or _since_boot
        self._good_until = float("-inf") if store else float("inf")
        #: Until when another has it, as the store may say; None while it is not known.
        self._others_until: float | None = None
        #: Counts the times it came to this parent: while the number stays, nobody else had it.
        self.term = 0
        self._told: int | None = None
        self._trouble = False
        self._complaint, self._complained_at = "", float("-inf")
        self._overrides: dict[str, str] = {}
        self._stop = threading.Event()

    def holds(self) -> bool:
        """Tell whether this parent may act now; asks nobody. From any thread."""
        return self._clock() < self._good_until

    def renew(self) -> bool:
        """Take the lease, or keep it; return whether it is held."""
        if self._store is None:
            return True
        sent = self._clock()
        try:
            taken = self._store.take()
            if taken and not self.holds():
                self.term += 1  # before it is held again, so that no old term is ever taken for held
            self._good_until = sent + self._store.good_for if taken else float("-inf")
            self._others_until = None if taken else sent + self._store.good_for
            self._trouble = False
        except LeaseError as exc:  # what was granted before stays good until it runs out
            self._trouble, self._others_until = True, None
            self._complain(exc)
        self._tell()
        return self.holds()

    def release(self) -> None:
        """Let another parent act at once. Nothing may be done after."""
        held, self._good_until = self.holds(), float("-inf")
        if self._store is None or not held:
            return
        try:
            self._store.give_up()
        except LeaseError as exc:
            logger.warning("the lease will be free in %g s, not at once: %s", TTL, exc)

    @property
    def left(self) -> float | None:
        """Return for how many seconds somebody has it unless it is renewed, as last heard; None where not known."""
        until = self._good_until if self.holds() else self._others_until
        return None if self._store is None or until is None else max(0.0, until - self._clock())

    def ask(self) -> None:
        """Ask the store whether somebody has it; for who never takes it.

        Raises:
            LeaseError: the store did not answer.
        """
        if self._store is not None:
            self._others_until = None  # where it does not answer
            self._others_until = self._clock() + self._store.left()

    def notes(self) -> dict[str, str]:
        """Return what its holders noted, by name; for anybody who looks.

        Raises:
            LeaseError: the store did not answer.
        """
        return {} if self._store is None else self._store.notes()

    def overrides(self) -> dict[str, str]:
        """Return what operators decided, by pool; see `Store.overrides`."""
        return dict(self._overrides) if self._store is None else self._store.overrides()

    def override(self, changes: Mapping[str, str | None]) -> None:
        """Write what an operator decided; see `Store.override`. Without a store only this process knows of it."""
        if self._store is not None:
            self._store.override(changes)
        else:
            self._overrides = kept({**self._overrides, **changes})

    def note(self, changes: Mapping[str, str | None]) -> None:
        """Note something for the next holder, or take a note away; see `Store.note`.

        Raises:
            LeaseError: the store did not answer, or the lease is not held.
        """
        if not self.holds():
            raise LeaseError("nothing is noted: this parent does not hold the lease")
        if self._store is not None:
            self._store.note(changes)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep it on a thread of its own, for a round may wait for a cloud longer than a lease is good; then release.

        The first try is over before the body begins.
        """
        self._stop.clear()
        self._try()
        keeper = threading.Thread(target=self._keep, name="flame-lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            self._stop.set()
            keeper.join(STOP_PATIENCE)
            if not keeper.is_alive():
                self.release()

    def _keep(self) -> None:
        while not self._stop.wait(RENEW if self.holds() and not self._trouble else LOOK):
            self._try()

    def _try(self) -> None:
        try:
            self.renew()
        except Exception:  # the thread must outlive whatever a store meets: without it nobody acts
            self._trouble = True
            logger.exception("the lease was not renewed")

    def _tell(self) -> None:
        term = self.term if self.holds() else 0
        if term == self._told or (self._trouble and not self._told):
            return
        if term:
            self._say("acting", "this parent acts: it holds the lease (%s)")
        elif self._told:
            self._say("lease_lost", "this parent acts no more: it lost the lease (%s)")
        else:
            self._say("standing_by", "standing by: another parent holds the lease (%s)")
        self._told = term

    def _say(self, event: str, text: str) -> None:
        logger.info(text, self.place, extra={"event": event, "reason": text % self.place})

    def _complain(self, exc: LeaseError) -> None:
        now = self._clock()
        if str(exc) != self._complaint or now - self._complained_at >= COMPLAIN_EVERY:
            self._complaint, self._complained_at = str(exc), now
            logger.error("lease: %s", exc, extra={"event": "trouble", "reason": str(exc)})


def kept(changed: Mapping[str, str | None]) -> dict[str, str]:
    """Return what is left of notes that were changed: those that are not None."""
    return {name: text for name, text in changed.items() if text is not None}


def read_notes(text: bytes, place: str) -> dict[str, str]:
    """Read notes that a store keeps as JSON.

    Raises:
        LeaseError: they are not what a parent writes.
    """
    try:
        return {str(name): str(note) for name, note in json.loads(text).items()}
    except (AttributeError, ValueError) as exc:
        raise LeaseError(f"{place} is not what a parent writes: {exc}") from exc


def new_holder() -> str:
    """Return a name for this process that no other has or will have."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"


def _since_boot() -> float:
    # Goes on while the machine sleeps, where the system has such a clock: a lease runs out meanwhile.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
