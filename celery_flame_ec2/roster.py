"""Which runners does a pool have, and what became of them since the last look?"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .lifetime import RECALLED
from .policy import FORGET_AFTER, Failures
from .presence import Word
from .runner import Launch, Runner, RunnerState

#: Seconds until an unanswered launch is asked for once more; doubled each time.
ASK_AGAIN = 1.0


class Event(enum.Enum):
    """What became of a runner."""

    UP = "up"
    GONE = "gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One thing that happened to one runner.

    `reason` is the runner's own word for its end; `heard` says whether it ever spoke, `ours` whether this parent
    launched it (one that was adopted may have spoken before anybody listened). `seconds` is how long ago that was, by
    this parent's clock. `ages` are those it told.
    """

    event: Event
    runner: Runner
    reason: str = ""
    heard: bool = False
    ours: bool = False
    seconds: float | None = None
    ages: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """A launch nobody knows the outcome of. `seen` are the runners of it that were listed; `tries` is how often it was
    asked for, 0 where another parent did and its request is not known here."""

    launch: Launch
    asked_at: float
    tries: int = 0
    seen: frozenset[str] = frozenset()

    @property
    def unseen(self) -> int:
        """Return how many runners may exist that no listing showed."""
        return max(0, self.launch.count - len(self.seen))


class Roster:
    """One pool's runners as listed and heard. Memory is a cache: a new roster adopts what the backend lists.

    A launch may take `visible_within` seconds to appear in a listing.
    """

    def __init__(self, pool: str, *, visible_within: float) -> None:
        self.pool = pool
        self._visible_within = visible_within
        self.runners: tuple[Runner, ...] = ()
        self.failures = Failures()
        #: Tasks that runners took, those that are gone included; of an adopted one, since its first word here.
        self.taken = 0
        #: Whether the last update heard an adopted runner for the first time that is at work since nobody knows when.
        self.joined = False
        self._launched: dict[str, Runner] = {}
        self._launched_at: dict[str, float] = {}
        self._open: dict[str, Open] = {}
        self._failed_launches: set[str] = set()
        self._ours: dict[str, float] = {}
        self._taken: dict[str, int] = {}
        self._heard: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._reaped: dict[str, str] = {}
        #: Releases whose runners ask before their first task whether they were recalled.
        self._asking: set[str] = set()

    # launches

    def asked(self, launch: Launch, now: float, *, tries: int = 1) -> None:
        """Count what a launch may raise, from right before it is asked for; `tries` 0: by the parent before this."""
        seen = self._open[launch.token].seen if launch.token in self._open else frozenset()
        self._open[launch.token] = Open(launch=launch, asked_at=now, tries=tries, seen=seen)

    def answered(self, tokens: Iterable[str]) -> None:
        """Stop counting what these launches may raise: their outcome is known."""
        for token in tokens:
            self._open.pop(token, None)

    @property
    def open_tokens(self) -> frozenset[str]:
        """Return the tokens of all launches nobody knows the outcome of."""
        return frozenset(self._open)

    def launched(self, runners: Iterable[Runner], now: float) -> tuple[Runner, ...]:
        """Count runners that were just launched, until a listing shows them; return those that are new.

        To be told before their launch is `answered`.
        """
        here = {runner.id for runner in self.runners}
        fresh = tuple(runner for runner in runners if runner.id not in here)
        self._launched |= {runner.id: runner for runner in fresh}
        # `now` may be from before a long round of requests: a launch is hidden from when it was asked for itself.
        asked_at = {token: held.asked_at for token, held in self._open.items()}
        at = {runner.id: max(now, asked_at.get(runner.launch, now)) for runner in fresh}
        self._launched_at |= at
        self._ours |= at
        self.runners += fresh
        return fresh

    def unclear(self, now: float) -> int:
        """Return how many runners may exist that nobody has seen."""
        opened = tuple(self._open.values())  # another thread asks as well, and a dict must not change meanwhile
        return sum(held.unseen for held in opened if self._may_be_unlisted(held.asked_at, now))

    def unanswered(self, now: float) -> tuple[Open, ...]:
        """Return this parent's own launches that are due to be asked for once more, with the same token."""
        return tuple(
            held
            for held in self._open.values()
            if held.tries and held.unseen and now - held.asked_at >= ASK_AGAIN * 2.0 ** min(held.tries - 1, 16)
        )

    def in_flight(self, now: float) -> Collection[str]:
        """Return the tokens of all launches whose runners a listing may not show yet."""
        unclear = {
            token for token, held in self._open.items() if held.unseen and self._may_be_unlisted(held.asked_at, now)
        }
        return unclear | {runner.launch for runner in self._launched.values() if runner.launch}

    def failed(self, cause: str, now: float, *, launch: str | None = None, pause: float | None = None) -> None:
        """Count one launch that brought no runner up; those of long ago are forgotten.

        `launch` is the token of one whose machines did not come up: they count once together. `pause` see Failures.
        """
        before = self.failures if now - self.failures.at < FORGET_AFTER else Failures()
        again = launch in self._failed_launches
        self._failed_launches |= {launch} if launch else set()
        self.failures = Failures(
            count=before.count + (not again),
            boots=before.boots + (launch is not None and not again),
            at=now,
            cause=cause,
            pause=pause,
        )

    # looks

    def update(self, listed: Iterable[Runner] | None, words: Mapping[str, Word], now: float) -> tuple[Change, ...]:
        """Take in a fresh listing of this pool (None: no fresh one) and the words; tell what changed."""
        self.joined = False
        changes = self._hear(words, now)  # first: a runner may have said its last word and be gone since the last look
        if listed is not None:
            listed = tuple(listed)
            self._see(listed, now)
            changes += self._gone(listed, now)
            self.runners = listed + tuple(self._launched.values())
            changes += self._hear(words, now)
        return tuple(changes)

    def _hear(self, words: Mapping[str, Word], now: float) -> list[Change]:
        self.runners = tuple(self._with_word(runner, words.get(runner.id)) for runner in self.runners)
        return self._newly_up(words, now)

    def _see(self, listed: tuple[Runner, ...], now: float) -> None:
        fresh = {token: held for token, held in self._open.items() if self._may_be_unlisted(held.asked_at, now)}
        seen: dict[str, set[str]] = {token: set(held.seen) for token, held in fresh.items()}
        for runner in listed:
            if runner.launch in seen:
                seen[runner.launch].add(runner.id)
        self._open = {token: dataclasses.replace(held, seen=frozenset(seen[token])) for token, held in fresh.items()}

    def _gone(self, listed: tuple[Runner, ...], now: float) -> list[Change]:
        listed_ids = {runner.id for runner in listed}
        self._launched = {
            runner_id: runner
            for runner_id, runner in self._launched.items()
            if runner_id not in listed_ids and self._may_be_unlisted(self._launched_at[runner_id], now)
        }
        self._launched_at = {runner_id: self._launched_at[runner_id] for runner_id in self._launched}
        here = listed_ids | self._launched.keys()
        return [self._end(runner) for runner in self.runners if runner.id not in here]

    def _end(self, runner: Runner) -> Change:
        change = Change(
            event=Event.GONE,
            runner=runner,
            reason=self.reason(runner.id),
            heard=runner.id in self._heard,
            ours=runner.id in self._ours,
        )
        self._reaped.pop(runner.id, None)
        self._reasons.pop(runner.id, None)
        self._heard.discard(runner.id)
        self._ours.pop(runner.id, None)
        self._taken.pop(runner.id, None)
        return change

    def reaped(self, runner_id: str, reason: str) -> None:
        """Remember why a runner of this pool was ended, until it is gone: it may have no word of its own for it."""
        if any(runner.id == runner_id for runner in self.runners):
            self._reaped.setdefault(runner_id, f"reaped: {reason}")

    def recallable(self, runner_ids: Iterable[str], since: float | None) -> frozenset[str]:
        """Return those of these that boot, and will ask before their first task whether they were recalled.

        Only those whose launch and all after it this parent heard, as it does `since` then: of the others one that
        merely was not heard yet may be at work.
        """
        asking = [runner for runner in self.runners if runner.release in self._asking]
        booting = {runner.id for runner in asking if runner.state is RunnerState.BOOTING}
        attended = {name for name, at in self._ours.items() if since is not None and at > since}
        return frozenset(booting & attended.intersection(runner_ids))

    def recalled(self, runner_ids: Iterable[str]) -> None:
        """Count these no more: they will never work."""
        self._reaped |= dict.fromkeys(runner_ids, RECALLED)
        self.runners = tuple(self._with_word(runner, None) for runner in self.runners)

    def reason(self, runner_id: str) -> str:
        """Return why a runner that is not gone yet ends; empty where it is not known to."""
        return self._reaped.get(runner_id, "") or self._reasons.get(runner_id, "")

    def _with_word(self, runner: Runner, word: Word | None) -> Runner:
        if word is None:
            recalled = self._reaped.get(runner.id) == RECALLED
            return dataclasses.replace(runner, state=RunnerState.ENDING) if recalled else runner
        if word.recallable:
            self._asking.add(runner.release)
        if word.taken != self._taken.get(runner.id):
            self._count(word)
        if word.reason:
            self._reasons[runner.id] = word.reason
        state = runner.state if runner.state is RunnerState.ENDING else word.state
        if (state, word.active) == (runner.state, runner.active):
            return runner
        return dataclasses.replace(runner, state=state, active=word.active)

    def _count(self, word: Word) -> None:
        """Add what it took since its last word: one of ours from none on, an adopted one from its first word on."""
        name, before = word.runner_id, self._taken.get(word.runner_id)
        if before is None:
            before = 0 if name in self._ours else word.taken
            self.joined |= name not in self._ours and word.active > 0
        self._taken[name] = max(before, word.taken)
        self.taken += self._taken[name] - before

    def _newly_up(self, words: Mapping[str, Word], now: float) -> list[Change]:
        fresh = [r for r in self.runners if r.id in words and r.id not in self._heard]
        self._heard |= {runner.id for runner in fresh}
        up = [runner for runner in fresh if runner.state is RunnerState.UP]
        if any(self._proves_launches(runner) for runner in up):
            self.well()
        return [self._came_up(runner, words[runner.id], now) for runner in up]

    def _came_up(self, runner: Runner, word: Word, now: float) -> Change:
        launched_at = self._ours.get(runner.id)
        return Change(
            event=Event.UP,
            runner=runner,
            heard=True,
            ours=launched_at is not None,
            seconds=None if launched_at is None else now - launched_at,
            ages=word.ages,
        )

    def _proves_launches(self, runner: Runner) -> bool:
        """Tell whether a runner that is up shows that launches go well again: an old one does not."""
        return runner.launched_at > self.failures.at or runner.launch in self._failed_launches

    def take_for_up(self, boot_timeout: float, now: float) -> None:
        """Where nobody can be heard, take for up what outlived its boot: one that fails has powered off by then."""
        booting = (runner for runner in self.runners if runner.state is RunnerState.BOOTING)
        aged = {runner.id for runner in booting if now - runner.launched_at > boot_timeout}
        as_up = functools.partial(dataclasses.replace, state=RunnerState.UP)
        self.runners = tuple(as_up(runner) if runner.id in aged else runner for runner in self.runners)
        if any(self._proves_launches(runner) for runner in self.runners if runner.id in aged):
            self.well()

    def well(self) -> None:
        """Forget failed launches: one went well."""
        self.failures = Failures()
        self._failed_launches.clear()

    def is_ours(self, runner_id: str) -> bool:
        """Tell whether this parent launched it."""
        return runner_id in self._ours

    def _may_be_unlisted(self, asked_at: float, now: float) -> bool:
        return now - asked_at < self._visible_within
