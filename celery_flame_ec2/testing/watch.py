"""What does one parent see and hear at a broker in memory?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from ..errors import DemandUnknown, HoldingsError, OrderError
from ..orders import Order
from ..presence import ECHO, ECHO_WITHIN, Word
from ..queues import Measurement
from ..runner import Runner


class Broker(Protocol):
    """What all parents share. While `silent` it does not answer; `now` is the true time, that of words."""

    @property
    def silent(self) -> bool: ...

    def now(self) -> float: ...

    def measure(self, queues: Sequence[str]) -> Measurement: ...

    def words(self) -> Iterable[Word]: ...

    def published(self, queues: Sequence[str]) -> dict[str, float]: ...

    def order(self, order: Order, runner_ids: Collection[str]) -> None: ...

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]: ...


class MemoryWatch:
    """One parent's eyes and ears, as `Watch` promises them; `clock` is the parent's.

    While `deaf` the connection stands and brings no words, nor the listener's own.
    """

    def __init__(self, broker: Broker, clock: Callable[[], float]) -> None:
        self._broker, self.clock = broker, clock
        self._words: dict[str, Word] = {}
        self._listened_at = float("-inf")
        self._echo_at, self._echo_due = float("-inf"), float("inf")
        self.since: float | None = None
        self.deaf = False

    @property
    def words(self) -> Mapping[str, Word]:
        return self._words

    def measure(self, queues: Sequence[str]) -> Measurement:
        self._must_answer()
        return self._broker.measure(queues)

    def published(self, queues: Sequence[str]) -> dict[str, float]:
        self._must_answer()
        return self._broker.published(queues)

    def order(self, order: Order, *, queues: Sequence[str], runner_ids: Collection[str]) -> None:
        if self._broker.silent:
            raise OrderError("the broker does not answer")
        self._broker.order(order, [runner_id for runner_id in runner_ids if runner_id in self._words])

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]:
        if self._broker.silent:
            raise HoldingsError("the broker does not answer")
        return self._broker.recall(runner_ids)

    def listen(self, seconds: float) -> bool:
        if self._broker.silent:
            self.close()
            return False
        self._say_to_oneself()
        heard_from, self._listened_at = self._listened_at, self._broker.now()
        if self.deaf:
            self._notice_deafness()
            return False
        if self.since is None:
            self.since, heard_from = self.clock(), self._broker.now()
        self._echo_due = float("inf")
        fresh = (word for word in self._broker.words() if word.heard_at >= heard_from)
        self._words.update((word.runner_id, dataclasses.replace(word, heard_at=self.clock())) for word in fresh)
        return True

    def wait(self, seconds: float) -> None:
        self.listen(seconds)

    def hears(self, pool: str) -> bool:
        return True

    def attends(self, runners: Collection[Runner]) -> Mapping[str, float | None]:
        return dict.fromkeys((runner.id for runner in runners), self.since)

    def tidy(self) -> None: ...

    def catch_up(self, *, anew: bool = False) -> None:
        if self.since is not None:
            self.listen(0.0)

    def keep(self, runner_ids: Collection[str]) -> None:
        self._words = {name: word for name, word in self._words.items() if name in set(runner_ids)}

    def close(self) -> None:
        self.since = None
        self._echo_at, self._echo_due = float("-inf"), float("inf")

    def _must_answer(self) -> None:
        if self._broker.silent:
            self.close()
            raise DemandUnknown("the broker does not answer")

    def _say_to_oneself(self) -> None:
        now = self.clock()
        if now - self._echo_at >= ECHO:
            self._echo_at, self._echo_due = now, min(self._echo_due, now + ECHO_WITHIN)

    def _notice_deafness(self) -> None:
        if self.clock() > self._echo_due:
            self.close()
