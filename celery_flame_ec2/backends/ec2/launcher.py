"""Who asks EC2 for instances, and for which next when it says no?"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...parent import Parent
from ...runner import Runner
from .instances import runner_of, tags_of
from .recipe import Recipe, Rung, rungs
from .refusals import NEXT_RUNG, Meaning, Refusal, refusal
from .request import run_instances_request

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What is wanted: `count` instances by this recipe, with this letter in their user data."""

    letter: Parent
    count: int
    recipe: Recipe
    user_data: bytes
    tags: Mapping[str, str]


@dataclass(kw_only=True, slots=True)
class Climb:
    """How far one order came: the runners it got, and what was refused on the way."""

    order: Order
    runners: list[Runner] = field(default_factory=list)
    refusals: list[tuple[Rung, Refusal]] = field(default_factory=list)
    unclear: int = 0  #: how many more the last request may have raised

    @property
    def missing(self) -> int:
        """Return how many runners are still wanted."""
        return self.order.count - len(self.runners)

    def __str__(self) -> str:
        """Say why there are no more, in one line: the last refusal in full, those before it by their codes."""
        if not self.refusals:
            return "EC2 gave no more"
        *before, (rung, last) = self.refusals
        words = f"{last} (asked for {rung})"
        return words + "".join(f"; before that {rung}: {answer.code or answer.message}" for rung, answer in before)


def climb(client: EC2Client, order: Order, clock: Callable[[], float], guard: Callable[[], None]) -> Climb:
    """Ask for one rung after the other until the order is filled, nothing is left, EC2 says a lasting no or nothing."""
    so_far = Climb(order=order)
    for rung in rungs(order.recipe):
        # A token is for one request in one subnet: the same one elsewhere would be a second instance.
        token, now = secrets.token_hex(16), clock()
        tags = tags_of(order.letter, token=token, now=now, extra=order.tags)
        request = run_instances_request(
            order.recipe, rung, count=so_far.missing, token=token, tags=tags, user_data=order.user_data
        )
        answer = _run(client, request, guard)
        if isinstance(answer, Refusal):
            logger.info("pool %s: EC2 refused %s: %s", order.letter.pool, rung, answer)
            so_far.refusals.append((rung, answer))
            if answer.meaning is Meaning.UNCLEAR:
                so_far.unclear = request["MaxCount"]
            if answer.meaning not in NEXT_RUNG:
                break
        else:
            so_far.runners += (runner_of(instance, now, tags) for instance in answer)
            if so_far.missing <= 0:
                break
    return so_far


def _run(client: EC2Client, request: Mapping[str, Any], guard: Callable[[], None]) -> list[dict[str, Any]] | Refusal:
    """Send one request; where no answer tells what came of it, send the very same once more."""
    guard()
    answer = _run_once(client, request)
    if isinstance(answer, Refusal) and answer.meaning is Meaning.UNCLEAR:
        logger.warning("asking again with the same token: %s", answer)
        guard()
        return _run_once(client, request)
    return answer


def _run_once(client: EC2Client, request: Mapping[str, Any]) -> list[dict[str, Any]] | Refusal:
    from botocore.exceptions import BotoCoreError, ClientError

    run_instances: Any = client.run_instances
    try:
        return list(run_instances(**request).get("Instances", ()))
    except (BotoCoreError, ClientError) as exc:
        return refusal(exc, "ec2:RunInstances")
