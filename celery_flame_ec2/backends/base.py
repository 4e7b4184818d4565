"""Where do runners come from, and what must such a place be able to do?"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection

from ..config import PoolSettings
from ..parent import Parent
from ..runner import Launch, Runner


def unguarded() -> None:
    """Let everything happen: there is one parent."""


def unrecorded(_: Launch) -> None:
    """Record nothing: what is launched is listed at once."""


class Backend(abc.ABC):
    """A compute backend: everything this package knows of a cloud. Instances are used by one thread at a time."""

    #: Seconds a listing may be trusted when nothing was done since.
    listing_ttl: float = 10.0
    #: Seconds a launch may take to appear in a listing.
    visible_within: float = 0.0
    #: Called right before each single request that changes anything; raises where this parent may act no more. A launch
    #: is several requests, and a parent may be stopped between two of them.
    guard: Callable[[], None] = staticmethod(unguarded)
    #: Called right before each new launch request where a listing may lag behind launches, so that whoever acts next
    #: knows of it; raises where it could not be recorded, and then nothing may be launched.
    announce: Callable[[Launch], None] = staticmethod(unrecorded)

    def prepare(self) -> None:  # noqa: B027  (most backends have nothing to hold on to)
        """Hold on to what may not change while this parent lives, before its first round.

        Raises:
            BackendError: it cannot be had now; a launch tries again.
        """

    def release(self, pool: PoolSettings) -> str:  # noqa: ARG002  (most backends run what this process runs)
        """Return what tells the release of the pool's next runners from others; empty where there is no other."""
        return ""

    @abc.abstractmethod
    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        """Start up to `count` runners of the letter's pool; fewer than asked is not an error.

        Raises:
            LaunchError: none could be started, for a reason worth telling.
            LaunchUnclear: how many were started is unknown.
        """

    def ask_again(self, token: str) -> tuple[Runner, ...] | None:  # noqa: ARG002  (most backends answer at once)
        """Send an unanswered launch again, unchanged, and return all runners that came of it.

        None where this backend did not send such a launch, or knows no more of it: that says nothing about runners.

        Raises:
            LaunchError: none came of it, and none will.
            LaunchUnclear: there is still no answer.
        """
        return None

    @abc.abstractmethod
    def runners(self) -> tuple[Runner, ...]:
        """List every runner of this owner that is not gone, whoever launched it.

        Raises:
            ListingPartial: runners of some pools could be listed, and those of others not.
            BackendError: the listing failed or is incomplete.
        """

    def place(self) -> str:
        """Return what tells the runners that a listing of this backend can show from others; empty where it shows all.

        A runner finds it in FLAME_PLACE. Only of these does the listing say that they are gone.
        """
        return ""

    @abc.abstractmethod
    def terminate(self, ids: Collection[str]) -> None:
        """End these runners at once; one that is gone already is not an error.

        Raises:
            BackendError: some may still run.
        """

    @abc.abstractmethod
    def last_words(self, runner_id: str) -> str:
        """Return the last lines a runner printed, also after its end; empty where nothing is kept."""

    def concurrency(self, pool: PoolSettings) -> int:
        """Return how many tasks one runner of this pool takes at a time.

        Raises:
            BackendError: it depends on the machine, and the backend did not answer.
        """
        return pool.max_concurrency or 1

    def close(self) -> None:  # noqa: B027  (most backends hold nothing open)
        """Let go of connections. Runners go on."""
