"""How does a parent run without a worker?"""

from __future__ import annotations

import dataclasses
import logging
import signal
from types import FrameType
from typing import Any

import click
from celery import Celery
from celery.bin.base import LOG_LEVEL, CeleryCommand, handle_preload_options

from ..address import Address, read_address
from ..backends import open_backend
from ..config import Settings, page_problems
from ..errors import DemandUnknown, SettingsError
from ..lease import open_lease
from ..log import write_json
from ..page import open_page
from ..parent import flame_parent
from ..policy import Unknown
from ..service import Service
from ..settings import settings_of

logger = logging.getLogger(__name__)


def _address(_: click.Context, __: click.Parameter, text: str | None) -> Address | None:
    try:
        return None if text is None else read_address(text)
    except ValueError as exc:
        raise click.BadParameter(f"must be {exc}, got {text!r}") from exc


@click.command(cls=CeleryCommand)
@click.option("-l", "--loglevel", default="INFO", type=LOG_LEVEL, show_default=True, help="How much to log.")
@click.option(
    "--http", callback=_address, metavar="HOST:PORT", help="Serve the status page there; instead of flame_http."
)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def serve(ctx: click.Context, loglevel: int, http: Address | None, **_: Any) -> None:
    """Watch the queues and raise runners, without a worker of its own; until SIGINT or SIGTERM. Runners go on."""
    if flame_parent() is not None:
        raise click.ClickException("this is a FLAME child (FLAME_PARENT is set), and a child launches no runners")
    app: Celery = ctx.obj.app
    settings = _with_http(settings_of(app), http)
    page = open_page(settings)
    service = Service(
        app,
        settings,
        open_backend(app, settings),
        lease=open_lease(app, settings),
        after_round=page.after_round if page else None,
    )
    _check(service)
    app.log.setup(loglevel=loglevel, redirect_stdouts=False)
    if settings.log_format == "json":
        write_json()
    if page:
        page.start()
    _stop_on_signals(service)
    names = ", ".join(pool.name for pool in settings.pools)
    logger.info("serving %s of %s", names, settings.owner, extra={"event": "serving"})
    service.run()
    if page:
        page.stop()


def _stop_on_signals(service: Service) -> None:
    def stop(signum: int, _: FrameType | None) -> None:
        name = signal.Signals(signum).name
        logger.info("stopping on %s; runners go on", name, extra={"event": "stopping", "reason": name})
        service.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _with_http(settings: Settings, http: Address | None) -> Settings:
    """Return the settings with what the command line says of `flame_http`."""
    settings = dataclasses.replace(settings, http=http or settings.http)
    if problems := tuple(page_problems(settings)):
        raise SettingsError(problems)
    return settings


def _check(service: Service) -> None:
    """Refuse to start where broker or compute backend do not answer: at start somebody is looking."""
    demands = service.look()
    if service.listing is not None:
        raise click.ClickException(service.listing.why)
    for demand in demands.values():
        if isinstance(demand, Unknown):
            raise DemandUnknown(f"{demand.why}; start the broker, or set broker_url to where it is")
