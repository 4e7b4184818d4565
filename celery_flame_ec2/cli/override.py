"""How does an operator keep a pool from launching, or hold it at a number of runners?"""

from __future__ import annotations

import getpass
import socket
import time
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options

from .. import override
from ..config import Settings
from ..errors import LeaseError, OverrideError
from ..lease import open_lease
from ..notes import read_overrides, write_overrides
from ..override import Override, Request
from ..service import OVERRIDES_TTL
from ..settings import settings_of


@click.command(cls=CeleryCommand)
@click.argument("pool", required=False)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def pause(ctx: click.Context, pool: str | None, **_: Any) -> None:
    """Launch no more runners for POOL, or for all pools, until `flame resume`. Runners go on, and end as always."""
    app, settings = _deployment(ctx)
    _decide(app, settings, override.pause(settings, pool, by=_me()))


@click.command(cls=CeleryCommand)
@click.argument("pool", required=False)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def resume(ctx: click.Context, pool: str | None, **_: Any) -> None:
    """Launch runners again after `flame pause`, for POOL or for all pools."""
    app, settings = _deployment(ctx)
    _decide(app, settings, override.pause(settings, pool, by=_me(), paused=False))


@click.command(cls=CeleryCommand)
@click.argument("pool")
@click.argument("number")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def scale(ctx: click.Context, pool: str, number: str, **_: Any) -> None:
    """Hold POOL at NUMBER runners, within its min and max, until NUMBER is `auto`.

    As many are launched, and do not idle out; where there are more, some take no more work, finish and end.
    """
    app, settings = _deployment(ctx)
    _decide(app, settings, override.scale(settings, pool, number, by=_me()))


def _deployment(ctx: click.Context) -> tuple[Celery, Settings]:
    app: Celery = ctx.obj.app
    return app, settings_of(app)


def _decide(app: Celery, settings: Settings, request: Request) -> None:
    lease = open_lease(app, settings)
    if not lease.shared:
        raise OverrideError(
            "there is no lease, and so no place for a parent to find this: set flame_lease, or ask the parent by "
            "`celery control flame_pause`"
        )
    try:
        write_overrides(lease, request, time.time())
    except LeaseError as exc:
        raise LeaseError(f"nothing is decided: {exc}") from exc
    decided = read_overrides(lease)
    for name in request.pools:
        click.echo(f"{name}: {decided.of(name, Override()) or 'as its policy decides'}")
    click.echo(
        f"the parent that acts finds it within {OVERRIDES_TTL:g} s, or else the next one ({lease.place})", err=True
    )


def _me() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a user id without a name, as in containers
        return socket.gethostname()
