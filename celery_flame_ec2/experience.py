"""What has a pool's queue taught: how much arrives, how long tasks run, how long boots take? Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

WEIGHT = float(__import__("os").environ.get("W","1"))
#: Seconds that tasks, and boots, are taken to last as long as none has been seen; the former counts as one task seen.
FIRST_RUNTIME, FIRST_BOOT = 30.0, 60.0
#: Tasks that must have ended before their runtime is known: from then on it is off by a fifth at most, mostly.
ENOUGH = 30
#: Seconds after which a task that ended counts for 1/e of one that ends now: runtimes are learned over both, and the
#: longer runtime holds, so that a sudden change is felt at once and a single short task is not taken for one.
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
        """Add what was done in the last `elapsed` seconds to what has faded since."""
        kept = math.exp(-elapsed / memory)
        return Work(seconds=self.seconds * kept + seconds, ended=self.ended * kept + ended)

    def runtime(self, first: float) -> float:
        """Estimate how long a task runs, those that still run included; `first` counts as one task seen.

        The maximum likelihood for exponential runtimes under censoring: all time at work over all ends. Source:
        J. F. Lawless, Statistical Models and Methods for Lifetime Data, 2nd edition, section 4.1.
        """
        return (WEIGHT * first + self.seconds) / (WEIGHT + self.ended)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experience:
    """What was learned until `at`, in seconds of the clock that plans; None where nothing was, or a look was missed.

    `spans` holds how many tasks arrived in each of the last spans, the oldest first; `span` counts since the last of
    them ended, at `span_at`. `lasting` is the mean of arrivals a second over LASTING, and `boot` that of boots.
    """

    at: float | None = None
    waiting: int = 0
    running: int = 0
    taken: int = 0
    ended: int = 0
    spans: tuple[float, ...] = (0.0,) * SPANS
    span: float = 0.0
    span_at: float = 0.0
    lasting: float = 0.0
    quick: Work = field(default_factory=Work)
    slow: Work = field(default_factory=Work)
    boot: float = FIRST_BOOT

    def after(self, *, waiting: int, running: int, taken: int, now: float, boots: Iterable[float] = ()) -> Experience:
        """Learn from one more look: the tasks that wait, run on runners, and were ever taken by them.

        `boots` are the seconds that runners took which came up since the last look.
        """
        seen: dict[str, Any] = {
            "at": now,
            "waiting": waiting,
            "running": running,
            "taken": taken,
            "boot": self._boots(boots),
        }
        if self.at is None or now <= self.at:
            return dataclasses.replace(self, **seen, span_at=now)
        elapsed, took = now - self.at, max(0, taken - self.taken)
        arrived = max(0, waiting - self.waiting + took)
        ended = max(0, took - (running - self.running))
        seen |= self._arrivals(arrived, elapsed, now)
        if running or ended:
            seen["ended"] = self.ended + ended
            seconds = (self.running + running) / 2 * elapsed
            seen["quick"] = self.quick.after(elapsed, QUICK, seconds=seconds, ended=ended)
            seen["slow"] = self.slow.after(elapsed, SLOW, seconds=seconds, ended=ended)
        return dataclasses.replace(self, **seen)

    def missed(self) -> Experience:
        """Nothing could be measured: what happens until the next look teaches nothing."""
        return self if self.at is None else dataclasses.replace(self, at=None)

    @property
    def steady(self) -> float:
        """Tasks a second that arrive at least: those of the last minute, without its largest bursts."""
        return sum(sorted(self.spans)[: SPANS - BURSTS]) / (SPAN * (SPANS - BURSTS))

    @property
    def runtime(self) -> float:
        """Seconds that a task runs, as far as is known."""
        slow = self.slow.runtime(FIRST_RUNTIME)
        return max(slow, self.quick.runtime(slow))

    @property
    def at_least(self) -> float | None:
        """Seconds for which a task runs at least, while too few were seen to their ends to know more; None from then on.

        All that was worked, over all that were begun.
        """
        if self.ended >= ENOUGH:
            return None
        return self.slow.seconds / max(1, self.ended + self.running)

    def _boots(self, boots: Iterable[float]) -> float:
        mean = self.boot
        for seconds in boots:
            mean += BOOT_WEIGHT * (seconds - mean)
        return mean

    def _arrivals(self, arrived: int, elapsed: float, now: float) -> dict[str, Any]:
        kept = math.exp(-elapsed / LASTING)
        lasting = self.lasting * kept + (1 - kept) * arrived / elapsed
        over = int((now - self.span_at) / SPAN)
        if not over:
            return {"lasting": lasting, "span": self.span + arrived}
        spans = (*self.spans, self.span + arrived, *(0.0,) * min(over - 1, SPANS))[-SPANS:]
        return {"lasting": lasting, "spans": spans, "span": 0.0, "span_at": self.span_at + over * SPAN}
