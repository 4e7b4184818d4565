"""How does an operator let runners take no more work, or take it again?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..config import Settings
from ..errors import OrderError
from ..orders import AGAIN_AFTER, Order
from ..presence import REPEAT, Word
from ..runner import RunnerState
from ..settings import settings_of
from ..watch import Watch

#: Seconds to listen for runners: until then each has spoken, also where the broker or a runner has much to do.
LISTEN = REPEAT + 5.0
#: Seconds between two looks at a board.
LOOK_EVERY = 1.0


@click.command(cls=CeleryCommand)
@click.argument("runner", nargs=-1, required=True)
@click.option("--timeout", default=15.0, show_default=True, help="Seconds to wait until each runner has done it.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def cordon(ctx: click.Context, runner: tuple[str, ...], timeout: float, **_: Any) -> None:
    """Let runners take no more work. They finish what they hold, and end when they are idle.

    Exit code 69 says that one of them did not confirm it in time; what it was told it may do later.
    """
    _tell(ctx, Order.CORDON, runner, timeout)


@click.command(cls=CeleryCommand)
@click.argument("runner", nargs=-1, required=True)
@click.option("--timeout", default=15.0, show_default=True, help="Seconds to wait until each runner has done it.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def uncordon(ctx: click.Context, runner: tuple[str, ...], timeout: float, **_: Any) -> None:
    """Let cordoned runners take work again.

    Exit code 69 says that one of them did not confirm it in time; what it was told it may do later.
    """
    _tell(ctx, Order.UNCORDON, runner, timeout)


def _tell(ctx: click.Context, order: Order, runner_ids: tuple[str, ...], timeout: float) -> None:
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    watch = Watch(app, owner=settings.owner, board=settings.board, look_every=LOOK_EVERY)
    try:
        watch.must_reach()
        words = _heard(watch, runner_ids)
        _check(settings, words, runner_ids)
        left = set(runner_ids)
        for runner_id in _confirmed(watch, settings, order, words, timeout):
            left.discard(runner_id)
            click.echo(f"{runner_id} {order.confirmed.value}")
    finally:
        watch.close()
    for runner_id in sorted(left):
        click.echo(f"{runner_id} did not confirm it within {timeout:g} s", err=True)
    ctx.exit(EX_UNAVAILABLE if left else 0)


def _heard(watch: Watch, runner_ids: tuple[str, ...]) -> dict[str, Word]:
    """Return the last words of these runners, as soon as all of them have spoken."""
    deadline = time.monotonic() + LISTEN
    while set(runner_ids) - watch.words.keys() and (left := deadline - time.monotonic()) > 0:
        watch.wait(min(left, 0.1))
    return {runner_id: watch.words[runner_id] for runner_id in runner_ids if runner_id in watch.words}


def _check(settings: Settings, words: dict[str, Word], runner_ids: tuple[str, ...]) -> None:
    silent = [runner_id for runner_id in runner_ids if runner_id not in words]
    if silent:
        raise OrderError(
            f"no word from {', '.join(silent)} within {LISTEN:g} s: it is no runner of {settings.owner} that is up; "
            "`flame status` shows those there are"
        )
    ending = [word.runner_id for word in words.values() if word.state is RunnerState.ENDING]
    if ending:
        raise OrderError(f"{', '.join(ending)}: ending already")


def _confirmed(watch: Watch, settings: Settings, order: Order, words: dict[str, Word], timeout: float) -> Iterator[str]:
    """Tell the runners until each has confirmed; yield those that have."""
    deadline, again_at, left = time.monotonic() + timeout, float("-inf"), set(words)
    while left and (now := time.monotonic()) < deadline:
        if now >= again_at:  # first of all, for another order may be on its way to a runner that has done this one
            again_at = now + AGAIN_AFTER
            for pool in {words[runner_id].pool for runner_id in left}:
                ids = [runner_id for runner_id in left if words[runner_id].pool == pool]
                watch.order(order, queues=settings.pool(pool).queues, runner_ids=ids)
        for runner_id in sorted(left):
            word = watch.words.get(runner_id)  # none any more of one that a parent found to be gone
            if word is not None and word.state is order.confirmed:
                left.discard(runner_id)
                yield runner_id
        if left:
            watch.wait(0.1)
