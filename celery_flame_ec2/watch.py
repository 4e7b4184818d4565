"""What does the broker say: of its queues, and of the runners that speak through it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from celery import Celery
from kombu.connection import Connection

from .broker import has_fanout, open_connection
from .errors import DemandUnknown, OrderError
from .orders import Order, send, unavailable
from .presence import INSTANT, Presence, Word
from .queues import Measurement, measure

#: Seconds any one wait for the broker may last.
BROKER_TIMEOUT = 5.0


class Watch:
    """One parent's eyes and ears at the broker, on connections of its own. Used by one thread."""

    def __init__(self, app: Celery, *, owner: str, clock: Callable[[], float] = time.time) -> None:
        self._app = app
        self._connection: Connection = open_connection(app, timeout=BROKER_TIMEOUT)
        self._presence: Presence | None = None
        if has_fanout(self._connection):
            self._presence = Presence(
                app, owner=owner, connect=lambda: open_connection(app, timeout=BROKER_TIMEOUT), clock=clock
            )

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
        """Raise OrderError where runners cannot be told anything over this broker."""
        if trouble := unavailable(self._app, self._connection):
            raise OrderError(trouble)

    def order(self, order: Order, *, queues: Sequence[str], runner_ids: Collection[str]) -> None:
        """Tell runners to take no more work from these queues, or to take it again; those never heard are left out.

        Raises:
            OrderError: they cannot be told.
        """
        words = self.words
        nodes = [words[runner_id].node for runner_id in runner_ids if runner_id in words and words[runner_id].node]
        send(self._app, self._connection, order, queues=queues, nodes=nodes)

    @property
    def hears(self) -> bool:
        """Whether runners can be heard at all over this broker."""
        return self._presence is not None

    @property
    def since(self) -> float | None:
        """When runners began to be heard, in seconds since the epoch; None while they are not."""
        return self._presence.listening_since if self._presence is not None else None

    @property
    def words(self) -> Mapping[str, Word]:
        """The last word of each runner, by runner id."""
        return self._presence.words if self._presence is not None else {}

    def listen(self, seconds: float) -> bool:
        """Hear what comes within `seconds`; return at once, and False, where nothing can be heard."""
        return self._presence is not None and self._presence.listen(seconds)

    def wait(self, seconds: float) -> None:
        """Hear runners for so long; returns early where nothing can be heard."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.listen(max(left, INSTANT)) and self.since is None:
                return

    def catch_up(self) -> None:
        """Hear everything that came while nobody listened."""
        if self._presence is not None:
            self._presence.catch_up()

    def keep(self, runner_ids: Collection[str]) -> None:
        """Forget the words of all runners but these."""
        if self._presence is not None:
            self._presence.forget(self._presence.words.keys() - set(runner_ids))

    def close(self) -> None:
        """Let go of the broker."""
        if self._presence is not None:
            self._presence.close()
        self._connection.release()
