"""What do parents do, by a test's clock?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery

from ..backends.base import Backend
from ..config import Settings
from ..errors import FlameError
from ..lease.base import LOOK, RENEW, Lease
from ..service import Service, copied_policy
from .backend import MemoryBackend
from .store import Cell, MemoryStore
from .watch import MemoryWatch
from .world import World


class TestedService(Service):
    """The very service, which also keeps what it met that nobody raised on purpose."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.unexpected: list[Exception] = []

    def _complain(self, about: str, exc: Exception) -> None:
        if not isinstance(exc, FlameError):
            self.unexpected.append(exc)
        super()._complain(about, exc)


class RunningParent:
    """One parent, as `flame serve` is one: it renews its lease, and does a round each `flame_interval`."""

    def __init__(
        self, settings: Settings, world: World, cell: Cell, after_round: Callable[[RunningParent], None]
    ) -> None:
        clock = world.clock
        self.runs = True
        self.lease = Lease(MemoryStore(cell), clock=clock)
        watch: Any = MemoryWatch(world, clock)
        self._watch, self._clock, self._interval = watch, clock, settings.interval
        self._after_round = after_round
        backend: Backend = MemoryBackend(settings, world)
        # The app's own broker is left alone: nothing of a test goes there.
        app = Celery("flame", broker="memory://", set_as_current=False)
        self.service = TestedService(
            app, settings, backend, lease=self.lease, watch=watch, clock=clock, monotonic=clock,
            policy=copied_policy(settings.policy),
        )  # fmt: skip
        self._renew()
        watch.listen(0.0)
        self._round()

    def kill(self) -> None:
        """End it as SIGKILL would: the lease runs out by itself."""
        self.runs = False

    def stop(self) -> None:
        """End it as its user would: another may act at once."""
        self.runs = False
        self.lease.release()
        self.service.close()

    def _renew(self) -> None:
        if self.runs:
            self.lease.renew()
            self._clock.later(RENEW if self.lease.holds() else LOOK, self._renew)

    def _round(self) -> None:
        if self.runs:
            self.service.tick()
            self._watch.listen(0.0)
            self._after_round(self)
            self._clock.later(self._interval, self._round)
