"""How does a runner keep the register told that it lives, and notice that another does not?"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.platforms import EX_OK
from celery.worker import state
from celery.worker.consumer.tasks import Tasks

from .errors import HoldingsError
from .holdings import Holdings, claim, open_holdings
from .lifetime import BROKER_PATIENCE
from .parent import Parent
from .salvage import Salvage

if TYPE_CHECKING:
    from .terminator import Terminator

logger = logging.getLogger(__name__)

#: Seconds a runner may be silent in any case.
SILENCE = 600.0
#: Seconds from the last word of a runner that was only cut off until it ended itself, beyond what its drain may take.
MARGIN = 60.0


def patience_with(letter: Parent) -> float:
    """Return after how many seconds of silence a runner is dead: one that was only cut off has ended itself by then."""
    return max(SILENCE, BROKER_PATIENCE + letter.limits.shutdown_timeout + MARGIN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Seconds between two words to the register, and between two looks at the others (by chance up to a quarter more
    or less); `patience` is the silence after which others take this runner for dead."""

    beat: float = 10.0
    look: float = 60.0
    patience: float = SILENCE


class Keeper:
    """Keeps one runner registered while it lives, from a thread of its own: what ends the runner never waits for it,
    and the worker's loop only when it connects."""

    def __init__(
        self,
        letter: Parent,
        runner_id: str,
        holdings: Holdings,
        salvage: Salvage,
        *,
        place: str,
        times: Times | None = None,
    ) -> None:
        """Make a keeper. `place` is of the listings that show the runner; `salvage` looks for others that are dead."""
        self._letter, self._runner_id = letter, runner_id
        self._place = place
        self._holdings, self._salvage = holdings, salvage
        self._times = times or Times()
        self._lock = threading.Lock()
        self._begun = self._silent = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self.run, name="flame-keeper", daemon=True)

    def begin(self) -> bool:
        """Register before anything is consumed, also after the broker was lost, and give back what was lost with it.

        False where the parent recalled this runner before: then nothing may be consumed.

        Raises:
            HoldingsError: Redis does not answer.
        """
        with self._lock:
            if not self._register():
                return False
            running = {request.message.delivery_tag for request in tuple(state.active_requests)}
            count = self._holdings.give_back(self._runner_id, self._letter.queues, keep=running)
        if count:
            logger.info("flame: gave back %d messages of the connection before", count)
        if not self._thread.is_alive():
            self._thread.start()
        return True

    def stop(self) -> None:
        """The worker is over: leave nothing behind. Where Redis does not answer, another will see to it."""
        self._over.set()
        if not self._thread.ident:
            return
        self._thread.join(timeout=self._times.beat)
        try:
            with self._lock:
                count = self._holdings.give_back(self._runner_id, self._letter.queues)
                self._holdings.forget(self._runner_id)
        except HoldingsError as exc:
            logger.warning("flame: what this runner held is left to others: %s", exc)
        else:
            if count:
                logger.info("flame: gave back %d messages that the worker left", count)

    def run(self) -> None:
        """Say again and again that this runner lives, and look now and again whether the others do."""
        look_at = self._next_look()
        while not self._over.wait(self._times.beat):
            try:
                with self._lock:
                    self._register()
                if time.monotonic() >= look_at:
                    look_at = self._next_look()
                    self._salvage.look()
                    self._salvage.close()  # a connection of each runner for what it does once a minute is too many
                self._silent = False
            except Exception as exc:  # noqa: BLE001  the thread must outlive it, or others take this runner for dead
                self._complain(exc)

    def _register(self) -> bool:
        self._begun = self._holdings.register(
            self._runner_id,
            queues=self._letter.queues,
            place=self._place,
            patience=self._times.patience,
            again=self._begun,
        )
        return self._begun

    def _next_look(self) -> float:
        return time.monotonic() + self._times.look * random.uniform(0.75, 1.25)  # noqa: S311  not all at once

    def _complain(self, exc: Exception) -> None:
        log = logger.debug if self._silent else logger.warning  # once: Redis may be away for long
        log("flame: the register of runners: %s", exc, exc_info=None if isinstance(exc, HoldingsError) else exc)
        self._silent = True


def open_keeper(app: Celery, letter: Parent, runner_id: str, *, place: str) -> Keeper | None:
    """Claim what this runner will hold of a Redis broker; None where the broker keeps account itself.

    To be called before the worker is made, which reads the app's transport options.
    """
    mine, others = open_holdings(app, letter.owner), open_holdings(app, letter.owner)
    if mine is None or others is None or not claim(app, letter.owner, runner_id):
        return None
    times = Times(patience=patience_with(letter))
    return Keeper(letter, runner_id, mine, Salvage(others), place=place, times=times)


class KeeperStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Registers the runner each time its worker connected: Celery begins to consume after the last step has started."""

    requires = (Tasks,)

    def __init__(
        self,
        consumer: Any,
        flame_keeper: Keeper | None = None,
        flame_terminator: Terminator | None = None,
        **options: Any,
    ) -> None:
        self._keeper, self._terminator = flame_keeper, flame_terminator
        super().__init__(consumer, **options)

    def include_if(self, _: Any) -> bool:
        """Only a worker that `flame child` started on Redis has a keeper."""
        return self._keeper is not None

    def start(self, consumer: Any) -> None:
        """The worker connected."""
        if self._keeper is None:
            return
        try:
            begun = self._keeper.begin()
        except HoldingsError as exc:
            raise ConnectionError(str(exc)) from exc  # Celery's own way to connect anew
        if not begun:
            if self._terminator is not None:
                self._terminator.recalled(consumer)
            raise WorkerShutdown(EX_OK)
