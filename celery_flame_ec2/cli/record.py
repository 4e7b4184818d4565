"""What load do the pools really have? Recorded for `flame simulate`."""

from __future__ import annotations

import contextlib
import functools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from kombu.connection import Connection

from ..broker import cause, channel, has_fanout, hear_events, open_connection
from ..errors import TraceError
from ..settings import settings_of
from ..simulate.recorder import EVENTS, Counts, Recorder
from .simulate import TIME_ABOVE_0

#: Seconds any one wait for the broker may last, and after which what was heard is written to the disk.
PATIENCE = 1.0
#: Seconds without a single event after which it is said what to look at.
QUIET = 30.0
ROUTING_KEY = "task.#"
NO_EVENTS = (
    "no event of any task was heard: start the workers with -E, or set worker_send_task_events = True; with "
    "task_send_sent_event = True clients tell when they send"
)
DEAF = "the broker does not answer, and what happens meanwhile is not recorded"
NOT_SENT = (
    "clients did not tell when they sent, so tasks arrive here when a worker received them, and their wait before that "
    "is not seen; set task_send_sent_event = True where tasks are sent"
)


@click.command(cls=CeleryCommand)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--for", "lasts", **TIME_ABOVE_0, help="Stop after so long. [default: at SIGINT or SIGTERM]")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def record(ctx: click.Context, file: Path, lasts: float | None, **_: Any) -> None:
    """Record when tasks of the pools' queues arrive and how long they run, into FILE, which must not be there yet.

    Hears the events that workers send with -E, and clients with task_send_sent_event. Holds arrival, runtime and queue
    of each task that is done: no names, no arguments, no results.
    """
    app: Celery = ctx.obj.app
    queues = [queue for pool in settings_of(app).pools for queue in pool.queues]
    with _written(file) as out, _stop_flag() as stopped:
        recorder = Recorder(out, queues, functools.partial(_queue_of, app))
        try:
            connection = _connected(app, recorder)
        except TraceError:
            file.unlink()  # nothing was begun: the next try must not find it there
            raise
        click.echo(f"recording {', '.join(queues)} into {file}; Ctrl-C ends it", err=True)
        until = time.monotonic() + lasts if lasts else float("inf")
        _hear(app, recorder, connection, out, lambda: stopped() or time.monotonic() > until)
    for line in _lines(recorder.counts, recorder.open, file):
        click.echo(line, err=True)


@contextlib.contextmanager
def _written(file: Path) -> Iterator[TextIO]:
    """Give a new file; a full disk is told as what it is."""
    try:
        with file.open("x", encoding="utf-8", newline="") as out:
            yield out
    except OSError as exc:
        raise TraceError(f"{file}: cannot be written: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """Tell whether SIGINT or SIGTERM has come, rather than be ended by it."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in (2, 15)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(app: Celery, recorder: Recorder, first: Connection, out: TextIO, over: Callable[[], bool]) -> None:
    """Write what comes until it is over; where the broker goes away, connect anew."""
    connection: Connection | None = first
    warn_at = time.monotonic() + QUIET
    while not over():
        try:
            connection = connection or _connected(app, recorder)
            _drain(connection)
        except Exception as exc:  # noqa: BLE001  whatever a transport raises, the next connection hears again
            if connection is not None:
                click.echo(f"{DEAF}: {cause(exc, connection)}", err=True)
                connection.release()
            connection = None
            time.sleep(PATIENCE)
        out.flush()
        if time.monotonic() > warn_at and not recorder.counts.events:
            click.echo(NO_EVENTS, err=True)
            warn_at = float("inf")
    if connection is not None:
        connection.release()


def _drain(connection: Any) -> None:
    """Hear what comes within a while."""
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(TimeoutError):
        while (left := deadline - time.monotonic()) > 0:
            connection.drain_events(timeout=left)


def _connected(app: Celery, recorder: Recorder) -> Connection:
    connection = open_connection(app, timeout=5 * PATIENCE)
    if not has_fanout(connection):
        raise TraceError("events of tasks do not travel over this broker: it has no fanout")
    try:
        hear_events(app, channel(connection), dict.fromkeys(EVENTS, recorder.hear), ROUTING_KEY)
    except Exception as exc:
        told = f"{connection.as_uri()}: {cause(exc, connection)}"
        connection.release()
        raise TraceError(told) from exc
    return connection


def _queue_of(app: Celery, task_name: str) -> str:
    """Return the queue that the app's routes name for a task."""
    try:
        queue = app.amqp.router.route({}, task_name)["queue"]
    except Exception:  # noqa: BLE001  a route may be the user's own code; a task it does not know is none of ours
        return ""
    return str(getattr(queue, "name", queue))


def _lines(counts: Counts, unfinished: int, file: Path) -> Iterator[str]:
    """Say what became of the tasks that were heard of."""
    yield f"{counts.recorded} tasks recorded in {file}"
    left_out = {
        "had begun before, or did not tell enough": counts.unknown,
        "were not done yet": unfinished,
        "were revoked or rejected": counts.dropped,
        "were forgotten, as too many were not done": counts.forgotten,
    }
    if any(left_out.values()):
        yield "left out: " + ", ".join(f"{count} that {why}" for why, count in left_out.items() if count)
    if not counts.events:
        yield NO_EVENTS
    elif not counts.sent:
        yield NOT_SENT
