"""How does an operator end every runner of an app?"""

from __future__ import annotations

from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options

from ..backends import open_backend
from ..settings import settings_of


@click.command(cls=CeleryCommand)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def reap(ctx: click.Context, yes: bool, **_: Any) -> None:
    """End every runner of this app at once, also those no parent knows of. Running tasks are cut off."""
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    backend = open_backend(app, settings)
    runners = backend.runners()
    if not runners:
        click.echo(f"{settings.owner} has no runner.")
        return
    for runner in runners:
        click.echo(f"{runner.id}  pool {runner.pool}")
    if not yes:
        click.confirm(f"End these {len(runners)} runners of {settings.owner}?", abort=True)
    backend.terminate([runner.id for runner in runners])
    click.echo(f"Ended {len(runners)}. A parent that still runs launches others where work waits.")
