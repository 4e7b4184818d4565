"""How does a runner start its worker?"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from celery import Celery, signals
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_FAILURE

from ..broker import open_connection
from ..config import PREFIX
from ..errors import LetterError
from ..log import write_json
from ..parent import HELLO_VARIABLE, LETTER_VARIABLE, PLACE_VARIABLE, RUNNER_ID_VARIABLE, Parent, flame_parent
from ..presence import Voice
from ..uptime import ages
from ..watchdog import open_watchdog

if TYPE_CHECKING:
    from ..board.scribe import Scribe
    from ..keeper import Keeper
    from ..notices import Notices
    from ..terminator import Terminator

#: Pools for which Celery patches the standard library where it finds them on the command line, and nowhere else.
GREEN = ("gevent", "eventlet")
#: What stands in a pool process's oom_score_adj, so that it goes before the worker when memory runs out.
FIRST_TO_GO = "500"
#: Seconds any one wait for the broker may last for a word that the worker's loop is too busy to say.
VOICE_TIMEOUT = 2.0
#: The place of a runner that no listing shows: only its silence tells that it is dead.
UNLISTED = ""


@click.command(cls=CeleryCommand)
@click.option("-P", "--pool", help="Named here too for gevent and eventlet: Celery patches first of all.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def child(ctx: click.Context, pool: str | None, **_: Any) -> None:
    """Run the worker of a runner. A release's `bin/<app> start` runs this; FLAME_PARENT says for whom."""
    letter = _letter()
    _patch_first(letter, pool)
    app: Celery = ctx.obj.app
    runner_id = os.environ.get(RUNNER_ID_VARIABLE) or socket.gethostname()
    parts = _parts(app, letter, runner_id, os.environ)
    worker = _worker(app, letter, runner_id, parts)
    if app.conf.get(f"{PREFIX}log_format") == "json":
        write_json()
    with _at_work(parts):
        worker.start()
    if parts.terminator.gave_up:
        _leave(parts.keeper, worker.exitcode or EX_FAILURE)
    ctx.exit(worker.exitcode)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a runner has beside its worker."""

    terminator: Terminator
    keeper: Keeper | None
    notices: Notices | None
    scribe: Scribe | None


def _parts(app: Celery, letter: Parent, runner_id: str, environ: MutableMapping[str, str]) -> Parts:
    """Put a runner's parts together. Nothing of them runs yet."""
    from ..board.scribe import open_scribe
    from ..keeper import open_keeper
    from ..notices import Notice, open_notices
    from ..terminator import Terminator

    hello = environ.get(HELLO_VARIABLE)
    keeper = open_keeper(app, letter, runner_id, place=place_of(letter, environ))
    notices = open_notices(letter, environ)
    watchdog = open_watchdog(letter, environ)
    terminator = Terminator(
        letter,
        runner_id,
        hello_file=Path(hello) if hello else None,
        notice=notices.notice if notices is not None else Notice,
        leave=functools.partial(_leave, keeper),
        voice=_voice(app, runner_id) if not letter.board else None,
        pulse=watchdog.pulse if watchdog is not None else lambda: None,
        ages=ages,
        recallable=keeper is not None,
    )
    scribe = open_scribe(letter, runner_id, word=terminator.word, obey=terminator.obey)
    return Parts(terminator=terminator, keeper=keeper, notices=notices, scribe=scribe)


def _worker(app: Celery, letter: Parent, runner_id: str, parts: Parts) -> Any:
    """Return the worker that the parts are for."""
    from .. import manners
    from ..custody import Custody, CustodyStep, broker_waits
    from ..keeper import KeeperStep
    from ..terminator import TerminatorStep

    pool = manners.pool_of(app, letter)
    manners.beat_often(app, pool)
    # Where task and worker are one process, nothing would bound how many machines a task takes with it.
    custody = Custody(waits=broker_waits(app)) if manners.has_processes(pool) else None
    app.steps["consumer"].update({KeeperStep, TerminatorStep, CustodyStep})
    own = {"flame_terminator": parts.terminator, "flame_keeper": parts.keeper, "flame_custody": custody}
    worker = app.Worker(**worker_arguments(letter, runner_id), **own)
    if custody is not None:
        custody.take_over(app, late=manners.acknowledge_late(app))
    return worker


@contextlib.contextmanager
def _at_work(parts: Parts) -> Iterator[None]:
    """Start the parts; stop them when the worker is over."""
    signals.worker_process_init.connect(_go_first)
    parts.terminator.start()
    for part in (parts.notices, parts.scribe):
        if part is not None:
            # Not before the pool has forked: a lock that its thread holds at that moment would be held for ever there.
            signals.worker_ready.connect(part.start)
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(parts.terminator.stop)
        if parts.keeper is not None:
            at_the_end.callback(parts.keeper.stop)
        if parts.scribe is not None:
            at_the_end.callback(parts.scribe.stop)
        yield


def _leave(keeper: Keeper | None, code: int = EX_FAILURE) -> None:
    """End this process, whatever still runs in it."""
    if keeper is not None:
        keeper.stop()
    logging.shutdown()
    os._exit(code)


def _letter() -> Parent:
    letter = flame_parent()
    if letter is None:
        raise LetterError(f"{LETTER_VARIABLE} is not set: a parent starts this command; to run a worker: celery worker")
    return letter


def _patch_first(letter: Parent, pool: str | None) -> None:
    """Run this command anew where Celery must patch the standard library for the letter's pool, and did not."""
    wanted = letter.worker_options.get("pool")
    if wanted in GREEN and pool != wanted:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], f"--pool={wanted}"])  # noqa: S606  no shell wanted


def _go_first(**_: Any) -> None:
    """Runs in each new pool process: without it the worker goes on, without the worker nothing ends in order."""
    with contextlib.suppress(OSError):  # there is no such file on another system, and a container may forbid it
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)


def place_of(letter: Parent, environ: Mapping[str, str]) -> str:
    """Return which listings show this runner; none where a name was made up for it."""
    return environ.get(PLACE_VARIABLE, letter.backend) if environ.get(RUNNER_ID_VARIABLE) else UNLISTED


def node_name(runner_id: str) -> str:
    """Return the name of a runner's worker."""
    return f"flame-{runner_id}@{socket.gethostname()}"


def _voice(app: Celery, runner_id: str) -> Voice:
    return Voice(
        functools.partial(open_connection, app, timeout=VOICE_TIMEOUT),
        functools.partial(app.events.Dispatcher, hostname=node_name(runner_id), groups={"worker"}),
    )


def worker_arguments(letter: Parent, runner_id: str) -> dict[str, Any]:
    """Return what the child's worker is made with: safe settings for one of many, then the pool's `worker_options`."""
    from ..manners import ONE_OF_MANY

    return {
        "loglevel": "INFO",
        "quiet": True,
        **ONE_OF_MANY,
        **letter.worker_options,
        "hostname": node_name(runner_id),
        "queues": list(letter.queues),
        "concurrency": letter.concurrency,
    }
