"""How does a runner pin its words, and obey what is ordered on the board, without anything else waiting for it?"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import BoardError
from ..parent import Parent
from ..presence import BEAT, REPEAT, Word
from . import open_board
from .base import Board, Pin
from .text import RUNNER_ID, write

logger = logging.getLogger(__name__)

#: Seconds between two looks at oneself.
TICK = 0.25
#: Seconds between two words that only tell of work that came or went: no parent looks more often.
BUSY_BEAT = 5.0
#: Seconds between two looks at the orders, and after a request that failed: it may have taken as long as it may.
ORDERS_EVERY, AFTER_TROUBLE = 5.0, 10.0
#: Seconds the worker's end waits for the last word.
LAST_WORD = 3.0


class Scribe:
    """A runner's hand at the board, on a thread of its own: neither its end nor its worker's loop waits for it."""

    def __init__(
        self,
        board: Board,
        runner_id: str,
        *,
        word: Callable[[], Word],
        obey: Callable[[bool], None],
        clock: Callable[[], float] = time.monotonic,
        first: int | None = None,
    ) -> None:
        """Make a scribe. `word` is what the runner says now; `obey` is told whether it is to be cordoned.

        Words are counted from `first`. The time in milliseconds, where not given, sets a runner that was started twice
        above its former words; how right it is does not matter.
        """
        self._board, self._runner_id, self._word, self._obey, self._clock = board, runner_id, word, obey, clock
        self._count = time.time_ns() // 1_000_000 if first is None else first
        self._said: Word | None = None
        self._say_from = self._orders_at = float("-inf")
        self._said_at = clock()
        self._cordoned: bool | None = None
        self._trouble = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self.run, name="flame-scribe", daemon=True)

    def start(self, **_: Any) -> None:
        """Begin with the hello."""
        self._thread.start()

    def stop(self) -> None:
        """Say the last word, if that is possible soon."""
        self._over.set()
        if self._thread.ident:
            self._thread.join(timeout=LAST_WORD)

    def run(self) -> None:
        """Say and obey until it is over."""
        self._try(last=False)
        while not self._over.wait(TICK):
            self._try(last=False)
        self._try(last=True)

    def _try(self, *, last: bool) -> None:
        try:
            self.look(self._clock(), last=last)
        except Exception:  # the thread must outlive it: a silent runner may be taken for dead
            logger.exception("flame: looking at the board failed; the next look follows")

    def look(self, now: float, *, last: bool = False) -> None:
        """Pin the word where there is news, or for too long none; read the orders where that is due."""
        word = self._word()
        if self._is_due(word, now, last=last):
            self._pin(word, now)
        if not last and now >= self._orders_at:
            self._read_orders(now)

    def _is_due(self, word: Word, now: float, *, last: bool) -> bool:
        said, ago = self._said, now - self._said_at
        if said is None or (word.state, word.reason) != (said.state, said.reason):
            return last or now >= self._say_from
        is_news = bool(word.active) != bool(said.active)
        return not last and now >= self._say_from and ago >= (BUSY_BEAT if is_news else REPEAT)

    def _pin(self, word: Word, now: float) -> None:
        self._count += 1
        try:
            self._board.pin(Pin(runner_id=self._runner_id, text=write(word, self._count)))
        except BoardError as exc:
            self._say_from = self._clock() + AFTER_TROUBLE
            self._complain("words are not pinned", exc)
        else:
            self._said, self._said_at, self._say_from = word, now, now + BEAT
            self._trouble = ""

    def _read_orders(self, now: float) -> None:
        self._orders_at = now + ORDERS_EVERY
        try:
            self._cordoned = self._runner_id in self._board.cordoned()
        except BoardError as exc:
            self._orders_at = self._clock() + AFTER_TROUBLE
            self._complain("orders are not read", exc)
        if self._cordoned is not None:
            self._obey(self._cordoned)

    def _complain(self, what: str, exc: BoardError) -> None:
        log = logger.debug if self._trouble else logger.warning  # once: it may be away for hours
        log("flame: %s: %s", what, exc)
        self._trouble = what


def open_scribe(
    letter: Parent, runner_id: str, *, word: Callable[[], Word], obey: Callable[[bool], None]
) -> Scribe | None:
    """Return this runner's scribe; None where the broker carries its words, or, which it says, where it can have none.

    To be called before the pool forks: the SDK is imported now.
    """
    if not letter.board:
        return None
    try:
        if not RUNNER_ID.fullmatch(runner_id):
            raise BoardError(f"the runner's id {runner_id!r} cannot be a part of a name there")
        return Scribe(open_board(letter.board), runner_id, word=word, obey=obey)
    except BoardError as exc:
        logger.warning("flame: this runner works without a word to its parent: %s", exc)
        return None
