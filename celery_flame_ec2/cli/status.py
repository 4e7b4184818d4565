"""How does it stand: who acts, what waits, which runners are there, and what keeps more from coming?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..backends import open_backend
from ..config import Settings
from ..errors import HoldingsError, LeaseError
from ..holdings import open_holdings
from ..lease import open_lease
from ..notes import Left, Notes
from ..overview import Overview
from ..service import Service
from ..settings import settings_of
from .screen import WIDTH, Style, lines, plain
from .show import LISTEN, is_unknown

#: Seconds between two looks of --watch where nothing else is said.
USUAL = 2.0
#: Columns in which lines are broken at least; a narrower terminal shows their beginnings.
NARROWEST = 40
#: What a terminal is told: another screen without a cursor, which cuts long lines, and back; to the top; the rest of
#: line and screen is empty.
ENTER, LEAVE, TOP, LINE, REST = (
    "\x1b[?1049h\x1b[?25l\x1b[?7l",
    "\x1b[?7h\x1b[?25h\x1b[?1049l",
    "\x1b[H",
    "\x1b[K",
    "\x1b[J",
)
COLOURS: dict[str, dict[str, Any]] = {
    "head": {"bold": True},
    "alarm": {"fg": "red", "bold": True},
    "table": {"dim": True},
}


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--watch", is_flag=False, flag_value=USUAL, type=click.FloatRange(min=0.5), metavar="[SECONDS]",
    help=f"Look again and again, every {USUAL:g} s or as said, until Ctrl-C.",
)  # fmt: skip
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def status(ctx: click.Context, as_json: bool, watch: float | None, **_: Any) -> None:
    """Show queues and runners as they are. Needs broker and compute backend, but no running worker.

    It listens to the runners for some seconds first. Exit code 69 says that broker or compute backend did not answer.
    """
    app: Celery = ctx.obj.app
    onlooker = Onlooker(app, settings_of(app))
    on_screen = sys.stdout.isatty()
    with contextlib.closing(onlooker):
        if watch is not None:
            _watch(onlooker, watch, as_json=as_json, style=_style(ctx), on_screen=on_screen and not as_json)
            return
        overview = onlooker.look(LISTEN)
    shown = (
        json.dumps(overview.as_json(), indent=2)
        if as_json
        else "\n".join(lines(overview, _style(ctx), _width(on_screen)))
    )
    click.echo(shown)
    ctx.exit(EX_UNAVAILABLE if onlooker.misses_some else 0)


class Onlooker:
    """Looks at a deployment from outside, again and again, and does nothing."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._lease = open_lease(app, settings)
        self._holdings = open_holdings(app, settings.owner)
        self._service = Service(app, settings, open_backend(app, settings), lease=self._lease)
        #: Whether broker or compute backend did not answer in the last look.
        self.misses_some = False

    def look(self, seconds: float) -> Overview:
        """Hear runners for so long, and return how it stands then."""
        self._service.listen(seconds)
        left, trouble = self._noted()
        for pool in self._service.pools:
            pool.adopt(left, self._service.now())
        self.misses_some = is_unknown(self._service, self._service.look())
        overview = self._service.overview(left)
        return dataclasses.replace(overview, acts=None, notes_unknown=trouble, held=self._held(overview.held))

    def close(self) -> None:
        """Let go of broker and backend."""
        self._service.close()
        if self._holdings is not None:
            self._holdings.close()

    def _noted(self) -> tuple[Left, str | None]:
        try:
            self._lease.ask()
            return Notes(self._lease).read(), None
        except LeaseError as exc:
            return Left(), str(exc)

    def _held(self, told: int | None) -> int | None:
        """Return the tasks consumers hold unacknowledged; None where nobody tells.

        On Redis those of the whole database that stand under the app's own keys, and those of all our runners.
        """
        measured = self._service.measurement
        if self._holdings is None or measured is None or measured.unacked is None:
            return told
        try:
            return measured.unacked + self._holdings.count()
        except HoldingsError:  # it answered a moment ago; the rest of what is known is worth showing
            return None


def _watch(onlooker: Onlooker, seconds: float, *, as_json: bool, style: Style, on_screen: bool) -> None:
    if on_screen:
        signal.signal(signal.SIGTERM, _leave)  # or it would end without giving the screen back
    try:
        if on_screen:
            _draw([f"listening to runners for {LISTEN:g} s"], before=ENTER)
        overview = onlooker.look(LISTEN)
        while True:
            if as_json:
                click.echo(json.dumps(overview.as_json()))
            elif on_screen:
                _draw(list(lines(overview, style, _width(on_screen))))
            else:
                click.echo("\n".join([*lines(overview, style), ""]))
            overview = onlooker.look(seconds)
    except KeyboardInterrupt:
        return
    finally:
        if on_screen:
            sys.stdout.write(LEAVE)
            sys.stdout.flush()


def _draw(shown: Sequence[str], *, before: str = "") -> None:
    """Write over what was there, no more lines than there is room for."""
    room = max(1, shutil.get_terminal_size().lines - 1)
    if len(shown) > room:
        shown = [*shown[: room - 1], f"... {len(shown) - room + 1} more lines: `flame status` shows them all"]
    sys.stdout.write(before + TOP + "".join(f"{line}{LINE}\n" for line in shown) + REST)
    sys.stdout.flush()


def _width(on_screen: bool) -> int:
    return min(WIDTH, max(NARROWEST, shutil.get_terminal_size().columns)) if on_screen else WIDTH


def _leave(signum: int, _: FrameType | None) -> None:
    sys.exit(128 + signum)


def _style(ctx: click.Context) -> Style:
    coloured = sys.stdout.isatty() and not ctx.obj.no_color and not os.environ.get("NO_COLOR")
    return (lambda text, kind: click.style(text, **COLOURS[kind])) if coloured else plain
