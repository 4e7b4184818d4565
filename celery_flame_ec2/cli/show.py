"""What would be done now, and with what would an instance boot?"""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Mapping
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from .. import boot, workers
from ..backends import open_backend
from ..broker import open_connection
from ..config import Settings
from ..errors import LeaseError
from ..lease import open_lease
from ..notes import Left, Notes
from ..policy import Demand, Plan, Unknown
from ..pool import letter, with_concurrency
from ..presence import REPEAT
from ..service import Service
from ..settings import settings_of

#: Seconds to listen for runners: until then each has spoken.
LISTEN = REPEAT + 0.5
#: Seconds the broker may take while workers are asked.
ASK_TIMEOUT = 5.0
NO_PARENT = (
    "no autoscaling worker answered, so unless `celery flame serve` runs somewhere nobody carries this out: start "
    "`celery worker --autoscale=MAX,MIN` (without --autoscale Celery ignores worker_autoscaler without a word)"
)


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def plan(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Show what a parent that starts now would do for each pool, and why. Does nothing.

    It goes on from what the parent that acts noted: its failed launches, and what it learned. Exit code 69 says that
    broker or compute backend did not answer.
    """
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    left, trouble = noted(app, settings)
    service, demands = look(app, settings, left)
    plans = {
        pool.settings.name: pool.decide(
            demands[pool.settings.name], time.time(), listing=service.unlisted(pool.settings.name)
        )
        for pool in service.pools
    }
    service.close()
    unknown = is_unknown(service, demands)
    note = NO_PARENT if not unknown and not _has_parent(app) else None
    if trouble is not None:
        note = f"what failed and was learned before is unknown: {trouble}"
    if as_json:
        pools = {name: _plan_fields(each) for name, each in plans.items()}
        click.echo(json.dumps({"pools": pools, "note": note}, indent=2))
    else:
        _print_plans(plans)
        if note:
            click.echo(f"note: {note}")
    ctx.exit(EX_UNAVAILABLE if unknown else 0)


@click.command(cls=CeleryCommand, name="user-data")
@click.argument("pool")
@click.option("--show-secrets", is_flag=True, help="Print the values of env as they are.")
@click.option("--mime", is_flag=True, help="Print the whole user data, unpacked, not only its configuration.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def user_data(ctx: click.Context, pool: str, show_secrets: bool, mime: bool, **_: Any) -> None:
    """Show what an instance of POOL would boot with. Values of env are masked."""
    settings = settings_of(ctx.obj.app)
    chosen = settings.pool(pool)
    if chosen.max_concurrency is None:
        chosen = with_concurrency(chosen, open_backend(ctx.obj.app, settings))
    real = boot.document(letter(settings, chosen, warm=False), chosen.ec2)
    shown = real if show_secrets else boot.masked(real)
    data = boot.user_data(real)
    if mime:
        click.echo(gzip.decompress(boot.user_data(shown)).decode())
    else:
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    click.echo(f"{len(data)} of {boot.MAX_USER_DATA} bytes", err=True)
    if chosen.ec2.launch_template_id:
        click.echo(f"user data of {chosen.ec2.launch_template_id}, if it has any, goes along (not read here)", err=True)


def noted(app: Celery, settings: Settings) -> tuple[Left, str | None]:
    """Return what the acting parent noted, or why that is unknown."""
    try:
        return Notes(open_lease(app, settings)).read(), None
    except LeaseError as exc:
        return Left(), str(exc)


def look(app: Celery, settings: Settings, left: Left) -> tuple[Service, dict[str, Demand | Unknown]]:
    """Look once at broker and compute backend, without acting; return what looked, and each pool's demand.

    It goes on from what was `left`, as a parent does that takes over.
    """
    service = Service(app, settings, open_backend(app, settings))
    for pool in service.pools:
        pool.adopt(left, time.time())
    service.listen(LISTEN)
    return service, dict(service.look())


def is_unknown(service: Service, demands: Mapping[str, Demand | Unknown]) -> bool:
    """Tell whether broker or compute backend left something unsaid."""
    return service.listing is not None or any(isinstance(demand, Unknown) for demand in demands.values())


def _has_parent(app: Celery) -> bool:
    """Ask the workers; where none can be asked, none is known."""
    with open_connection(app, timeout=ASK_TIMEOUT) as connection:
        answer = workers.ask(app, connection)
    return answer is not None and bool(answer.parents)


def _print_plans(plans: Mapping[str, Plan]) -> None:
    for name, each in plans.items():
        orders = [f", {verb} {', '.join(ids)}" for verb, ids in each.orders.items() if ids]
        click.echo(f"{name}: launch {each.launch}{''.join(orders)}{' (held)' if each.held else ''}")
        click.echo(f"  {each.reason}")


def _plan_fields(each: Plan) -> dict[str, Any]:
    fields = {"launch": each.launch, **each.orders, "wanted": each.wanted}
    return {**fields, "held": each.held, "reason": each.reason}
