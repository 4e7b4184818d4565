"""How does it stand: who acts, what waits, which runners are there, and what keeps more from coming?"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..config import Settings
from ..errors import HoldingsError
from ..holdings import open_holdings
from ..notes import Ended, Learned, Standing
from ..policy import Demand, Unknown, pause
from ..pool import Pool
from ..queues import Measurement
from ..runner import Runner
from ..settings import settings_of
from .show import is_unknown, look, noted


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
    service, demands = look(app, settings)
    service.close()
    left, trouble = noted(app, settings)
    now = time.time()
    shown = {
        "owner": settings.owner,
        "backend": settings.backend,
        "leader": left.leader or None,
        "leader_unknown": trouble,
        "pools": {
            name: _pool_fields(pool, demands[name], left.standings.get(name, Standing()), now)
            for name, pool in ((pool.settings.name, pool) for pool in service.pools)
        },
        "held": _held(app, settings, service.measurement),
        "runners_unknown": service.listing.why if service.listing is not None else None,
    }
    click.echo(json.dumps(shown, indent=2) if as_json else "\n".join(_lines(shown)))
    ctx.exit(EX_UNAVAILABLE if is_unknown(service, demands) else 0)


def _held(app: Celery, settings: Settings, measurement: Measurement | None) -> int | None:
    """Return the tasks consumers hold unacknowledged; None where nobody tells.

    On Redis those of the whole database that stand under the app's own keys, and those of all our runners.
    """
    if measurement is None:
        return None
    if measurement.unacked is not None:
        by_runners = _held_by_runners(app, settings)
        return None if by_runners is None else measurement.unacked + by_runners
    told = [depth.held for depth in measurement.depths.values() if depth.held is not None]
    return sum(told) if told else None


def _held_by_runners(app: Celery, settings: Settings) -> int | None:
    holdings = open_holdings(app, settings.owner)
    if holdings is None:
        return 0
    try:
        return holdings.count()
    except HoldingsError:  # it answered a moment ago; the rest of what is known is worth showing
        return None
    finally:
        holdings.close()


def _pool_fields(pool: Pool, demand: Demand | Unknown, standing: Standing, now: float) -> dict[str, Any]:
    return {
        "queues": list(pool.settings.queues),
        "waiting": None if isinstance(demand, Unknown) else demand.waiting,
        "running_on_runners": None if isinstance(demand, Unknown) else demand.running,
        "unknown": demand.why if isinstance(demand, Unknown) else None,
        "min": pool.settings.min,
        "max": pool.settings.max,
        "concurrency": pool.settings.max_concurrency,
        "breaker": _breaker_fields(standing, now),
        "last_decision": standing.decision or None,
        "learned": _learned_fields(standing.learned, now),
        "runners": [_runner_fields(runner, now) for runner in pool.roster.runners],
        "ended": [_ended_fields(ended, now) for ended in reversed(standing.endings)],
    }


def _runner_fields(runner: Runner, now: float) -> dict[str, Any]:
    fields = dataclasses.asdict(runner)
    del fields["pool"]
    return fields | {"state": runner.state.value, "age": round(now - runner.launched_at, 1)}


def _ended_fields(ended: Ended, now: float) -> dict[str, Any]:
    return {"id": ended.runner_id, "reason": ended.reason, "ago": round(max(0.0, now - ended.at), 1)}


def _learned_fields(learned: Learned | None, now: float) -> dict[str, Any] | None:
    """Return what the acting parent learned, and how many seconds ago it noted that."""
    if learned is None:
        return None
    fields = dataclasses.asdict(learned)
    del fields["at"]
    return fields | {"ago": round(max(0.0, now - learned.at), 1)}


def _breaker_fields(standing: Standing, now: float) -> dict[str, Any] | None:
    """Return why launches rest, and for how long; None where the last one went well."""
    failures = standing.failures
    if not failures.count:
        return None
    return {"failed": failures.count, "cause": failures.cause, "retry_in": round(max(0.0, pause(failures, now)), 1)}


def _lines(shown: dict[str, Any]) -> Iterator[str]:
    yield f"{shown['owner']} ({shown['backend']})"
    if shown["leader_unknown"]:
        yield f"who acts is unknown: {shown['leader_unknown']}"
    elif shown["leader"]:
        yield f"acting parent, or the last one: {shown['leader']}"
    if shown["held"] is not None:
        yield f"{shown['held']} tasks held by consumers, prefetched, waiting for their ETA or acknowledged late"
    for name, fields in shown["pools"].items():
        yield from _pool_lines(name, fields)
    if shown["runners_unknown"]:
        yield shown["runners_unknown"]


def _pool_lines(name: str, fields: dict[str, Any]) -> Iterator[str]:
    waiting = fields["unknown"] or f"{fields['waiting']} waiting"
    yield f"{name}: {', '.join(fields['queues'])}: {waiting}; {fields['min']} to {fields['max']} runners"
    if breaker := fields["breaker"]:
        rests = f"the next in {breaker['retry_in']:.0f} s" if breaker["retry_in"] else "the next may be tried now"
        yield f"  launches failed in a row: {breaker['failed']}; {rests}; {breaker['cause']}"
    if fields["last_decision"]:
        yield f"  last decision: {fields['last_decision']}"
    if learned := fields["learned"]:
        runtime = "not known yet" if learned["runtime"] is None else f"{learned['runtime']:.3g} s"
        told = f"runtime {runtime}, {learned['arriving']:.3g} tasks arrive a second, boots take {learned['boot']:.0f} s"
        yield f"  learned {learned['ago']:.0f} s ago: {told}"
    for runner in fields["runners"]:
        kind = " ".join(filter(None, (runner["instance_type"], runner["market"], runner["zone"])))
        yield f"  {runner['id']}  {runner['state']}  {runner['active']} tasks  {runner['age']:.0f} s  {kind}".rstrip()
    for ended in fields["ended"]:
        yield f"  {ended['id']}  ended {ended['ago']:.0f} s ago: {ended['reason']}"
