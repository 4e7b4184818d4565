"""What has a pool's queue taught: how much arrives, how long tasks run, how long boots take? Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

#: Seconds that tasks, and boots, are taken to last as long as none has been seen; the former weighs as so many tasks.
FIRST_RUNTIME, FIRST_BOOT, FIRST_WEIGHT = 30.0, 60.0, 0.1
#: Tasks that must have ended before their runtime is known: from then on it is off by a fifth at most, mostly.
ENOUGH = 30
#: Seconds after which a task that ended counts for 1/e of one that ends now: runtimes are learned over both, and the
#: longer runtime holds: longer tasks are felt within minutes, and a few short ones among them do not hide them.
QUICK, SLOW = 60.0, 300.0
#: Arrivals are counted over so many spans of so many seconds. The largest two do not count: a burst is not a rate.
SPANS, SPAN, BURSTS = 6, 10.0, 2
#: Seconds over which arrivals are averaged for what lasts.
LASTING = 480.0
#: The weight of one more boot in their mean.
BOOT_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Seconds that slots were at work, and tasks that ended in them; both fade."""

    seconds: float = 0.0
    ended: float = 0.0

    def after(self, elapsed: float, memory: float, *, seconds: float, ended: float) -> Work:
        """Add what was done evenly in the last `elapsed` seconds, and let all fade by then."""
        kept = math.exp(-elapsed / memory)
        added = (1 - kept) * memory / elapsed
        return Work(seconds=self.seconds * kept + seconds * added, ended=self.ended * kept + ended * added)

    def runtime(self, first: float) -> float:
        """Estimate how long a task runs, those that still run included; `first` is what is thought without any.

        The maximum likelihood for exponential runtimes under censoring: all time at work over all ends. Source:
        J. F. Lawless, Statistical Models and Methods for Lifetime Data, 2nd edition, section 4.1.
        """
        return (FIRST_WEIGHT * first + self.seconds) / (FIRST_WEIGHT + max(0.0, self.ended))


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrivals:
    """How many tasks arrived in each of the last SPANS spans, the oldest first; `span` counts since `since`.

    Fewer spans are there in the first minute. `lasting` is their mean a second over LASTING.
    """

    since: float
    span: float = 0.0
    spans: tuple[float, ...] = ()
    lasting: float = 0.0

    def after(self, arrived: float, now: float) -> Arrivals:
        """Count so many more; fewer than none where what was counted too early is known better now."""
        span, over = self.span + arrived, int((now - self.since) / SPAN)
        if not over:
            return Arrivals(since=self.since, span=span, spans=self.spans, lasting=self.lasting)
        kept = math.exp(-over * SPAN / LASTING)
        spread = max(0.0, span) / over
        return Arrivals(
            since=self.since + over * SPAN,
            spans=(*self.spans, *(spread,) * min(over, SPANS))[-SPANS:],
            lasting=self.lasting * kept + (1 - kept) * spread / SPAN,
        )

    @property
    def known(self) -> bool:
        """Tell whether arrivals were counted for long enough to say that there are few."""
        return len(self.spans) == SPANS

    @property
    def steady(self) -> float:
        """Tasks a second that arrive at least: those of the last minute, without its largest bursts."""
        if not self.known:
            return 0.0
        return sum(sorted(self.spans)[: SPANS - BURSTS]) / (SPAN * (SPANS - BURSTS))

    @property
    def rate(self) -> float:
        """Tasks a second to be ready for: what arrives at least, or lasts where that is more."""
        return max(self.steady, self.lasting)


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Tasks, by count, at one moment: those that wait, that run, and that were ever taken to be run."""

    at: float
    waiting: int
    running: int
    taken: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """What was learned from looks at a queue and its runners; `last` is None where there was none, or one was missed.

    `ended` tasks were seen to their ends; `boot` is the mean of boots, in seconds.
    """

    last: Look | None = None
    arrivals: Arrivals = Arrivals(since=0.0)
    quick: Work = Work()
    slow: Work = Work()
    ended: int = 0
    boot: float = FIRST_BOOT

    def after(self, *, waiting: int, running: int, taken: int, now: float, boots: Iterable[float] = ()) -> Experience:
        """Learn from one more look: the tasks that wait, that run, and that were ever taken to be run.

        `boots` are the seconds that runners took which came up since the last look.
        """
        look = Look(at=now, waiting=waiting, running=running, taken=taken)
        last, boot = self.last, self._boots(boots)
        if last is None or look.at <= last.at:
            return replace(self, last=look, boot=boot, arrivals=replace(self.arrivals, since=look.at, span=0.0))
        took, elapsed = look.taken - last.taken, look.at - last.at
        ended, seconds = took - look.running + last.running, (last.running + look.running) / 2 * elapsed
        quick, slow = self.quick, self.slow
        if ended or seconds:  # what was learned does not fade while there is nothing to learn from
            quick = quick.after(elapsed, QUICK, seconds=seconds, ended=ended)
            slow = slow.after(elapsed, SLOW, seconds=seconds, ended=ended)
        return Experience(
            last=look,
            arrivals=self.arrivals.after(look.waiting - last.waiting + took, look.at),
            quick=quick,
            slow=slow,
            ended=self.ended + ended,
            boot=boot,
        )

    def missed(self) -> Experience:
        """Nothing could be measured: what happens until the next look teaches nothing."""
        return self if self.last is None else replace(self, last=None)

    @property
    def runtime(self) -> float:
        """Seconds that a task runs, as far as is known."""
        slow = self.slow.runtime(FIRST_RUNTIME)
        return max(slow, self.quick.runtime(slow))

    @property
    def at_least(self) -> float | None:
        """Seconds that a task runs at least, while too few were seen to their ends to know more; None from then on.

        All that was worked, over all that were begun.
        """
        if self.ended >= ENOUGH:
            return None
        running = self.last.running if self.last else 0
        return self.slow.seconds / max(1, self.ended + running)

    def _boots(self, boots: Iterable[float]) -> float:
        mean = self.boot
        for seconds in boots:
            mean += BOOT_WEIGHT * (seconds - mean)
        return mean
