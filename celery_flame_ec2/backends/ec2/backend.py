"""How are EC2 instances raised, listed and ended?"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...config import PoolSettings, Settings
from ...errors import BackendError, ListingPartial
from ...parent import Parent
from ...release.facts import own_facts
from ...runner import Runner
from ..base import Backend
from . import lookups
from .clients import Clients, Place, Refused, asking
from .console import last_lines
from .cookbook import Cookbook
from .editions import Editions
from .homes import VISIBLE_WITHIN, Homes
from .instances import LIVING, OWNER, POOL, has_ended, read_tags, runner_of
from .launches import Launches
from .refusals import Meaning, ending, refusal
from .sender import Consent

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

logger = logging.getLogger(__name__)

PAGE = 1000  #: instances in one answer, the most there can be
BATCH = 500  #: instances ended by one call


class Ec2Backend(Backend):
    """Runners as EC2 instances, found again by their tags. What it remembers, EC2 would tell again."""

    visible_within = VISIBLE_WITHIN

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        clients: Clients | None = None,
    ) -> None:
        """Make a backend. `clock` tells the epoch, `ticks` never jumps, both in seconds; `jitter` is from 0 to 1."""
        self._settings, self._clock = settings, clock
        self._clients = clients or Clients()
        self._cookbook = Cookbook(self._clients, environ=environ, clock=ticks)
        self._editions = Editions(self._clients, own=own_facts, clock=ticks)
        self._ticks, self._homes = ticks, Homes()
        consent = Consent(announce=lambda launch: self.announce(launch), guard=lambda: self.guard())
        self._launches = Launches(
            self._clients, self._cookbook, self._editions, consent, self._homes,
            clock=clock, ticks=ticks, jitter=jitter,
        )  # fmt: skip

    def prepare(self) -> None:
        """Pin the bundles as they are now; one that cannot be is pinned before the first launch.

        Raises:
            BackendError: some could not be.
        """
        problems = []
        for pool in self._settings.pools:
            try:
                self._editions.pin(self._cookbook.place(pool.ec2), pool.ec2)
            except BackendError as exc:
                problems.append(str(exc))
        if problems:
            raise BackendError("; ".join(dict.fromkeys(problems)))

    def release(self, pool: PoolSettings) -> str:
        """Return which edition of its bundle the pool's next runners run, as their tag says it; empty where unknown."""
        edition = self._editions.pinned(pool.ec2)
        return edition.tag if edition else ""

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        """Raise up to `count` instances, asking for each market, type and subnet in the user's order.

        Raises:
            LaunchError: EC2 gave none, or is not asked for now; the message says why and what to do.
            LaunchUnclear: EC2 did not answer, twice: what it did is unknown until `ask_again` tells.
        """
        return self._launches.launch(letter, self._settings.pool(letter.pool), count) if count > 0 else ()

    def ask_again(self, token: str) -> tuple[Runner, ...] | None:
        """Send an unanswered launch again, unchanged, and return all instances that came of it; None if it is unknown.

        Raises:
            LaunchError: none came of it, and none will.
            LaunchUnclear: there is still no answer.
        """
        return self._launches.ask_again(token) if self._launches.is_open(token) else super().ask_again(token)

    def runners(self) -> tuple[Runner, ...]:
        """List this owner's instances that are not terminated, whoever launched them.

        Raises:
            ListingPartial: EC2 did not give every page in some of the places.
            BackendError: it did in none.
        """
        found: dict[Place, tuple[Runner, ...]] = {}
        unknown: dict[str, str] = {}
        for pool in self._settings.pools:
            try:
                place = self._cookbook.place(pool.ec2)
                if place not in found:
                    found[place] = self._found(place)
            except BackendError as exc:
                unknown[pool.name] = str(exc)
        listed = tuple(runner for runners in found.values() for runner in runners)
        if unknown:
            raise ListingPartial(runners=listed, unknown=unknown) if found else BackendError(unknown.popitem()[1])
        return listed

    def terminate(self, ids: Collection[str]) -> None:
        """End these instances at once.

        Raises:
            BackendError: some may still run; the message names them.
        """
        problems: list[str] = []
        for place in self._places() if ids else ():
            client = self._clients.ec2(place)
            here = sorted(name for name in set(ids) if (self._homes.of(name) or place) == place)
            for start in range(0, len(here), BATCH):
                problems += _terminate(client, here[start : start + BATCH], self.guard)
        if problems:
            raise BackendError("; ".join(problems))

    def last_words(self, runner_id: str) -> str:
        """Return why EC2 says the instance ended and what it printed last; nothing where EC2 does not tell."""
        try:
            client = self._clients.ec2(self._homes.of(runner_id) or self._places()[0])
            return "\n".join(filter(None, (self._why_it_ended(client, runner_id), _console(client, runner_id))))
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

    def _places(self) -> list[Place]:
        return list(dict.fromkeys(self._cookbook.place(pool.ec2) for pool in self._settings.pools))

    def _found(self, place: Place) -> tuple[Runner, ...]:
        now = self._clock()
        try:
            return tuple(runner_of(instance, now) for instance in self._in(place))
        except Refused as exc:
            if exc.refusal.meaning is not Meaning.CREDENTIALS:
                raise
        self._clients.renew()  # others may have put new ones where the SDK looks
        return tuple(runner_of(instance, now) for instance in self._in(place))

    def _in(self, place: Place) -> Iterator[dict[str, Any]]:
        """Yield what EC2 lists by tags, and of what was launched a moment ago what it tells by id: also whose end."""
        listed = {instance["InstanceId"]: instance for instance in self._listed(place)}
        self._homes.listed(listed, place, self._ticks())
        yield from listed.values()
        if missing := self._homes.unlisted(place, self._ticks()):
            told = list(filter(self._is_ours, lookups.instances(self._clients.ec2(place), missing)))
            # One that lives may be missing in the next listing too; an end is told once.
            self._homes.listed([each["InstanceId"] for each in told if has_ended(each)], place, self._ticks())
            yield from told

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

    def _why_it_ended(self, client: EC2Client, runner_id: str) -> str:
        """Return EC2's reason with what to do about it; what it says is not to be had is not asked for again soon."""
        with asking("ec2:DescribeInstances"):
            answer: Any = client.describe_instances(InstanceIds=[runner_id])
        lines = []
        for instance in (found for each in answer.get("Reservations", ()) for found in each.get("Instances", ())):
            reason = instance.get("StateReason") or {}
            code, message = str(reason.get("Code", "")), str(reason.get("Message", ""))
            message = message.removeprefix(f"{code}: ")  # EC2 says the code there too
            why = ending(code, message)
            if why is not None and self._is_ours(instance):
                self._launches.failed(self._pool_of(instance), instance, why)
            lines += [f"EC2: {why or f'{code}: {message}'}"] if code else []
        return "\n".join(lines)

    def _pool_of(self, instance: Mapping[str, Any]) -> PoolSettings | None:
        name = read_tags(instance).get(POOL)
        return next((pool for pool in self._settings.pools if pool.name == name), None)

    def _is_ours(self, instance: Mapping[str, Any]) -> bool:
        # A filter's value may hold wildcards; whose instances may be ended is decided by the tag itself.
        return read_tags(instance).get(OWNER) == self._settings.owner


def _terminate(client: EC2Client, ids: list[str], guard: Callable[[], None]) -> list[str]:
    """End them in one call, or one by one where one of them is refused; return what went wrong, in words."""
    from botocore.exceptions import BotoCoreError, ClientError

    guard()
    try:
        client.terminate_instances(InstanceIds=ids)
    except (BotoCoreError, ClientError) as exc:
        answer = refusal(exc, "ec2:TerminateInstances")
        if answer.meaning is Meaning.GONE and len(ids) == 1:
            # Soon after a launch EC2 may say this of an instance that exists. Nothing is lost: whoever ends runners
            # goes by the next listing, and ends what is listed still.
            return []
        if answer.meaning in (Meaning.GONE, Meaning.FATAL) and len(ids) > 1:
            return [problem for name in ids for problem in _terminate(client, [name], guard)]
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
