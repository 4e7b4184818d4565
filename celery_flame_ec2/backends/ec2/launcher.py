"""Who asks EC2 for instances, and for which next when it says no?"""

from __future__ import annotations

import itertools
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ...errors import LeaseError
from ...parent import Parent
from ...runner import Launch, Runner
from .instances import tags_of
from .limiter import Limiter
from .offers import Held, Offer, Offers
from .recipe import Recipe, Rung, offer_of
from .refusals import NEXT_RUNG, Meaning, Refusal, meaning_of
from .request import run_instances_request
from .sender import Answer, Attempt, Sender

logger = logging.getLogger(__name__)

BATCH = 100  #: instances asked for by one request


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is wanted: `count` instances of one of these rungs, best first, with this letter in their user data."""

    letter: Parent
    count: int
    recipe: Recipe
    rungs: tuple[Rung, ...]
    user_data: bytes
    tags: Mapping[str, str]
    release: str = ""
    hello: str = "worker"


@dataclass(kw_only=True, slots=True)
class Climb:
    """How far one order came: the runners it got, what was refused on the way, and what was not asked for."""

    order: Order
    runners: list[Runner] = field(default_factory=list)
    refusals: list[tuple[Rung, Refusal]] = field(default_factory=list)
    held: dict[str, Held] = field(default_factory=dict)  #: by what is not to be had, in words
    open: Launch | None = None  #: the request that was not answered
    wait: float | None = None  #: seconds until EC2's rate allows another request, where that ended it
    until: Callable[[float], str] = str

    @property
    def missing(self) -> int:
        """Return how many runners are still wanted."""
        return self.order.count - len(self.runners)

    @property
    def last(self) -> tuple[Rung, Refusal] | None:
        """Return the last refusal, and of what."""
        return self.refusals[-1] if self.refusals else None

    @property
    def meaning(self) -> Meaning | None:
        """Return what the last refusal means, this time or lately; None where there was none."""
        if self.refusals:
            return self.refusals[-1][1].meaning
        return next((meaning_of(held.code, 400) for held in self.held.values()), None)

    def __str__(self) -> str:
        """Say why there are no more, in one line: the last refusal in full, those before it by their codes."""
        return "; ".join(self._reasons()) or "EC2 gave no more"

    def _reasons(self) -> list[str]:
        reasons = []
        if self.refusals:
            *before, (rung, last) = self.refusals
            reasons += [f"{last} (asked for {rung})"]
            reasons += [f"before that {rung}: {answer.code or answer.message}" for rung, answer in before]
        if self.held:
            words = (f"{what} until {self.until(held.hold.until)} ({held.code})" for what, held in self.held.items())
            reasons += [f"not asked for, as EC2 refused it lately: {', '.join(words)}"]
        if self.wait is not None and not (self.last and self.last[1].meaning is Meaning.THROTTLED):
            reasons += [f"EC2's rate allows the next request in {self.wait:.1f} s"]
        return reasons


class Launcher:
    """Climbs ladders in one place, and remembers what is not to be had there. `ticks` is a clock that never jumps."""

    def __init__(
        self, sender: Sender, limiter: Limiter, *, clock: Callable[[], float], ticks: Callable[[], float]
    ) -> None:
        self._sender, self._limiter, self._clock, self._ticks = sender, limiter, clock, ticks
        self.offers = Offers()

    def climb(self, order: Order) -> Climb:
        """Ask for one rung after the other until the order is filled, nothing is left, or EC2 says a lasting no."""
        so_far = Climb(order=order, until=self._in_words)
        try:
            for rung in order.rungs:
                if not self._climb_one(so_far, rung):
                    break
        except LeaseError as exc:
            if not so_far.runners:
                raise
            logger.warning("pool %s: no more is launched: %s", order.letter.pool, exc)  # what there is must be counted
        return so_far

    def is_open(self, token: str) -> bool:
        """Return whether a request with this token was sent and not answered."""
        return token in self._sender.open

    def ask_again(self, token: str) -> tuple[Attempt, Answer]:
        """Send an open request once more, unchanged; return it with the answer: UNCLEAR where it stays open."""
        attempt = self._sender.open[token]
        answer = self._sender.send_again(attempt)
        self._note(attempt.launch.pool, attempt.offer, answer)
        return attempt, answer

    def free_in(self, order: Order, *, before: Rung | None = None) -> float | None:
        """Return the seconds until one of the rungs `before` this may be asked for; None where one may be now."""
        now = self._ticks()
        ladder = itertools.takewhile(lambda rung: rung != before, order.rungs)
        free_at = self.offers.free_at([offer_of(order.recipe, rung) for rung in ladder], now)
        return None if free_at is None else free_at - now

    def remember(self, pool: str, offer: Offer, answer: Refusal) -> None:
        """Keep in mind what a refusal says is not to be had, and tell it once."""
        held = self.offers.refused(offer, answer, self._ticks())
        if held is not None:
            until = self._in_words(held.hold.until)
            told = {"event": "offer_refused", "pool": pool, "reason": f"{held.key}; {answer}"}
            logger.info("pool %s: not asked for until %s: %s; %s", pool, until, held.key, answer, extra=told)

    def _climb_one(self, so_far: Climb, rung: Rung) -> bool:
        """Ask for one rung, in as few requests as EC2 takes; return whether the next rung is to be asked for."""
        offer = offer_of(so_far.order.recipe, rung)
        if held := self.offers.held(offer, self._ticks()):
            so_far.held[str(held.key)] = held
            return True
        while so_far.missing > 0:
            count = self._limiter.take(min(so_far.missing, BATCH), self._ticks())
            if not count:
                so_far.wait = self._limiter.wait(self._ticks())
                return False
            attempt = self._attempt(so_far.order, rung, offer, count)
            answer = self._sender.send(attempt)
            self._note(attempt.launch.pool, offer, answer)
            if isinstance(answer, Refusal):
                return self._refused(so_far, rung, answer, attempt.launch)
            so_far.runners += attempt.runners(answer)
            if len(answer) < count:
                return True
        return False

    def _refused(self, so_far: Climb, rung: Rung, answer: Refusal, launch: Launch) -> bool:
        logger.debug("pool %s: EC2 refused %s: %s", launch.pool, rung, answer)
        so_far.refusals.append((rung, answer))
        if answer.meaning is Meaning.UNCLEAR:
            so_far.open = launch
        if answer.meaning is Meaning.THROTTLED:
            so_far.wait = self._limiter.wait(self._ticks())
        return answer.meaning in NEXT_RUNG

    def _note(self, pool: str, offer: Offer, answer: Answer) -> None:
        if isinstance(answer, Refusal):
            self.remember(pool, offer, answer)
        else:
            self.offers.granted(offer)

    def _attempt(self, order: Order, rung: Rung, offer: Offer, count: int) -> Attempt:
        # A token is for one request in one subnet: the same one elsewhere would be a second instance.
        token, now = secrets.token_hex(16), self._clock()
        tags = tags_of(order.letter, token=token, now=now, extra=order.tags, release=order.release, hello=order.hello)
        request = run_instances_request(
            order.recipe, rung, count=count, token=token, tags=tags, user_data=order.user_data
        )
        launch = Launch(token=token, pool=order.letter.pool, count=count)
        return Attempt(launch=launch, offer=offer, request=request, tags=tags, at=now)

    def _in_words(self, tick: float) -> str:
        at = datetime.fromtimestamp(round(self._clock() + tick - self._ticks()), timezone.utc)
        return f"{at:%H:%M:%S} UTC"
