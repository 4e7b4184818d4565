"""Which states did every instance pass through, and why?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

ALIVE = frozenset({"pending", "running"})  #: what EC2 bills, or is about to
ENDED = frozenset({"terminated", "stopped"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Transition:
    """An instance came into a state; `time` as time.time() gives it."""

    time: float
    instance_id: str
    state: str
    cause: str


class History:
    """Every transition in order. Whoever waits is woken by each, and by `poke`."""

    def __init__(self, on_transition: Callable[[Transition], None] | None = None) -> None:
        self._events: list[Transition] = []
        self._changed = threading.Condition()
        self._on_transition = on_transition

    def add(self, instance_id: str, state: str, cause: str) -> None:
        transition = Transition(time=time.time(), instance_id=instance_id, state=state, cause=cause)
        with self._changed:
            self._events.append(transition)
            self._changed.notify_all()
        if self._on_transition is not None:
            self._on_transition(transition)

    def poke(self) -> None:
        """Let those who wait look again: something other than a state changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def events(self) -> list[Transition]:
        with self._changed:
            return list(self._events)

    def states(self) -> dict[str, Transition]:
        """Return the last transition of every instance, in the order of launch."""
        return {event.instance_id: event for event in self.events}

    @property
    def alive(self) -> int:
        return sum(event.state in ALIVE for event in self.states().values())

    @property
    def peak(self) -> int:
        """Return the most instances that were pending or running at once."""
        alive: set[str] = set()
        most = 0
        for event in self.events:
            (alive.add if event.state in ALIVE else alive.discard)(event.instance_id)
            most = max(most, len(alive))
        return most

    def wait(self, condition: Callable[[], T | None], *, what: str, timeout: float) -> T:
        """Return the condition's first true value; fail naming `what` after `timeout` seconds.

        The condition is asked under this history's lock: it may look here and at consoles, not at EC2.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not (value := condition()):
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise AssertionError(f"{what}: did not happen within {timeout:g} s\n{self._told()}")
            return value

    def _told(self) -> str:
        return "\n".join(f"{e.time:.2f} {e.instance_id} {e.state} ({e.cause})" for e in self.events)
