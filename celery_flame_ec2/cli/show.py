"""What is there now, and what would be done about it?"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from .. import boot
from ..backends import open_backend
from ..config import Settings
from ..policy import Demand, Plan, Unknown
from ..pool import Pool, letter, with_concurrency
from ..presence import BEAT
from ..queues import Measurement
from ..runner import Runner
from ..service import Service
from ..settings import settings_of

logger = logging.getLogger(__name__)

#: Seconds to listen for runners: each speaks once in a beat.
LISTEN = BEAT + 0.5
#: Seconds workers get to say whether one of them is a parent.
ASK = 1.0
NO_PARENT = (
    "no autoscaling worker answered, so unless `celery flame serve` runs somewhere nobody carries this out: start "
    "`celery worker --autoscale=MAX,MIN` (without --autoscale Celery ignores worker_autoscaler without a word)"
)


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def plan(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Show what would be done now for each pool, and why. Does nothing.

    Exit code 69 says that broker or compute backend did not answer.
    """
    app: Celery = ctx.obj.app
    service, demands = _look(app, settings_of(app))
    plans = {
        pool.settings.name: pool.decide(demands[pool.settings.name], time.time(), listing=service.listing)
        for pool in service.pools
    }
    service.close()
    unknown = _unknown(service, demands)
    note = NO_PARENT if not unknown and not _has_parent(app) else None
    if as_json:
        pools = {name: _plan_fields(each) for name, each in plans.items()}
        click.echo(json.dumps({"pools": pools, "note": note}, indent=2))
    else:
        _print_plans(plans)
        if note:
            click.echo(f"note: {note}")
    ctx.exit(EX_UNAVAILABLE if unknown else 0)


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def status(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Show queues and runners as they are. Needs broker and compute backend, but no running worker.

    Exit code 69 says that one of them did not answer.
    """
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    service, demands = _look(app, settings)
    service.close()
    now = time.time()
    pools = {pool.settings.name: _pool_fields(pool, demands[pool.settings.name], now) for pool in service.pools}
    unknown = service.listing.why if service.listing is not None else None
    held = _held(service.measurement)
    if as_json:
        shown = {"owner": settings.owner, "pools": pools, "held": held, "runners_unknown": unknown}
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(f"{settings.owner} ({settings.backend})")
        if held is not None:
            click.echo(f"{held} tasks held by consumers, prefetched, waiting for their ETA or acknowledged late")
        for name, fields in pools.items():
            _print_pool(name, fields)
        if unknown:
            click.echo(unknown)
    ctx.exit(EX_UNAVAILABLE if _unknown(service, demands) else 0)


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


def _look(app: Celery, settings: Settings) -> tuple[Service, dict[str, Demand | Unknown]]:
    service = Service(app, settings, open_backend(app, settings))
    service.listen(LISTEN)
    return service, dict(service.look())


def _held(measurement: Measurement | None) -> int | None:
    """Return the tasks consumers hold unacknowledged, on Redis those of the whole database; None where nobody tells."""
    if measurement is None or measurement.unacked is not None:
        return measurement.unacked if measurement else None
    told = [depth.held for depth in measurement.depths.values() if depth.held is not None]
    return sum(told) if told else None


def _unknown(service: Service, demands: Mapping[str, Demand | Unknown]) -> bool:
    """Tell whether broker or compute backend left something unsaid."""
    return service.listing is not None or any(isinstance(demand, Unknown) for demand in demands.values())


def _has_parent(app: Celery) -> bool:
    """Ask the workers; where none can be asked (no broker, no remote control), none is known."""
    try:
        stats = app.control.inspect(timeout=ASK).stats() or {}
    except Exception as exc:  # no remote control on this broker, or none that answers
        logger.debug("the workers cannot be asked", exc_info=exc)
        return False
    return any("flame" in (worker.get("autoscaler") or {}) for worker in stats.values())


def _print_plans(plans: Mapping[str, Plan]) -> None:
    for name, each in plans.items():
        click.echo(f"{name}: launch {each.launch}{' (held)' if each.held else ''}")
        click.echo(f"  {each.reason}")


def _plan_fields(each: Plan) -> dict[str, Any]:
    return {"launch": each.launch, "wanted": each.wanted, "held": each.held, "reason": each.reason}


def _pool_fields(pool: Pool, demand: Demand | Unknown, now: float) -> dict[str, Any]:
    return {
        "queues": list(pool.settings.queues),
        "waiting": None if isinstance(demand, Unknown) else demand.waiting,
        "running_on_runners": None if isinstance(demand, Unknown) else demand.running,
        "unknown": demand.why if isinstance(demand, Unknown) else None,
        "min": pool.settings.min,
        "max": pool.settings.max,
        "concurrency": pool.settings.max_concurrency,
        "runners": [_runner_fields(runner, now) for runner in pool.roster.runners],
    }


def _runner_fields(runner: Runner, now: float) -> dict[str, Any]:
    fields = dataclasses.asdict(runner)
    del fields["pool"]
    return fields | {"state": runner.state.value, "age": round(now - runner.launched_at, 1)}


def _print_pool(name: str, fields: dict[str, Any]) -> None:
    waiting = fields["unknown"] or f"{fields['waiting']} waiting"
    click.echo(f"{name}: {', '.join(fields['queues'])}: {waiting}; {fields['min']} to {fields['max']} runners")
    for runner in fields["runners"]:
        kind = " ".join(filter(None, (runner["instance_type"], runner["market"], runner["zone"])))
        click.echo(
            f"  {runner['id']}  {runner['state']}  {runner['active']} tasks  {runner['age']:.0f} s  {kind}".rstrip()
        )
