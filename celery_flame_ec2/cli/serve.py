"""How does a parent run without a worker?"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, CeleryCommand, handle_preload_options

from ..backends import open_backend
from ..errors import DemandUnknown
from ..lease import open_lease
from ..parent import flame_parent
from ..policy import Unknown
from ..service import Service
from ..settings import settings_of

logger = logging.getLogger(__name__)


@click.command(cls=CeleryCommand)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, show_default=True, help="How much to log.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def serve(ctx: click.Context, loglevel: int, **_: Any) -> None:
    """Watch the queues and raise runners, without a worker of its own; until SIGINT or SIGTERM. Runners go on."""
    if flame_parent() is not None:
        raise click.ClickException("this is a FLAME child (FLAME_PARENT is set), and a child launches no runners")
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    service = Service(app, settings, open_backend(app, settings), lease=open_lease(app, settings))
    _check(service)
    app.log.setup(loglevel=loglevel, redirect_stdouts=False)

    def stop(signum: int, _: FrameType | None) -> None:
        logger.info("stopping on %s; runners go on", signal.Signals(signum).name)
        service.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    logger.info("serving %s of %s", ", ".join(pool.name for pool in settings.pools), settings.owner)
    service.run()


def _check(service: Service) -> None:
    """Refuse to start where broker or compute backend do not answer: at start somebody is looking."""
    demands = service.look()
    if service.listing is not None:
        raise click.ClickException(service.listing.why)
    for demand in demands.values():
        if isinstance(demand, Unknown):
            raise DemandUnknown(f"{demand.why}; start the broker, or set broker_url to where it is")
