"""How are runners raised, listed and ended that are values in this process?"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

from ..backends.base import Backend
from ..backends.ec2.halts import FIRST
from ..backends.ec2.offers import Offer, Offers
from ..backends.ec2.recipe import Recipe, offer_of, rungs
from ..backends.ec2.refusals import NEXT_RUNG, Meaning, Refusal, kind_of, meaning_of
from ..config import Settings
from ..errors import BackendError, LaunchError, LaunchUnclear
from ..parent import Parent
from ..runner import Launch, Runner
from .machine import Machine
from .world import World


@dataclass(kw_only=True, slots=True)
class _Climb:
    """What came of one launch so far: offers that were refused, now or lately."""

    count: int
    started: list[Runner] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    held: dict[str, Meaning] = field(default_factory=dict)

    def __str__(self) -> str:
        lately = f"not asked for, as EC2 refused it lately: {', '.join(self.held)}" if self.held else ""
        return "; ".join(filter(None, [*dict.fromkeys(map(str, self.refusals)), lately]))

    @property
    def missing(self) -> int:
        """Return how many are still to be asked for: none, where the next offer would be refused too."""
        over = bool(self.refusals) and self.refusals[-1].meaning not in NEXT_RUNG
        return 0 if over else self.count - len(self.started)

    @property
    def meaning(self) -> Meaning | None:
        """Return what the last refusal means."""
        return next(iter([*(refusal.meaning for refusal in self.refusals[::-1]), *self.held.values()]), None)


def ladder_of(settings: Settings, pool: str) -> list[Offer]:
    """Return what a pool's launches ask for, in this order."""
    if settings.backend != "ec2":
        return [Offer(market=None, instance_type=None, zone=None, subnet_id=None)]
    ec2 = settings.pool(pool).ec2
    made = Recipe(
        image=ec2.image_id or "", markets=ec2.market, instance_types=ec2.instance_type or (None,),
        subnet_ids=ec2.subnet_id or (None,),
    )  # fmt: skip
    return [offer_of(made, rung) for rung in rungs(made)]


class MemoryBackend(Backend):
    """Runners of a `World`, which launches nothing; one parent's view. For tests alone: no setting names it.

    Markets, types and subnets are asked for in the user's order, and what was refused is remembered, as on EC2.
    """

    visible_within = 60.0

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings, self._world = settings, world
        self._offers = Offers()
        self._open: dict[str, tuple[Parent, Launch, Offer]] = {}

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        climb = _Climb(count=count)
        ladder = ladder_of(self._settings, letter.pool)
        for offer in ladder:
            if climb.missing > 0:
                self._climb_one(climb, letter, offer)
        if count > 0 and not climb.started:
            raise self._error(climb, ladder)
        return tuple(climb.started)

    def ask_again(self, token: str) -> tuple[Runner, ...] | None:
        if token not in self._open:
            return None
        self.guard()
        letter, launch, offer = self._open[token]
        answer = self._answer(letter, launch, offer)
        if not isinstance(answer, Refusal):
            return answer
        if answer.meaning is Meaning.UNCLEAR:
            raise LaunchUnclear(str(answer), tokens=(token,))
        raise LaunchError(str(answer), kind=kind_of(answer.meaning))

    def runners(self) -> tuple[Runner, ...]:
        if self._world.unlistable:
            raise BackendError(self._world.unlistable)
        return tuple(machine.as_listed() for machine in self._mine())

    def terminate(self, ids: Collection[str]) -> None:
        for machine in [each for each in self._mine() if each.id in ids]:
            self.guard()
            machine.cut()

    def last_words(self, runner_id: str) -> str:
        machine = self._world.machines.get(runner_id)
        return machine.words if machine is not None else ""

    def _mine(self) -> list[Machine]:
        return [each for each in self._world.living() if each.letter.owner == self._settings.owner]

    def _climb_one(self, climb: _Climb, letter: Parent, offer: Offer) -> None:
        """Ask for one offer, unless it was refused lately."""
        if held := self._offers.held(offer, self._world.now()):
            climb.held[f"{held.key} ({held.code})"] = meaning_of(held.code, 400)
            return
        answer = self._ask(letter, offer, climb)
        if isinstance(answer, Refusal):
            climb.refusals.append(answer)
            self._offers.refused(offer, answer, self._world.now())
        else:
            climb.started += answer

    def _ask(self, letter: Parent, offer: Offer, climb: _Climb) -> tuple[Runner, ...] | Refusal:
        launch = Launch(token=uuid.uuid4().hex, pool=letter.pool, count=climb.missing)
        self.announce(launch)
        self.guard()
        self._open[launch.token] = letter, launch, offer
        answer = self._answer(letter, launch, offer)
        if isinstance(answer, Refusal) and answer.meaning is Meaning.UNCLEAR:
            why = f"a launch of up to {launch.count} may have happened: {answer}"
            raise LaunchUnclear(why, launched=tuple(climb.started), tokens=(launch.token,))
        return answer

    def _answer(self, letter: Parent, launch: Launch, offer: Offer) -> tuple[Runner, ...] | Refusal:
        answer = self._world.grant(letter, launch, offer, self._settings)
        if lost := self._world.unanswered(launch, offer):
            return lost
        if isinstance(answer, Refusal):
            if answer.meaning is not Meaning.UNCLEAR:
                del self._open[launch.token]
            return answer
        del self._open[launch.token]
        return tuple(machine.runner for machine in answer if machine.alive)

    def _error(self, climb: _Climb, ladder: list[Offer]) -> LaunchError:
        free_at = self._offers.free_at(ladder, self._world.now())
        retry_in = None if free_at is None else free_at - self._world.now()
        if climb.meaning in {Meaning.FATAL, Meaning.CREDENTIALS}:
            retry_in = FIRST
        return LaunchError(str(climb), retry_in=retry_in, kind=kind_of(climb.meaning))
