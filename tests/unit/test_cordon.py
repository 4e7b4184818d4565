"""What does an operator's order make of a runner that is gone meanwhile?"""

from __future__ import annotations

import types
from typing import Any

from celery_flame_ec2.cli.cordon import _confirmed
from celery_flame_ec2.orders import Order
from celery_flame_ec2.presence import Word
from celery_flame_ec2.runner import RunnerState


class Watch:
    """Hears `one` only: the words of the other were taken down since."""

    def __init__(self) -> None:
        self.words = {"one": word("one", RunnerState.CORDONED)}

    def order(self, *_: Any, **__: Any) -> None:
        """Tell nobody anything."""

    def wait(self, _: float) -> None:
        """Hear nothing new."""


def word(name: str, state: RunnerState) -> Word:
    return Word(runner_id=name, pool="p", owner="o", state=state)


def test_a_runner_whose_words_are_gone_has_not_confirmed() -> None:
    heard = {name: word(name, RunnerState.UP) for name in ("gone", "one")}
    settings: Any = types.SimpleNamespace(pool=lambda _: types.SimpleNamespace(queues=("q",)))
    watch: Any = Watch()
    assert list(_confirmed(watch, settings, Order.CORDON, heard, timeout=0.2)) == ["one"]
