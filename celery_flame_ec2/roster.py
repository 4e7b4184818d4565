"""Which runners does a pool have, and what became of them since the last look?"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .policy import LONGEST_PAUSE, Failures
from .presence import Word
from .runner import Runner, RunnerState

#: Seconds a launch may take to appear in a listing: EC2's listings lag behind its launches.
VISIBLE_WITHIN = 60.0
#: Seconds after which a failed launch says nothing about the next: twice the longest pause there is.
FORGET_AFTER = 2 * LONGEST_PAUSE


class Event(enum.Enum):
    """What became of a runner."""

    UP = "up"
    GONE = "gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that happened to one runner.

    `reason` is the runner's own word for its end; `heard` says whether it ever spoke, `ours` whether this parent
    launched it (one that was adopted may have spoken before anybody listened).
    """

    event: Event
    runner: Runner
    reason: str = ""
    heard: bool = False
    ours: bool = False


class Roster:
    """One pool's runners as listed and heard. Memory is a cache: a new roster adopts what the backend lists."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.runners: tuple[Runner, ...] = ()
        self.failures = Failures()
        self._launched: dict[str, Runner] = {}
        self._unclear, self._unclear_at = 0, 0.0
        self._ours: set[str] = set()
        self._heard: set[str] = set()
        self._reasons: dict[str, str] = {}

    def launched(self, runners: Iterable[Runner]) -> None:
        """Count runners that were just launched, until a listing shows them."""
        fresh = {runner.id: runner for runner in runners}
        self._launched |= fresh
        self._ours |= fresh.keys()
        self.runners += tuple(fresh.values())

    def may_exist(self, count: int, now: float) -> None:
        """Count runners of a launch that was not answered, until a listing must have shown them."""
        self._unclear, self._unclear_at = self.unclear(now) + count, now

    def unclear(self, now: float) -> int:
        """Return how many runners may exist that nobody has seen."""
        return self._unclear if abs(now - self._unclear_at) < VISIBLE_WITHIN else 0

    def failed(self, cause: str, now: float) -> None:
        """Count one launch that brought no runner up; those of long ago are forgotten."""
        recent = now - self.failures.at < FORGET_AFTER
        self.failures = Failures(count=self.failures.count + 1 if recent else 1, at=now, cause=cause)

    def update(self, listed: Iterable[Runner] | None, words: Mapping[str, Word], now: float) -> tuple[Change, ...]:
        """Take in a fresh listing of this pool (None: no fresh one) and the words; tell what changed."""
        changes: list[Change] = []
        if listed is not None:
            listed = tuple(listed)
            strangers = {each.id for each in listed} - self._ours - {each.id for each in self.runners}
            self._unclear = max(0, self._unclear - len(strangers))
            changes += self._gone(listed, now)
            self.runners = listed + tuple(self._launched.values())
        self.runners = tuple(self._with_word(runner, words.get(runner.id)) for runner in self.runners)
        changes += self._newly_up(words)
        return tuple(changes)

    def _gone(self, listed: tuple[Runner, ...], now: float) -> list[Change]:
        listed_ids = {runner.id for runner in listed}
        self._launched = {
            runner_id: runner
            for runner_id, runner in self._launched.items()
            if runner_id not in listed_ids and abs(now - runner.launched_at) < VISIBLE_WITHIN
        }
        here = listed_ids | self._launched.keys()
        return [self._end(runner) for runner in self.runners if runner.id not in here]

    def _end(self, runner: Runner) -> Change:
        change = Change(
            event=Event.GONE,
            runner=runner,
            reason=self._reasons.pop(runner.id, ""),
            heard=runner.id in self._heard,
            ours=runner.id in self._ours,
        )
        self._heard.discard(runner.id)
        self._ours.discard(runner.id)
        return change

    def _with_word(self, runner: Runner, word: Word | None) -> Runner:
        if word is None:
            return runner
        if word.reason:
            self._reasons[runner.id] = word.reason
        state = runner.state if runner.state is RunnerState.ENDING else word.state
        return dataclasses.replace(runner, state=state, active=word.active)

    def _newly_up(self, words: Mapping[str, Word]) -> list[Change]:
        fresh = [r for r in self.runners if r.id in words and r.id not in self._heard]
        self._heard |= {runner.id for runner in fresh}
        up = [runner for runner in fresh if runner.state is RunnerState.UP]
        if up:
            self.failures = Failures()
        return [Change(event=Event.UP, runner=runner, heard=True, ours=runner.id in self._ours) for runner in up]
