"""How are EC2 instances raised, listed and ended?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ... import boot
from ...config import PoolSettings, Settings
from ...errors import BackendError, FlameError, LaunchError, LaunchUnclear
from ...parent import Parent
from ...runner import Runner
from ..base import Backend
from .clients import Clients, Place, asking
from .console import last_lines
from .cookbook import Cookbook
from .instances import LIVING, OWNER, read_tags, runner_of
from .launcher import Order, climb
from .refusals import Meaning, refusal

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

logger = logging.getLogger(__name__)

PAGE = 1000  #: instances in one answer, the most there can be
BATCH = 500  #: instances ended by one call


class Ec2Backend(Backend):
    """Runners as EC2 instances, found again by their tags. What it remembers, EC2 would tell again."""

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        clients: Clients | None = None,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._clients = clients or Clients()
        self._cookbook = Cookbook(self._clients, environ=environ, clock=time.monotonic)
        self._homes: dict[str, Place] = {}

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        """Raise up to `count` instances, asking for each market, type and subnet in the user's order.

        Raises:
            LaunchError: EC2 gave none; the message says why and what to do.
            LaunchUnclear: EC2 did not answer, twice: what it did is unknown.
        """
        if count < 1:
            return ()
        pool = self._settings.pool(letter.pool)
        try:
            place, order = self._order(letter, pool, count)
            client = self._clients.launching(place)
        except FlameError as exc:  # nothing was asked for yet
            raise LaunchError(str(exc)) from exc
        climbed = climb(client, order, self._clock, self.guard)
        self._homes.update((runner.id, place) for runner in climbed.runners)
        if climbed.refusals:
            self._cookbook.forget(pool)
        if climbed.unclear:
            words = f"a launch of up to {climbed.unclear} may have happened: {climbed}"
            raise LaunchUnclear(words, launched=tuple(climbed.runners), tokens=())
        if not climbed.runners:
            raise LaunchError(str(climbed))
        if climbed.missing > 0:
            logger.warning("pool %s: %d of %d launched: %s", pool.name, count - climbed.missing, count, climbed)
        return tuple(climbed.runners)

    def runners(self) -> tuple[Runner, ...]:
        """List this owner's instances that are not terminated, whoever launched them.

        Raises:
            BackendError: EC2 did not give every page.
        """
        found = [
            (runner_of(instance, self._clock()), place) for place in self._places() for instance in self._listed(place)
        ]
        self._homes = {runner.id: place for runner, place in found}
        return tuple(runner for runner, _ in found)

    def terminate(self, ids: Collection[str]) -> None:
        """End these instances at once.

        Raises:
            BackendError: some may still run; the message names them.
        """
        problems: list[str] = []
        for place in self._places() if ids else ():
            client = self._clients.ec2(place)
            here = sorted(name for name in set(ids) if self._homes.get(name, place) == place)
            for start in range(0, len(here), BATCH):
                self.guard()
                problems += _terminate(client, here[start : start + BATCH])
        if problems:
            raise BackendError("; ".join(problems))

    def last_words(self, runner_id: str) -> str:
        """Return why EC2 says the instance ended and what it printed last; nothing where EC2 does not tell."""
        try:
            client = self._clients.ec2(self._homes.get(runner_id) or self._places()[0])
            return "\n".join(filter(None, (_why_it_ended(client, runner_id), _console(client, runner_id))))
        except BackendError as exc:
            logger.info("no last words of %s: %s", runner_id, exc)
            return ""

    def concurrency(self, pool: PoolSettings) -> int:
        """Return the pool's `max_concurrency`, or the vCPUs of the smallest type it may get.

        Raises:
            BackendError: EC2 does not say what the type is.
        """
        return pool.max_concurrency or self._cookbook.vcpus(pool)

    def close(self) -> None:
        """Close the connections. Instances go on."""
        self._clients.close()

    def _order(self, letter: Parent, pool: PoolSettings, count: int) -> tuple[Place, Order]:
        user_data = boot.user_data(boot.document(letter, pool.ec2))
        made = self._cookbook.recipe(pool)
        order = Order(letter=letter, count=count, recipe=made, user_data=user_data, tags=pool.ec2.tags)
        return self._cookbook.place(pool.ec2), order

    def _places(self) -> list[Place]:
        return list(dict.fromkeys(self._cookbook.place(pool.ec2) for pool in self._settings.pools))

    def _listed(self, place: Place) -> Iterator[dict[str, Any]]:
        filters = [
            {"Name": f"tag:{OWNER}", "Values": [self._settings.owner]},
            {"Name": "instance-state-name", "Values": list(LIVING)},
        ]
        with asking("ec2:DescribeInstances"):
            pages: Any = self._clients.ec2(place).get_paginator("describe_instances")
            for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": PAGE}):
                for reservation in page.get("Reservations", ()):
                    yield from filter(self._is_ours, reservation.get("Instances", ()))

    def _is_ours(self, instance: Mapping[str, Any]) -> bool:
        # A filter's value may hold wildcards; whose instances may be ended is decided by the tag itself.
        return read_tags(instance).get(OWNER) == self._settings.owner


def _terminate(client: EC2Client, ids: list[str]) -> list[str]:
    """End them in one call, or one by one where one of them is refused; return what went wrong, in words."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.terminate_instances(InstanceIds=ids)
    except (BotoCoreError, ClientError) as exc:
        answer = refusal(exc, "ec2:TerminateInstances")
        if answer.meaning is Meaning.GONE and len(ids) == 1:
            return []
        if answer.meaning in (Meaning.GONE, Meaning.FATAL) and len(ids) > 1:
            return [problem for name in ids for problem in _terminate(client, [name])]
        return [f"{', '.join(ids)} may still run: {answer}"]
    return []


def _console(client: EC2Client, runner_id: str) -> str:
    try:
        with asking("ec2:GetConsoleOutput"):
            return last_lines(client.get_console_output(InstanceId=runner_id, Latest=True).get("Output", ""))
    except BackendError as exc:
        logger.debug("only types on Nitro give their latest output: %s", exc)
    with asking("ec2:GetConsoleOutput"):
        return last_lines(client.get_console_output(InstanceId=runner_id).get("Output", ""))


def _why_it_ended(client: EC2Client, runner_id: str) -> str:
    with asking("ec2:DescribeInstances"):
        answer: Any = client.describe_instances(InstanceIds=[runner_id])
    instances = [instance for r in answer.get("Reservations", ()) for instance in r.get("Instances", ())]
    reasons = [instance.get("StateReason") or {} for instance in instances]
    return "\n".join(f"EC2: {reason['Code']}: {reason.get('Message', '')}" for reason in reasons if reason.get("Code"))
