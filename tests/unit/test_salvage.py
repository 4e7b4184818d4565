"""Whose messages come back, by tables; and whose never."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from celery_flame_ec2.errors import HoldingsError
from celery_flame_ec2.holdings import Registration
from celery_flame_ec2.salvage import Listing, Salvage, ended

LIVING = Registration(
    runner_id="runner", queues=("celery",), place="here", patience=600.0, age=100.0, silent_for=5.0
)  # fmt: skip
SILENT = dataclasses.replace(LIVING, silent_for=601.0)
EMPTY = Listing(runner_ids=(), place="here", age=0.5, visible_within=60.0)


class Register:
    """Holdings in memory; `given` are the runners whose messages came back, in order."""

    def __init__(self, *registered: Registration) -> None:
        self.all = {each.runner_id: each for each in registered}
        self.given: list[str] = []
        self.away = False
        self.now = 0.0

    def registered(self) -> tuple[Registration, ...]:
        if self.away:
            raise HoldingsError("no answer in time")
        return tuple(self.all.values())

    def give_back(self, runner_id: str, queues: tuple[str, ...]) -> int:
        self.given.append(runner_id)
        return 1

    def forget(self, runner_id: str) -> None:
        del self.all[runner_id]


@pytest.mark.parametrize(
    ("registered", "listing", "gone"),
    [
        pytest.param({}, {}, True, id="not listed"),
        pytest.param({}, {"runner_ids": ("runner",)}, False, id="listed"),
        pytest.param({}, {"place": "there"}, False, id="of another machine"),
        pytest.param({"age": 60.4}, {}, False, id="so young that EC2 may not list it yet"),
        pytest.param({"age": 0.4}, {"visible_within": 0.0}, False, id="registered since the listing was asked for"),
        pytest.param({"age": 0.5}, {"visible_within": 0.0}, True, id="registered before"),
    ],
)
def test_a_runner_is_gone_when_a_listing_would_show_it(
    registered: dict[str, Any], listing: dict[str, Any], gone: bool
) -> None:
    runner = dataclasses.replace(LIVING, **registered)
    assert ended([runner], dataclasses.replace(EMPTY, **listing)) == ((runner,) if gone else ())


def test_a_young_runner_that_was_listed_is_gone_when_it_is_not_any_more() -> None:
    register = Register(dataclasses.replace(LIVING, age=5.0), dataclasses.replace(LIVING, age=5.0, runner_id="unseen"))
    salvage = Salvage(register)  # type: ignore[arg-type]
    salvage.look(dataclasses.replace(EMPTY, runner_ids=("runner",)))
    assert register.given == []
    salvage.look(EMPTY)
    assert (register.given, list(register.all)) == (["runner"], ["unseen"])


@pytest.mark.parametrize(
    ("looks", "given"),
    [
        pytest.param([(0.0, SILENT), (29.0, SILENT)], False, id="not yet"),
        pytest.param([(0.0, SILENT), (30.0, SILENT)], True, id="silent all the while"),
        pytest.param([(0.0, SILENT), (10.0, LIVING), (31.0, SILENT)], False, id="it spoke meanwhile"),
        pytest.param([(0.0, SILENT), (10.0, None), (31.0, SILENT)], False, id="Redis was away meanwhile"),
        pytest.param([(0.0, LIVING), (600.0, LIVING)], False, id="living"),
    ],
)
def test_a_silent_runner_is_dead_when_it_is_found_so_for_a_while(
    looks: list[tuple[float, Registration | None]], given: bool
) -> None:
    register = Register()
    salvage = Salvage(register, confirm=30.0, clock=lambda: register.now)  # type: ignore[arg-type]
    for register.now, seen in looks:
        register.away = seen is None
        register.all = {} if seen is None else {seen.runner_id: seen}
        if seen is None:
            with pytest.raises(HoldingsError):
                salvage.look()
        else:
            salvage.look()
    assert register.given == (["runner"] if given else [])


def test_a_dead_runner_is_struck_off_once() -> None:
    register = Register(LIVING, dataclasses.replace(SILENT, runner_id="other"))
    salvage = Salvage(register, confirm=0.0)  # type: ignore[arg-type]
    salvage.look(EMPTY)
    salvage.look(EMPTY)
    assert (register.given, register.all) == (["runner", "other"], {})
