"""How does an autoscaling worker become a parent without anything else about it changing?"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import click
from celery import Celery, signals
from celery.concurrency import solo, thread
from celery.worker import autoscale, state
from click.core import ParameterSource

from . import remote  # noqa: F401  what such a worker answers, also one that `celery` did not start
from .backends import open_backend
from .config import Settings
from .errors import FlameError, PageError
from .lease import open_lease
from .log import write_json
from .parent import flame_parent
from .service import Local, Service
from .settings import is_chosen, settings_of

if TYPE_CHECKING:
    from .page import Page

logger = logging.getLogger(__name__)

#: Seconds the worker waits for the service when it stops; a call to the compute backend may take longer, and is left.
STOP_PATIENCE = 5.0


class Autoscaler(autoscale.Autoscaler):  # type: ignore[misc]
    """Celery's own autoscaler, which goes on sizing local processes, and a service beside it that sizes pools.

    The service has a thread and broker connections of its own: Celery calls `maybe_scale` on the thread that serves
    the worker's event loop, where nothing may wait.
    """

    def __init__(self, pool: Any, max_concurrency: int, min_concurrency: int = 0, worker: Any = None, **options: Any):
        super().__init__(pool, max_concurrency, min_concurrency, worker=worker, **options)
        #: What sizes pools; None in a FLAME child.
        self.service: Service | None = None
        self._page: Page | None = None
        if isinstance(getattr(worker, "app", None), Celery):
            _refuse_fixed_pool(pool)
            _do_not_hoard(worker)
            self.service = self._prepare(worker.app)
        if self.service is not None:
            self._thread = threading.Thread(target=self.service.run, name="flame-service", daemon=True)
            signals.worker_ready.connect(self._start_service)
            signals.worker_shutdown.connect(self._stop_service)

    def info(self) -> dict[str, Any]:
        """Return what `celery inspect stats` shows, of the local processes and of the pools."""
        pools = {} if self.service is None else {"flame": self.service.overview().brief()}
        return {**super().info(), **pools}

    def _prepare(self, app: Celery) -> Service | None:
        try:
            if flame_parent() is not None:
                logger.warning("this worker is a FLAME child: it launches no runners")
                return None
            settings = settings_of(app)
            self._page = _page(settings)
            if settings.log_format == "json":
                write_json()
            backend, lease = open_backend(app, settings), open_lease(app, settings)
            after_round = self._page.after_round if self._page else None
            return Service(app, settings, backend, lease=lease, local=self._processes, after_round=after_round)
        except FlameError as exc:
            raise click.ClickException(str(exc)) from exc

    def _processes(self) -> Local:
        held, processes = len(state.reserved_requests), int(self.max_concurrency)
        return Local(
            held=held,
            free=max(0, processes - held),
            queues=frozenset(self.worker.app.amqp.queues.consume_from),
            processes=processes,
            active=len(state.active_requests),
            taken=int(state.all_total_count[0]),
        )

    def _start_service(self, **_: Any) -> None:
        self._start_page()  # after the pool's processes were forked, which would hold on to the port
        self._thread.start()

    def _start_page(self) -> None:
        if self._page is not None:
            try:
                self._page.start()
                signals.worker_process_init.connect(self._leave_page)  # for those that are forked from now on
            except PageError as exc:
                logger.warning("this worker shows no status page: %s", exc)

    def _leave_page(self, **_: Any) -> None:
        if self._page is not None:
            self._page.leave()

    def _stop_service(self, **_: Any) -> None:
        if self._page is not None:
            self._page.stop()
        if self.service is not None and self._thread.is_alive():
            self.service.stop()
            self._thread.join(STOP_PATIENCE)


def _page(settings: Settings) -> Page | None:
    if settings.http is None:
        return None
    from .page import open_page  # only who wants a page pays for the imports

    return open_page(settings)


def _refuse_fixed_pool(pool: Any) -> None:
    if isinstance(pool, (solo.TaskPool, thread.TaskPool)):
        name = "solo" if isinstance(pool, solo.TaskPool) else "threads"
        raise click.ClickException(
            f"--autoscale cannot size a {name!r} pool: use --pool prefork, gevent or eventlet, "
            "or leave --autoscale out and run `celery flame serve` beside this worker"
        )


def _do_not_hoard(worker: Any) -> None:
    """Take no more messages than run at once: what waits must stay where runners can take it."""
    context = click.get_current_context(silent=True)
    source = context.get_parameter_source("prefetch_multiplier") if context is not None else None
    by_option = source in {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}
    if not by_option and not is_chosen(worker.app, "worker_prefetch_multiplier"):
        worker.prefetch_multiplier = 1
