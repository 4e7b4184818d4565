"""How does a pool get its instances, and when is it not even tried?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ... import boot
from ...config import PoolSettings
from ...edition import Edition
from ...errors import FlameError, LaunchError, LaunchUnclear
from ...parent import Parent
from ...runner import Runner
from .clients import Clients, Place, Refused
from .cookbook import RECIPE_TTL, Cookbook
from .editions import Editions
from .halts import Halt, Halts
from .homes import Homes
from .launcher import Climb, Launcher, Order
from .limiter import Limiter
from .recipe import Recipe, Rung, offer_taken, rungs
from .refusals import PASSING, Meaning, Refusal, kind_of
from .sender import Consent, Sender

logger = logging.getLogger(__name__)

#: Up to so many seconds are added to the wait after EC2 said that there were too many requests.
JITTER = 1.0
#: Refusals after which a pool's launches stop: nothing but a change helps.
LASTING = frozenset({Meaning.FATAL, Meaning.CREDENTIALS})


class Launches:
    """Launches of all pools, each where its pool lives. `homes` is told where each instance was launched."""

    def __init__(
        self,
        clients: Clients,
        cookbook: Cookbook,
        editions: Editions,
        consent: Consent,
        homes: Homes,
        *,
        clock: Callable[[], float],
        ticks: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._clients, self._cookbook, self._editions = clients, cookbook, editions
        self._consent, self._homes = consent, homes
        self._clock, self._ticks, self._jitter = clock, ticks, jitter
        self._halts = Halts(RECIPE_TTL)
        self._launchers: dict[Place, Launcher] = {}

    def launch(self, letter: Parent, pool: PoolSettings, count: int) -> tuple[Runner, ...]:
        """Raise up to `count` instances of a pool.

        Raises:
            LaunchError: there are none, and why; `retry_in` says when another try may go better.
            LaunchUnclear: what a request did is unknown; it is open until `ask_again` tells.
        """
        if halt := self._halts.blind(pool.name, self._ticks()):
            raise self._stopped(halt)
        place, made, edition = self._found(pool)
        user_data = self._user_data(letter, pool, made, edition)
        ladder, halt = self._halts.open_part(pool.name, made, rungs(made), self._ticks())
        if halt and not ladder:
            raise self._stopped(halt)
        order = Order(
            letter=letter,
            count=count,
            recipe=made,
            rungs=ladder,
            user_data=user_data,
            tags=pool.ec2.tags,
            release=edition.tag,
            hello=pool.ec2.hello,
        )
        climbed = self._launcher(place).climb(order)
        self._homes.launched((runner.id for runner in climbed.runners), place, self._ticks())
        return self._outcome(pool, place, climbed, halt)

    def is_open(self, token: str) -> bool:
        """Return whether a launch with this token was sent and not answered."""
        return any(launcher.is_open(token) for launcher in self._launchers.values())

    def ask_again(self, token: str) -> tuple[Runner, ...]:
        """Send an open launch again, unchanged, and return all instances that came of it.

        Raises:
            LaunchError: none came of it, and none will.
            LaunchUnclear: there is still no answer.
        """
        place, launcher = next((place, each) for place, each in self._launchers.items() if each.is_open(token))
        attempt, answer = launcher.ask_again(token)
        if not isinstance(answer, Refusal):
            runners = attempt.runners(answer)
            self._homes.launched((runner.id for runner in runners), place, self._ticks())
            return runners
        if answer.meaning is Meaning.UNCLEAR:
            raise LaunchUnclear(_unclear(attempt.launch.count, str(answer)), tokens=(token,))
        raise LaunchError(str(answer), kind=kind_of(answer.meaning))

    def failed(self, pool: PoolSettings | None, instance: Mapping[str, Any], why: Refusal) -> None:
        """Remember why an instance of a pool was gone before it was of use."""
        if pool is not None:
            offer = offer_taken(self._cookbook.known(pool), instance)
            self._launcher(self._cookbook.place(pool.ec2)).remember(pool.name, offer, why)

    def _launcher(self, place: Place) -> Launcher:
        if place not in self._launchers:
            limiter = Limiter(self._ticks(), self._jitter)
            sender = Sender(self._clients, place, self._consent, limiter, self._ticks)
            self._launchers[place] = Launcher(sender, limiter, clock=self._clock, ticks=self._ticks)
        return self._launchers[place]

    # before

    def _found(self, pool: PoolSettings) -> tuple[Place, Recipe, Edition]:
        try:
            place, made = self._cookbook.place(pool.ec2), self._recipe(pool)
            return place, made, self._editions.pin(place, pool.ec2)
        except Refused as exc:
            if exc.refusal.meaning in PASSING:
                throttled = exc.refusal.meaning is Meaning.THROTTLED
                retry_in = JITTER + self._jittered() if throttled else None
                raise LaunchError(str(exc), retry_in=retry_in, kind=kind_of(exc.refusal.meaning)) from exc
            raise self._stopped(self._stop(pool, str(exc), kind=kind_of(exc.refusal.meaning))) from exc
        except FlameError as exc:  # settings, template and image do not go together, or the bundle is not there
            raise self._stopped(self._stop(pool, str(exc))) from exc

    def _user_data(self, letter: Parent, pool: PoolSettings, made: Recipe, edition: Edition) -> bytes:
        try:
            return boot.user_data(boot.document(letter, pool.ec2, edition), made.user_data)
        except FlameError as exc:  # it is too large
            raise self._stopped(self._stop(pool, str(exc))) from exc

    def _recipe(self, pool: PoolSettings) -> Recipe:
        try:
            return self._cookbook.recipe(pool)
        except Refused as exc:
            if exc.refusal.meaning is not Meaning.CREDENTIALS:
                raise
            self._clients.renew()  # others may have put new ones where the SDK looks
            return self._cookbook.recipe(pool)

    # after

    def _outcome(self, pool: PoolSettings, place: Place, climbed: Climb, halt: Halt | None) -> tuple[Runner, ...]:
        runners = tuple(climbed.runners)
        if climbed.open:
            raise LaunchUnclear(
                _unclear(climbed.open.count, str(climbed)), launched=runners, tokens=(climbed.open.token,)
            )
        fresh = self._judge(pool, climbed, halt)
        if not runners and climbed.wait is not None:
            return ()  # a later round may ask: nothing failed
        if not runners:
            why = self._stopped(fresh) if fresh else LaunchError(str(climbed), kind=kind_of(climbed.meaning))
            why.retry_in = self._retry_in(self._launcher(place), climbed, fresh or halt)
            raise why
        if climbed.missing > 0:
            count = climbed.order.count
            told = {"event": "launched_fewer", "pool": pool.name, "count": len(runners), "reason": str(climbed)}
            logger.warning("pool %s: %d of %d launched: %s", pool.name, len(runners), count, climbed, extra=told)
        return runners

    def _judge(self, pool: PoolSettings, climbed: Climb, halt: Halt | None) -> Halt | None:
        """Stop the pool's launches where the last answer was a lasting no; let them go on where they went well."""
        if climbed.last and climbed.last[1].meaning in LASTING:
            rung, answer = climbed.last
            self._cookbook.forget(pool)
            # Credentials are no part of a recipe: whether there are others shows in the next try alone.
            known = answer.meaning is Meaning.FATAL
            recipe = climbed.order.recipe if known else None
            why, kind = f"{answer} (asked for {rung})", kind_of(answer.meaning)
            return self._stop(pool, why, kind=kind, recipe=recipe, rung=rung if known else None)
        if climbed.runners and not climbed.refusals and halt is None:
            self._halts.end(pool.name)
        return None

    def _retry_in(self, launcher: Launcher, climbed: Climb, halt: Halt | None) -> float | None:
        waits = [launcher.free_in(climbed.order, before=halt.rung if halt else None)]
        waits += [self._halts.retry_in(halt, self._ticks())] if halt else []
        return min((wait for wait in waits if wait is not None), default=None)

    def _stop(
        self,
        pool: PoolSettings,
        why: str,
        *,
        kind: str = "refused",
        recipe: Recipe | None = None,
        rung: Rung | None = None,
    ) -> Halt:
        halt, news = self._halts.stop(pool.name, why, self._ticks(), kind=kind, recipe=recipe, rung=rung)
        level, length = logging.ERROR if news else logging.DEBUG, halt.hold.length
        told = {"event": "halted", "pool": pool.name, "seconds": round(length), "reason": why}
        logger.log(
            level, "pool %s: launches stop for %.0f s, or until a change: %s", pool.name, length, why, extra=told
        )
        return halt

    def _stopped(self, halt: Halt) -> LaunchError:
        words = f"{halt.why}; this pool's launches wait for a change, and are tried again now and then"
        return LaunchError(words, retry_in=self._halts.retry_in(halt, self._ticks()), kind=halt.kind)

    def _jittered(self) -> float:
        return JITTER * self._jitter()


def _unclear(count: int, why: str) -> str:
    return f"a launch of up to {count} may have happened: {why}"
