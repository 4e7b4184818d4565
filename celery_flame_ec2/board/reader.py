"""What does a parent read on the board, what does it order there, and when does an empty place mean something?"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ..errors import BoardError, OrderError
from ..orders import Order
from ..presence import Word
from ..reaper import FRESH
from ..runner import Runner
from .base import Board, Pin
from .text import count_of, read

logger = logging.getLogger(__name__)

#: Seconds between two looks at the board, and after one that failed: it may have taken as long as it may.
LOOK_EVERY, AFTER_TROUBLE = 5.0, 20.0
#: Seconds a runner must be in no listing before its words are taken down: a listing may lag behind it.
TAKE_DOWN_AFTER = 60.0
#: Words that are taken down in one round.
MOST_DOWN = 500


class Reader:
    """One parent's eyes at the board. Used by one thread. `clock` must not be set while it is used.

    The clocks of runners do not matter: a word is heard when its count is new since the last look.
    """

    def __init__(self, board: Board, *, owner: str, clock: Callable[[], float], every: float = LOOK_EVERY) -> None:
        self._board, self._owner, self._clock, self._every = board, owner, clock, every
        self._look_at = float("-inf")
        self._words: dict[str, Word] = {}
        #: All that is up, and what it says.
        self._pins: dict[Pin, Word] = {}
        self._superseded: set[Pin] = set()
        self._left: set[Pin] = set()
        self._gone_since: dict[str, float] = {}
        self._unneeded = self._deaf = self._warned = self._untidy = self._tidied = False
        self.since: float | None = None

    @property
    def words(self) -> Mapping[str, Word]:
        """The last word of each runner, by runner id."""
        return dict(self._words)

    def look(self, *, anew: bool = False) -> bool:
        """Read the board where the last look is too old, or `anew`; return whether it was tried. Never raises."""
        now = self._clock()
        if now < self._look_at and not (anew and self.since is not None):
            return False
        if self._unneeded and not self._pins:
            return False
        try:
            pins = self._board.pins()
        except BoardError as exc:
            self._complain(exc)
            return True
        if self.since is None:
            self.since = self._clock()
        self._deaf = self._tidied = False
        self._look_at = now + self._every
        self._take(pins, self._clock())
        return True

    def attends(self, runners: Collection[Runner]) -> dict[str, float | None]:
        """Return since when each would have been heard had it spoken; None where its silence says nothing.

        A runner works also where it cannot write to the board, for want of a right, a route or the SDK. So where that
        may be, one's silence says something only while another of its pool is heard, and that of one that never spoke
        only while one that was launched no later is: its release may be one that does not speak.
        """
        if self.since is None or self._board.open_to_all:
            return {runner.id: self.since for runner in runners}
        heard = self._first_heard(runners)
        return {runner.id: self.since if self._has_witness(runner, heard) else None for runner in runners}

    def hears(self, pool: str) -> bool:
        """Tell whether runners of this pool can be heard here at all, as far as is known."""
        return self._board.open_to_all or any(word.pool == pool for word in self._words.values())

    def keep(self, runner_ids: Collection[str]) -> None:
        """Forget the words of all runners but these, which are all that exist."""
        now, here = self._clock(), set(runner_ids)
        self._unneeded = not here
        self._words = {name: word for name, word in self._words.items() if name in here}
        gone = {pin.runner_id for pin in self._pins} - here
        self._gone_since = {name: self._gone_since.get(name, now) for name in gone}

    def tidy(self) -> None:
        """Take down words of runners that are gone for long, and those that others left; for the parent that acts."""
        due = set(itertools.islice(self._due(self._clock()), MOST_DOWN))
        if not due or self._tidied or self.since is None:
            return
        self._tidied = True  # until the next look
        try:
            self._board.take_down(due)
        except BoardError as exc:
            log = logger.debug if self._untidy else logger.warning
            log("words of runners that are gone stay on the board: %s", exc)
            self._untidy = True
        else:
            self._pins = {pin: word for pin, word in self._pins.items() if pin not in due}
            self._untidy = False

    def order(self, order: Order, runner_ids: Collection[str]) -> None:
        """Let these runners take no more work, or take it again. They read it within seconds.

        Raises:
            OrderError: it could not be written. Where the board is not to be read, that is said without asking it.
        """
        if self._deaf:
            raise OrderError(f"{self._board.place} cannot be read, so runners are told nothing over it")
        told = frozenset(runner_ids)
        here = {pin.runner_id for pin in self._pins} | told if self.since is not None else None

        def change(before: frozenset[str]) -> frozenset[str]:
            kept = before if here is None else before & here
            return kept | told if order is Order.CORDON else kept - told

        try:
            self._board.order(change)
        except BoardError as exc:
            raise OrderError(str(exc)) from exc

    def close(self) -> None:
        """Read no more; silence means nothing until `look` reads again."""
        self.since = None

    def _take(self, pins: Iterable[Pin], now: float) -> None:
        read_before, self._pins = self._pins, {}
        for pin in pins:
            if word := read_before.get(pin) or self._read(pin, now):
                self._pins[pin] = word
        several: dict[str, list[Pin]] = {}
        for pin in self._pins:
            several.setdefault(pin.runner_id, []).append(pin)
        for each in several.values():
            each.sort(key=lambda pin: count_of(pin.text))
        self._words = {runner_id: self._pins[each[-1]] for runner_id, each in several.items()}
        superseded = {pin for each in several.values() for pin in each[:-1]}
        self._left, self._superseded = self._superseded & superseded, superseded

    def _read(self, pin: Pin, now: float) -> Word | None:
        """Return what a pin says; None where no runner of ours pinned it: whoever may write here may write anything."""
        try:
            return read(pin.runner_id, pin.text, owner=self._owner, heard_at=now)
        except ValueError:
            if not self._warned:  # once: it stays there
                name = f"{pin.runner_id}/{pin.text}"[:80]
                logger.warning("%s holds what no runner pins, which is left out: %r", self._board.place, name)
            self._warned = True
            return None

    def _due(self, now: float) -> Iterator[Pin]:
        for pin in self._pins:
            gone = now - self._gone_since.get(pin.runner_id, now) >= TAKE_DOWN_AFTER
            if gone or pin in self._left:
                yield pin

    def _first_heard(self, runners: Iterable[Runner]) -> dict[str, list[Runner]]:
        """Return by pool the two runners that are heard and were launched first: one is not the one in question."""
        now, found = self._clock(), dict[str, list[Runner]]()
        for runner in runners:
            word = self._words.get(runner.id)
            if word is not None and now - word.heard_at < FRESH:
                earliest = [*found.get(runner.pool, ()), runner]
                found[runner.pool] = sorted(earliest, key=lambda each: each.launched_at)[:2]
        return found

    def _has_witness(self, runner: Runner, heard: Mapping[str, list[Runner]]) -> bool:
        others = [each for each in heard.get(runner.pool, ()) if each.id != runner.id]
        spoke = runner.id in self._words
        return any(spoke or each.launched_at <= runner.launched_at for each in others)

    def _complain(self, exc: BoardError) -> None:
        log = logger.debug if self._deaf else logger.warning  # once: it may be away for hours
        log("runners are not heard: %s", exc)
        self._deaf, self.since, self._look_at = True, None, self._clock() + AFTER_TROUBLE
