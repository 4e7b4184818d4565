"""What do the runners say of themselves, and how does it travel?"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from celery import Celery
from kombu.connection import Connection

from .broker import cause, channel, hear_events
from .errors import DemandUnknown
from .runner import RunnerState

logger = logging.getLogger(__name__)

#: Without `-E` a worker's dispatcher sends the group "worker" only, so the type must begin with it.
EVENT = "worker-flame"
ROUTING_KEY = "worker.flame"
#: Seconds between two words of a runner while it has news, and after which it says the same again: presence is
#: repeated, so a word that got lost is not missed for long. A thousand runners' words are a parent's largest expense.
BEAT, REPEAT = 2.0, 10.0
#: Seconds between two words of a listener to itself, before it heard the first and after, and within which it must hear
#: one. The first ones may be lost: a broker may bind the listener's queue later than it says so.
FIRST_ECHO, ECHO, ECHO_WITHIN = 1.0, 5.0, 10.0
#: How the name begins under which a listener speaks to itself.
LISTENER = "listener:"
#: Seconds that what came meanwhile may take to hear, and a wait that is over when nothing more has come.
CATCH_UP, INSTANT = 1.0, 0.001


class Dispatcher(Protocol):
    """The part of Celery's EventDispatcher a runner speaks through."""

    def send(self, type: str, **fields: Any) -> Any: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """What a runner said last. `reason` is why it ends; `heard_at` is the parent's clock, seconds since the epoch.

    `active` tasks are with it now, `taken` is how many it accepted since its start. `node` is its worker's name, by
    which it can be told something; empty where it speaks. `ages` are the seconds for which its machine and its process
    had been running at its hello, where it knows. It is `recallable` if, before its first task, it asked whether it was
    recalled: so do all of its release.
    """

    runner_id: str
    pool: str
    owner: str
    state: RunnerState
    active: int = 0
    taken: int = 0
    reason: str = ""
    heard_at: float = 0.0
    node: str = ""
    ages: tuple[float, float] | None = None
    recallable: bool = False


def say(dispatcher: Dispatcher, word: Word) -> None:
    """Send a runner's word to whoever listens; nobody listening is fine."""
    dispatcher.send(
        EVENT,
        runner=word.runner_id,
        pool=word.pool,
        owner=word.owner,
        state=word.state.value,
        active=word.active,
        taken=word.taken,
        reason=word.reason,
        ages=word.ages,
        recallable=word.recallable,
    )


class Voice:
    """A runner's way to be heard while a task keeps its worker's loop from speaking, as in a solo pool."""

    def __init__(self, connect: Callable[[], Connection], dispatcher: Callable[..., Dispatcher]) -> None:
        """Make a voice; `dispatcher` makes one of Celery's for a connection. Nothing is connected yet."""
        self._connect, self._dispatcher = connect, dispatcher
        self._connection: Connection | None = None

    def say(self, word: Word) -> None:
        """Say it over an own connection; never raises when the broker is away."""
        try:
            self._connection = self._connection or self._connect()
            say(self._dispatcher(self._connection, channel=channel(self._connection)), word)
        except Exception as exc:  # noqa: BLE001  whatever a transport raises, the next word connects anew
            logger.debug("a word was not said: %s", type(exc).__name__)
            self.close()

    def close(self) -> None:
        """Let go of the connection; a later word connects anew."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class Presence:
    """Hears one owner's runners over worker events, on a connection of its own.

    A connection can stand and yet bring nothing. So the listener says a word to itself now and then, by the way the
    runners' words take: it is `listening_since` it first heard itself, and no more when it does not any longer.
    """

    def __init__(
        self,
        app: Celery,
        *,
        owner: str,
        connect: Callable[[], Connection],
        clock: Callable[[], float],
    ) -> None:
        self._app = app
        self._owner = owner
        self._connect = connect
        self._clock = clock
        self._connection: Connection | None = None
        self._dispatcher: Dispatcher | None = None
        self._words: dict[str, Word] = {}
        self._deaf = False
        self._me = f"{LISTENER}{uuid.uuid4().hex}"
        self._echo_at, self._echo_due = float("-inf"), 0.0
        self.listening_since: float | None = None

    @property
    def words(self) -> Mapping[str, Word]:
        """The last word of each runner, by runner id."""
        return dict(self._words)

    def listen(self, seconds: float) -> bool:
        """Hear what comes within `seconds` and return whether anything came; never raises when the broker is away."""
        try:
            connection = self._connection or self._open()
            self._say_to_oneself()
            connection.drain_events(timeout=seconds)
        except TimeoutError:
            self._notice_deafness()
            return False
        except Exception as exc:  # noqa: BLE001  whatever a transport raises, the next call connects anew
            self._complain(str(exc) if isinstance(exc, DemandUnknown) else type(exc).__name__)
            return False
        return True

    def catch_up(self) -> None:
        """Hear everything that came while nobody listened: a runner that spoke meanwhile is not a silent one."""
        deadline = time.monotonic() + CATCH_UP
        while self._connection is not None and self.listen(INSTANT) and time.monotonic() < deadline:
            pass

    def forget(self, runner_ids: set[str]) -> None:
        """Drop the words of runners that are gone."""
        for runner_id in runner_ids & self._words.keys():
            del self._words[runner_id]

    def close(self) -> None:
        """Stop hearing; what was said stays known, but silence means nothing until `listen` connects again."""
        connection, self._connection, self.listening_since = self._connection, None, None
        self._dispatcher = None
        if connection is not None:
            connection.release()

    def _open(self) -> Connection:
        connection = self._connect()
        try:
            opened = channel(connection)
            hear_events(self._app, opened, {EVENT: self._hear}, ROUTING_KEY)
        except Exception as exc:
            told = f"{connection.as_uri()}: {cause(exc, connection)}"
            connection.release()
            raise DemandUnknown(told) from exc
        self._connection, self._echo_at, self._echo_due = connection, float("-inf"), float("inf")
        self._dispatcher = self._app.events.Dispatcher(connection, channel=opened, groups={"worker"})
        return connection

    def _say_to_oneself(self) -> None:
        now = self._clock()
        if self._dispatcher is not None and now - self._echo_at >= (
            FIRST_ECHO if self.listening_since is None else ECHO
        ):
            say(self._dispatcher, Word(runner_id=self._me, pool="", owner=self._owner, state=RunnerState.UP))
            self._echo_at, self._echo_due = now, min(self._echo_due, now + ECHO_WITHIN)

    def _notice_deafness(self) -> None:
        """Take oneself for deaf where nothing is left to hear and the own word did not come."""
        if self._connection is not None and self._clock() > self._echo_due:
            self._complain(f"the connection stands, but no word came over it for {ECHO_WITHIN:g} s")

    def _complain(self, why: str) -> None:
        log = logger.debug if self._deaf else logger.warning  # once: a broker may be away for hours
        log("runners are not heard: %s", why)
        self.close()
        self._deaf = True

    def _hear_oneself(self) -> None:
        self._echo_due, self._deaf = float("inf"), False
        if self.listening_since is None:
            self.listening_since = self._clock()

    def _hear(self, event: Mapping[str, Any]) -> None:
        if event.get("owner") != self._owner:
            return
        if event.get("runner") == self._me:
            self._hear_oneself()
        if str(event.get("runner")).startswith(LISTENER):
            return
        try:
            word = Word(
                runner_id=str(event["runner"]),
                pool=str(event["pool"]),
                owner=self._owner,
                state=RunnerState(event["state"]),
                active=int(event["active"]),
                taken=int(event.get("taken", 0)),  # runners of a release before this one do not say
                reason=str(event["reason"]),
                heard_at=self._clock(),
                node=str(event.get("hostname", "")),
                ages=_ages(event.get("ages")),
                recallable=event.get("recallable") is True,
            )
        except (KeyError, TypeError, ValueError):
            logger.warning("a %s event that no runner of this version sends was left out", EVENT)
            return
        self._words[word.runner_id] = word


def _ages(told: Any) -> tuple[float, float] | None:
    if told is None:
        return None
    machine, process = map(float, told)
    if not 0 <= process < math.inf or not 0 <= machine < math.inf:
        raise ValueError("no ages")
    return machine, process
