"""Which runners will not end themselves? Pure: what was seen in, whom to end and why out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .lifetime import BROKER_PATIENCE
from .runner import Limits, Runner, RunnerState

#: Seconds a runner may outlive its deadline: its own timers go first, and they have margins too.
DEADLINE_GRACE = 60.0
#: Seconds between the two looks that what is merely unknown needs: listings and words may lag.
SECOND_LOOK = 60.0
#: The same where only words may be missing: longer than a connection may stand and bring none before that is noticed.
DEAF_FOR = 20.0
#: Seconds in which a runner that is up takes none of the tasks that wait, before it is replaced.
STALLED_AFTER = 60.0
#: Seconds of silence, beside its `shutdown_timeout`, after which a runner that did speak must have ended itself.
LOST_AFTER = BROKER_PATIENCE + 60.0
#: Seconds for which a word tells what a runner does: longer than one without news is silent.
FRESH = 25.0
#: Seconds until one that is still listed is ended once more.
AGAIN_AFTER = 30.0
#: Of what is merely unknown, this many are ended within SECOND_LOOK, or this share of all runners where it is more:
#: a mistake about all of them must not end all of them.
FEW, SHARE = 10, 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """One runner as it looks now. Moments are seconds of one clock that never jumps.

    `ours` was launched by this parent. `heard_at` is its last word, None if it never spoke; `since` is when words began
    to arrive, None while they do not: then silence says nothing. `taken` counts the tasks it took, `waits` says whether
    its queues hold more.
    """

    runner: Runner
    limits: Limits
    ours: bool = False
    heard_at: float | None = None
    since: float | None = None
    taken: int = 0
    waits: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Reap:
    """A runner that will not end itself, and why it must be ended. `certain` is not only a suspicion."""

    runner: Runner
    reason: str
    certain: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Suspicion:
    """What looks wrong, since when; it must last for `patience` seconds. `mark` is what ends it when it changes."""

    kind: str
    since: float
    patience: float
    mark: int = 0


class Reaper:
    """Remembers what looked wrong, and since when. One for all pools: also runners of pools that are no more end."""

    def __init__(self) -> None:
        self._first_seen: dict[str, float] = {}
        self._suspicions: dict[str, _Suspicion] = {}
        self._told: dict[str, float] = {}
        self._doubtful: list[float] = []

    def look(self, sights: Iterable[Sight], now: float, epoch: float) -> tuple[Reap, ...]:
        """Return whom to end now. `sights` are all runners of a complete listing; `epoch` is the clock of deadlines."""
        sights = tuple(sights)
        self._remember({sight.runner.id for sight in sights}, now)
        found = tuple(filter(None, (self._judge(sight, now, epoch) for sight in sights)))
        due = tuple(reap for reap in found if reap.runner.id not in self._told)
        reaped = tuple(self._within_bounds(due, len(sights), now))
        self._told |= {reap.runner.id: now for reap in reaped}
        return reaped

    def _remember(self, here: set[str], now: float) -> None:
        # By this parent's own clock: EC2's, which the time of a launch is of, may be another.
        self._first_seen = {name: self._first_seen.get(name, now) for name in here}
        self._suspicions = {name: held for name, held in self._suspicions.items() if name in here}
        self._told = {name: at for name, at in self._told.items() if name in here and now - at < AGAIN_AFTER}

    def _judge(self, sight: Sight, now: float, epoch: float) -> Reap | None:
        runner = sight.runner
        if runner.shutting_down:
            return None
        if certain := _certain(runner, epoch):
            return Reap(runner=runner, reason=certain, certain=True)
        suspicion = _suspicion(sight, self._first_seen[runner.id], now)
        if suspicion is None:
            self._suspicions.pop(runner.id, None)
            return None
        held = self._suspicions.get(runner.id)
        if held is None or (held.kind, held.mark) != (suspicion.kind, suspicion.mark):
            held = self._suspicions[runner.id] = suspicion
        return Reap(runner=runner, reason=held.kind) if now - held.since >= held.patience else None

    def _within_bounds(self, found: tuple[Reap, ...], count: int, now: float) -> Iterator[Reap]:
        self._doubtful = [at for at in self._doubtful if now - at < SECOND_LOOK]
        bound = max(FEW, int(count * SHARE))
        for reap in found:
            if reap.certain or len(self._doubtful) < bound:
                self._doubtful += [] if reap.certain else [now]
                yield reap


def _certain(runner: Runner, epoch: float) -> str | None:
    if runner.powered_off:
        return "its machine is powered off but not terminated"
    if runner.deadline is not None and epoch > runner.deadline + DEADLINE_GRACE:
        return f"it is {epoch - runner.deadline:.0f} s past its deadline"
    return None


def _suspicion(sight: Sight, first_seen: float, now: float) -> _Suspicion | None:
    runner, limits, heard_at = sight.runner, sight.limits, sight.heard_at
    if sight.since is None:
        return None
    silent = now - max(first_seen, sight.since, heard_at or first_seen)
    if heard_at is None and silent > limits.boot_timeout:
        kind = f"no hello within boot_timeout ({limits.boot_timeout:g} s)"
        return _Suspicion(kind=kind, since=now, patience=DEAF_FOR if sight.ours else SECOND_LOOK)
    if heard_at is not None and silent > LOST_AFTER + limits.shutdown_timeout:
        kind = f"no word for {LOST_AFTER + limits.shutdown_timeout:g} s"
        return _Suspicion(kind=kind, since=now, patience=SECOND_LOOK)
    # An old word does not say what it does now: a task may keep it from speaking.
    speaks = heard_at is not None and now - heard_at < FRESH
    if speaks and runner.state is RunnerState.UP and sight.waits and not runner.active:
        kind = f"it took no task for {STALLED_AFTER:g} s though work waits"
        return _Suspicion(kind=kind, since=now, patience=STALLED_AFTER, mark=sight.taken)
    return None
