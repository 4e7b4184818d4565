"""What is a board to those who use it?"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from ..errors import BoardError

#: Seconds a board may take to begin an answer, and to connect.
READ_TIMEOUT, CONNECT_TIMEOUT = 5.0, 2.0
#: Seconds all pages of a listing may take together.
LISTING_TIMEOUT = 5.0
#: Bytes of the orders that are read: those of ten thousand runners take a third.
MOST_BYTES = 1 << 20

#: Makes of the runners that are to take no more work those that are to from now on.
Change = Callable[[frozenset[str]], frozenset[str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One runner's text on the board."""

    runner_id: str
    text: str


class Board(Protocol):
    """A place where each runner has one text and reads one list of orders. Used by one thread."""

    #: In words for the log.
    place: str
    #: Whether every runner can write here; else one that is not read may lack the right to, or the SDK.
    open_to_all: bool

    def pin(self, pin: Pin) -> None:
        """Put a runner's text up in place of its former one.

        Raises:
            BoardError: the board did not answer, or refused; the text may be up.
        """

    def pins(self) -> list[Pin]:
        """Return everything that is up: of a runner that is about to take its former text down, both.

        Raises:
            BoardError: the board did not answer, or not wholly, or refused.
        """

    def take_down(self, pins: Collection[Pin]) -> None:
        """Take these down; those that are not up any more are no error.

        Raises:
            BoardError: the board did not answer, or refused; then all or none may be down.
        """

    def cordoned(self) -> frozenset[str]:
        """Return the ids of the runners that are to take no more work; nobody where no order was ever given.

        Raises:
            BoardError: the board did not answer, or refused, or holds what nobody of us writes.
        """

    def order(self, change: Change) -> None:
        """Change who is to take no more work; nobody else's change gets lost by it.

        Raises:
            BoardError: the board did not answer, or refused; then the change may be made.
        """


def read_orders(body: bytes, place: str) -> frozenset[str]:
    """Return the runner ids in what `write_orders` wrote.

    Raises:
        BoardError: it is something else.
    """
    try:
        ids = json.loads(body)["cordoned"]
        if not isinstance(ids, list):
            raise TypeError("no list")
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BoardError(f"{place}: the orders are not what a parent writes: {type(exc).__name__}") from exc
    return frozenset(each for each in ids if isinstance(each, str))


def write_orders(ids: Collection[str]) -> bytes:
    """Return these runner ids as the board keeps them."""
    return json.dumps({"cordoned": sorted(ids)}).encode()
