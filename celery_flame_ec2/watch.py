"""What does the broker say: of its queues, and of the runners that speak through it, or else what does the board?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from celery import Celery
from kombu.connection import Connection

from .board import open_board
from .board.reader import LOOK_EVERY, Reader
from .broker import has_fanout, open_connection
from .errors import DemandUnknown, OrderError
from .holdings import Holdings
from .orders import Order, send, unavailable
from .presence import INSTANT, Presence, Word
from .queues import Measurement, measure, published
from .runner import Runner

#: Seconds any one wait for the broker may last.
BROKER_TIMEOUT = 5.0


class Watch:
    """One parent's eyes and ears at the broker, on connections of its own. Used by one thread."""

    def __init__(
        self,
        app: Celery,
        *,
        owner: str,
        board: str = "",
        holdings: Holdings | None = None,
        look_every: float = LOOK_EVERY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Watch a broker, and where it carries no words the `board`; that one is read every `look_every` seconds.

        In `holdings` runners are recalled; who gives it closes it.
        """
        self._app = app
        self._connection: Connection = open_connection(app, timeout=BROKER_TIMEOUT)
        self._holdings = holdings
        self._presence: Presence | None = None
        self._reader: Reader | None = None
        if has_fanout(self._connection):
            self._presence = Presence(
                app, owner=owner, connect=lambda: open_connection(app, timeout=BROKER_TIMEOUT), clock=clock
            )
        elif board:
            self._reader = Reader(open_board(board), owner=owner, clock=clock, every=look_every)

    def published(self, queues: Sequence[str]) -> dict[str, float]:
        """Return when the message that waits longest was published, by queue, where anything tells it.

        Raises:
            DemandUnknown: the broker did not say.
        """
        return published(self._connection, queues)

    def measure(self, queues: Sequence[str]) -> Measurement:
        """Return how deep these queues are.

        Raises:
            DemandUnknown: the broker did not say.
        """
        try:
            return measure(self._connection, queues)
        except DemandUnknown:
            if self._presence is not None:
                self._presence.close()  # a broker that stands still drops no connection, and its silence says nothing
            raise

    def must_reach(self) -> None:
        """Raise OrderError where runners cannot be told anything."""
        if self._reader is None and (trouble := unavailable(self._app, self._connection)):
            raise OrderError(trouble)

    def order(self, order: Order, *, queues: Sequence[str], runner_ids: Collection[str]) -> None:
        """Tell runners to take no more work from these queues, or to take it again; those never heard are left out.

        Raises:
            OrderError: they cannot be told.
        """
        if self._reader is not None:
            self._reader.order(order, runner_ids)
            return
        words = self.words
        nodes = [words[runner_id].node for runner_id in runner_ids if runner_id in words and words[runner_id].node]
        send(self._app, self._connection, order, queues=queues, nodes=nodes)

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]:
        """Keep runners that boot from ever working; return those that will not. The others may be at work already.

        Raises:
            HoldingsError: the broker did not answer; some may be kept from it.
        """
        return self._holdings.recall(runner_ids) if self._holdings is not None else frozenset()

    def hears(self, pool: str) -> bool:
        """Tell whether runners of a pool can be heard at all, as far as is known."""
        return self._presence is not None or (self._reader is not None and self._reader.hears(pool))

    @property
    def since(self) -> float | None:
        """When runners began to be heard, in seconds since the epoch; None while they are not."""
        if self._presence is not None:
            return self._presence.listening_since
        return self._reader.since if self._reader is not None else None

    def attends(self, runners: Collection[Runner]) -> Mapping[str, float | None]:
        """Return since when each of these would have been heard had it spoken; None where its silence says nothing."""
        if self._reader is not None:
            return self._reader.attends(runners)
        return dict.fromkeys((runner.id for runner in runners), self.since)

    @property
    def words(self) -> Mapping[str, Word]:
        """The last word of each runner, by runner id."""
        heard = self._presence or self._reader
        return heard.words if heard is not None else {}

    def listen(self, seconds: float) -> bool:
        """Hear what comes within `seconds`; return at once, and False, where nothing comes by itself."""
        return self._presence is not None and self._presence.listen(seconds)

    def wait(self, seconds: float) -> None:
        """Hear runners for so long; returns early where no more can be heard by waiting."""
        if self._reader is not None:
            if not self._reader.look():
                time.sleep(seconds)
            return
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.listen(max(left, INSTANT)) and self.since is None:
                return

    def catch_up(self, *, anew: bool = False) -> None:
        """Hear everything that came while nobody listened; `anew` also where a board was read a moment ago."""
        if self._presence is not None:
            self._presence.catch_up()
        if self._reader is not None:
            self._reader.look(anew=anew)

    def keep(self, runner_ids: Collection[str]) -> None:
        """Forget the words of all runners but these."""
        if self._presence is not None:
            self._presence.forget(self._presence.words.keys() - set(runner_ids))
        if self._reader is not None:
            self._reader.keep(runner_ids)

    def tidy(self) -> None:
        """Leave nothing behind of runners that are gone for long; for the parent that acts."""
        if self._reader is not None:
            self._reader.tidy()

    def close(self) -> None:
        """Let go of the broker."""
        if self._presence is not None:
            self._presence.close()
        if self._reader is not None:
            self._reader.close()
        self._connection.release()
