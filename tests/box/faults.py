"""What goes wrong with an API call, and how often?"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One API call as it came in: parameters by their names on the wire, `key` the access key it is signed with."""

    time: float
    service: str
    action: str
    params: Mapping[str, str] = field(repr=False)
    region: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Refuse:
    """Answer with an error instead of doing it."""

    code: str
    message: str
    status: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delay:
    """Do it `seconds` later."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoseAnswer:
    """Do it, then drop the connection."""


Effect: TypeAlias = "Refuse | Delay | LoseAnswer"


@dataclass(kw_only=True, slots=True)
class Fault:
    """An effect on the next `times` calls of an action whose parameters are those of `where`; None is for ever."""

    action: str
    effect: Effect
    times: int | None
    where: Mapping[str, str]

    def strikes(self, call: Call) -> bool:
        if self.times == 0 or call.action != self.action:
            return False
        if any(call.params.get(name) != value for name, value in self.where.items()):
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """All faults in force, oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._released = threading.Event()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def release(self) -> None:
        """Give up every call that is held up: the cloud closes."""
        self._released.set()

    def effects(self, call: Call) -> list[Effect]:
        """Return what happens to this call, up to a refusal; counts as one of each such fault's times."""
        found: list[Effect] = []
        with self._lock:
            for fault in self._faults:
                if fault.strikes(call):
                    found.append(fault.effect)
                    if isinstance(fault.effect, Refuse):
                        break
        return found

    def sleep(self, seconds: float) -> None:
        if self._released.wait(seconds):
            raise ConnectionAbortedError("the cloud closed while this call was held up")
