"""How does it stand: who acts, what waits, which runners are there, and what keeps more from coming?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..config import Settings
from ..errors import HoldingsError, LeaseError, OverrideError
from ..holdings import open_holdings
from ..lease import Lease, open_lease
from ..notes import Left, Notes
from ..overview import Overview
from ..queues import Measurement
from ..settings import settings_of
from .show import is_unknown, look


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
    overview, known = seen(app, settings)
    shown = overview.as_json()
    click.echo(json.dumps(shown, indent=2) if as_json else "\n".join(_lines(shown)))
    ctx.exit(0 if known else EX_UNAVAILABLE)


def seen(app: Celery, settings: Settings) -> tuple[Overview, bool]:
    """Look once; return how it stands, and whether broker and compute backend told all."""
    lease = open_lease(app, settings)
    left, trouble = _noted(lease)
    service, demands = look(app, settings, left, lease)
    overview = dataclasses.replace(
        service.overview(left), acts=None, notes_unknown=trouble, held=_held(app, settings, service.measurement)
    )
    service.close()
    return overview, not is_unknown(service, demands)


def _noted(lease: Lease) -> tuple[Left, str | None]:
    try:
        lease.ask()
        return Notes(lease).read(), None
    except (LeaseError, OverrideError) as exc:
        return Left(), str(exc)


def _held(app: Celery, settings: Settings, measurement: Measurement | None) -> int | None:
    """Return the tasks consumers hold unacknowledged; None where nobody tells.

    On Redis those of the whole database that stand under the app's own keys, and those of all our runners.
    """
    if measurement is None or measurement.unacked is None:
        return measurement.held if measurement is not None else None
    by_runners = _held_by_runners(app, settings)
    return None if by_runners is None else measurement.unacked + by_runners


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


def _lines(shown: dict[str, Any]) -> Iterator[str]:
    yield f"{shown['owner']} ({shown['backend']})"
    if shown["notes_unknown"]:
        yield f"who acts is unknown: {shown['notes_unknown']}"
    elif shown["leader"]:
        yield f"acting parent, or the last one: {shown['leader']}"
    if shown["held"] is not None:
        yield f"{shown['held']} tasks held by consumers, prefetched, waiting for their ETA or acknowledged late"
    for fields in shown["pools"].values():
        yield from _pool_lines(fields)
    if shown["runners_unknown"]:
        yield shown["runners_unknown"]


def _pool_lines(fields: dict[str, Any]) -> Iterator[str]:
    waiting = fields["unknown"] or f"{fields['waiting']} waiting"
    queues = ", ".join(queue["name"] for queue in fields["queues"])
    yield f"{fields['name']}: {queues}: {waiting}; {fields['min']} to {fields['max']} runners"
    if breaker := fields["breaker"]:
        rests = f"the next in {breaker['retry_in']:.0f} s" if breaker["retry_in"] else "the next may be tried now"
        yield f"  launches failed in a row: {breaker['failed']}; {rests}; {breaker['cause']}"
    if decision := fields["last_decision"]:
        yield f"  last decision: {decision['reason']}"
    if learned := fields["learned"]:
        runtime = "not known yet" if learned["runtime"] is None else f"{learned['runtime']:.3g} s"
        told = f"runtime {runtime}, {learned['arriving']:.3g} tasks arrive a second, boots take {learned['boot']:.0f} s"
        yield f"  learned {learned['ago']:.0f} s ago: {told}"
    for runner in fields["runners"]:
        kind = " ".join(filter(None, (runner["instance_type"], runner["market"], runner["zone"])))
        yield f"  {runner['id']}  {runner['state']}  {runner['tasks']} tasks  {runner['age']:.0f} s  {kind}".rstrip()
    for ended in fields["ended"]:
        yield f"  {ended['id']}  ended {ended['ago']:.0f} s ago: {ended['reason']}"
