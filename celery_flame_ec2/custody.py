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
#: Seconds a message may be unacknowledged. RabbitMQ closes the channel after 1800, looking every 60, and Celery's
#: worker does not survive that. https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
PATIENCE = 1500.0
#: Seconds between two looks for such a message.
LOOK = 60.0


class Custody:
    """The messages that a runner's worker took and did not acknowledge. Belongs to the consumer's thread."""

    def __init__(
        self,
        *,
        losses: int = LOSSES,
        patience: float = PATIENCE,
        look: float = LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.every = look
        self._losses, self._patience, self._clock = losses, patience, clock
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
        """Let go of what RabbitMQ would close the channel for: what runs is acknowledged, what waits goes back."""
        due = self._clock() - self._patience
        for request in [request for request, at in self._taken.items() if at <= due and not request.acknowledged]:
            # Only Celery's own note tells what is in the pool already from what waits for a free process.
            if request._apply_result is None:
                logger.info("flame: gave %s back: it waited here for %g s", request, self._patience)
                self._given_back[request] = True
                request.reject(requeue=True)
                state.task_ready(request)
            elif request.task.name in self._late:
                logger.info("flame: acknowledged %s, which still runs after %g s", request, self._patience)
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
    """Lets the worker's loop look after its messages where the broker does not wait for them without bound."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, flame_custody: Custody | None = None, **options: Any) -> None:
        self._custody = flame_custody
        self._timer: Any = None
        super().__init__(consumer, **options)

    def include_if(self, consumer: Any) -> bool:
        """Only RabbitMQ is that impatient."""
        return self._custody is not None and consumer.app.connection_for_read().transport.driver_type == "amqp"

    def start(self, consumer: Any) -> None:
        """The worker connected."""
        if self._custody is not None:
            self._custody.begin()
            self._timer = consumer.timer.call_repeatedly(self._custody.every, self._custody.look)

    def stop(self, _: Any) -> None:
        """The worker is about to close its channels, or lost them."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
