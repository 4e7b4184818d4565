"""What came of one launch request, however often it takes to hear?"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...errors import BackendError
from ...runner import Launch, Runner
from . import lookups
from .clients import Clients, Place, sdk_errors
from .instances import runner_of
from .limiter import Limiter
from .offers import Offer
from .refusals import UNTOLD, Meaning, Refusal, refusal

logger = logging.getLogger(__name__)

ACTION = "ec2:RunInstances"
#: Seconds an unanswered request is kept: for longer than anybody asks for it again.
KEPT = 600.0
Answer: TypeAlias = "list[dict[str, Any]] | Refusal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One launch request, never changed once it is made; `at` are seconds since the epoch."""

    launch: Launch
    offer: Offer
    request: Mapping[str, Any]
    tags: Mapping[str, str]
    at: float

    def runners(self, instances: list[dict[str, Any]]) -> tuple[Runner, ...]:
        """Read the instances of its answer, which may not show their tags yet; without those that are gone again."""
        left = (instance for instance in instances if (instance.get("State") or {}).get("Name") != "terminated")
        return tuple(runner_of(instance, self.at, self.tags) for instance in left)


@dataclass(frozen=True, kw_only=True, slots=True)
class Consent:
    """What is asked of whoever may forbid a launch: `announce` before a new one, `guard` before every request."""

    announce: Callable[[Launch], None]
    guard: Callable[[], None]


class Sender:
    """Sends launch requests to one place. `open` are those without an answer, by token: it alone may end them."""

    def __init__(
        self, clients: Clients, place: Place, consent: Consent, limiter: Limiter, ticks: Callable[[], float]
    ) -> None:
        self._clients, self._place, self._consent = clients, place, consent
        self._limiter, self._ticks = limiter, ticks
        self.open: dict[str, Attempt] = {}

    def send(self, attempt: Attempt) -> Answer:
        """Send a new request, for which the limiter has given leave; where no answer tells, the very same once more.

        UNCLEAR is the answer where what came of it is unknown, and then the attempt stays open.
        """
        token = attempt.launch.token
        self.open = {name: each for name, each in self.open.items() if attempt.at - each.at < KEPT}
        self._consent.announce(attempt.launch)
        self._consent.guard()
        self.open[token] = attempt  # from here on only an answer can tell that nothing comes of it
        answer = self._ask(attempt)
        if _means(answer, Meaning.UNCLEAR):
            logger.warning("pool %s: asking again with the same token: %s", attempt.launch.pool, answer)
            return self.send_again(attempt)
        if _means(answer, Meaning.TOKEN):
            answer = self._look_up(attempt, answer)
        return self._settled(attempt, answer)

    def send_again(self, attempt: Attempt) -> Answer:
        """Send an open request once more. A no counts only where EC2 must have looked what came of the first."""
        self._consent.guard()
        if not self._limiter.take_request(self._ticks()):
            wait = f"no answer so far; the next request is allowed in {self._limiter.wait(self._ticks()):.1f} s"
            return Refusal(meaning=Meaning.UNCLEAR, action=ACTION, code="", message=wait)
        answer = self._ask(attempt)
        if isinstance(answer, Refusal) and answer.meaning in UNTOLD:
            answer = dataclasses.replace(answer, meaning=Meaning.UNCLEAR)
        if _means(answer, Meaning.TOKEN, Meaning.FATAL):
            answer = self._look_up(attempt, answer)
        return self._settled(attempt, answer)

    def _settled(self, attempt: Attempt, answer: Answer) -> Answer:
        if _means(answer, Meaning.UNCLEAR):
            return answer
        del self.open[attempt.launch.token]
        self._limiter.give_back(attempt.launch.count - (0 if isinstance(answer, Refusal) else len(answer)))
        return answer

    def _ask(self, attempt: Attempt) -> Answer:
        answer = self._ask_once(attempt)
        if _means(answer, Meaning.CREDENTIALS):
            logger.info("looking for other AWS credentials: %s", answer)
            self._clients.renew()
            self._consent.guard()
            answer = self._ask_once(attempt)
        if _means(answer, Meaning.THROTTLED):
            rest = self._limiter.throttled(self._ticks())
            logger.info("pool %s: asking again in %.1f s or later: %s", attempt.launch.pool, rest, answer)
        else:
            self._limiter.heard()
        return answer

    def _ask_once(self, attempt: Attempt) -> Answer:
        try:
            run_instances: Any = self._clients.launching(self._place).run_instances
            return list(run_instances(**attempt.request).get("Instances", ()))
        except sdk_errors() as exc:
            return refusal(exc, ACTION)

    def _look_up(self, attempt: Attempt, answer: Answer) -> Answer:
        """Return what a listing shows of this token; the answer where it shows nothing."""
        try:
            client = self._clients.ec2(self._place)
            return lookups.launched_with(client, attempt.launch.token) or answer
        except BackendError as exc:
            return Refusal(meaning=Meaning.UNCLEAR, action=ACTION, code="", message=f"{answer}; then {exc}")


def _means(answer: Answer, *meanings: Meaning) -> bool:
    return isinstance(answer, Refusal) and answer.meaning in meanings
