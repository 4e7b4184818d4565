"""How often does a runner put a task back whose process was lost, and how long does it keep a message?"""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from billiard.einfo import ExceptionWithTraceback
from celery import Celery, bootsteps
from celery.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from kombu.utils.imports import symbol_by_name

logger = logging.getLogger(__name__)

#: Processes that one task may take with it on one runner before it fails. Celery puts it back for ever, and each
#: time it keeps a machine.
LOSSES = 3
#: Seconds RabbitMQ waits for an acknowledgement, looking every 60, before it closes the channel, which Celery's worker
#: does not survive. https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
CONSUMER_TIMEOUT = 1800.0
#: Seconds SQS waits before it gives the message to another worker too, where the app does not say: kombu's default.
VISIBILITY_TIMEOUT = 1800.0


def broker_waits(app: Celery) -> float | None:
    """Return for how many seconds the broker waits for an acknowledgement; None where a runner may take any time."""
    driver: str = app.connection_for_read().transport.driver_type
    if driver == "sqs":
        return float((app.conf.broker_transport_options or {}).get("visibility_timeout", VISIBILITY_TIMEOUT))
    return CONSUMER_TIMEOUT if driver == "amqp" else None


class Custody:
    """The messages that a runner's worker took and did not acknowledge. Belongs to the consumer's thread."""

    def __init__(
        self, *, waits: float | None, losses: int = LOSSES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make one for a broker that waits so many seconds for an acknowledgement, or without bound."""
        self.waits = waits
        self._losses, self._clock = losses, clock
        self._lost: Counter[str] = Counter()
        self._taken: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._given_back: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self._late: frozenset[str] = frozenset()

    def take_over(self, app: Celery, late: Collection[str]) -> None:
        """Watch over all requests of this app's tasks, before the worker starts.

        `late` names those that nobody but the runner wanted to be acknowledged late.
        """
        self._late = frozenset(late)
        for task in app.tasks.values():
            task.Request = guarded(symbol_by_name(task.Request), self)

    def take(self, request: Any) -> None:
        """A message came."""
        self._taken[request] = self._clock()

    def was_given_back(self, request: Any) -> bool:
        """Tell whether its message is the broker's again, so that it must not run here."""
        return request in self._given_back

    def is_hopeless(self, request: Any) -> bool:
        """Count one more process that a task took with it; tell whether it is time to give it up."""
        if state.should_stop is not None or state.should_terminate is not None:
            return False  # it is the worker that ends its processes
        self._lost[request.id] += 1
        return self._lost[request.id] >= self._losses

    def begin(self) -> None:
        """A connection was made: what came over the one before is the broker's again."""
        self._taken.clear()

    def look(self) -> None:
        """Let go of what the broker will not wait for: what runs is acknowledged, what waits for its turn goes back."""
        patience = (self.waits or float("inf")) * 5 / 6
        due = self._clock() - patience
        for request in [request for request, at in self._taken.items() if at <= due and not request.acknowledged]:
            # Only Celery's own note tells what is in the pool already from what waits for a free process.
            if request._apply_result is None:
                logger.info("flame: gave %s back, which waited here for %g s", request, patience)
                self._given_back[request] = True
                request.reject(requeue=True)
                state.task_ready(request)
            elif request.task.name in self._late:
                logger.info("flame: acknowledged %s, which still runs after %g s", request, patience)
                request.acknowledge()


def guarded(base: type, custody: Custody) -> type:
    """Return Celery's class of requests, or a task's own, under custody."""

    class Request(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            custody.take(self)

        def revoked(self) -> bool:
            if custody.was_given_back(self):
                state.task_ready(self)
                return True
            return bool(super().revoked())

        def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
            exc = _cause(exc_info)
            lost = isinstance(exc, (WorkerLostError, SystemExit, KeyboardInterrupt))
            if isinstance(exc, MemoryError):
                exc_info = _survivable(exc_info, exc)
            hopeless = lost and custody.is_hopeless(self)
            if hopeless:
                logger.error("flame: %s took its process with it too often: it fails", self)
            with _kept_from_coming_back(self.task) if hopeless else contextlib.nullcontext():
                return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    return Request


def _cause(exc_info: Any) -> BaseException:
    exc: BaseException = exc_info.exception
    return exc.exc if isinstance(exc, ExceptionWithTraceback) else exc


def _survivable(exc_info: Any, exc: MemoryError) -> Any:
    """Return the failure as one of any other kind: for a MemoryError of a task Celery ends the worker, without an
    acknowledgement, and so would the next worker that gets the message."""
    told = copy.copy(exc_info)
    told.exception = RuntimeError(f"MemoryError: {exc}")
    return told


@contextlib.contextmanager
def _kept_from_coming_back(task: Any) -> Iterator[None]:
    """Let a lost process be a failure like any other, for this once."""
    before, task.reject_on_worker_lost = task.reject_on_worker_lost, False
    try:
        yield
    finally:
        task.reject_on_worker_lost = before


class CustodyStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Lets the worker's loop look for messages that the broker will not wait for."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, flame_custody: Custody | None = None, **options: Any) -> None:
        self._custody = flame_custody
        self._timer: Any = None
        super().__init__(consumer, **options)

    def include_if(self, _: Any) -> bool:
        """On Redis nothing that a living runner holds is redelivered."""
        return self._custody is not None and self._custody.waits is not None

    def start(self, consumer: Any) -> None:
        """The worker connected."""
        if self._custody is not None and self._custody.waits is not None:
            self._custody.begin()
            self._timer = consumer.timer.call_repeatedly(self._custody.waits / 30, self._custody.look)

    def stop(self, _: Any) -> None:
        """The worker is about to close its channels, or lost them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
