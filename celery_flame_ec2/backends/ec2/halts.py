"""Which pools' launches wait for a change, because EC2 said that nothing else helps? Pure: the clock is passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .offers import Hold, next_hold
from .recipe import Recipe, Rung

#: Seconds: about what a new instance profile takes to be known everywhere.
FIRST = 60.0
LONGEST = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Halt:
    """One pool's lasting no. `rung` was refused, made by this `recipe`; without one no recipe could be had at all.

    `kind` is one of FAILURE_KINDS.
    """

    why: str
    kind: str = "refused"
    hold: Hold
    recipe: Recipe | None = None
    rung: Rung | None = None


class Halts:
    """The halts by pool. `look_every` are the seconds after which it is looked whether anything changed."""

    def __init__(self, look_every: float) -> None:
        self._look_every = look_every
        self._halts: dict[str, Halt] = {}

    def stop(
        self,
        pool: str,
        why: str,
        now: float,
        *,
        kind: str = "refused",
        recipe: Recipe | None = None,
        rung: Rung | None = None,
    ) -> tuple[Halt, bool]:
        """Hold a pool's launches; return for how long, and whether the reason is news.

        Without a recipe there is nothing to compare, so that is looked for again sooner.
        """
        before = self._halts.get(pool)
        same = before is not None and before.recipe == recipe
        longest = LONGEST if recipe is not None else self._look_every
        hold = next_hold(before.hold if before and same else None, now, first=FIRST, longest=longest)
        halt = self._halts[pool] = Halt(why=why, kind=kind, hold=hold, recipe=recipe, rung=rung)
        return halt, before is None or before.why != why

    def end(self, pool: str) -> None:
        """Forget a halt: a launch went well."""
        self._halts.pop(pool, None)

    def blind(self, pool: str, now: float) -> Halt | None:
        """Return the halt of a pool whose recipe could not be had, while it holds."""
        halt = self._halts.get(pool)
        return halt if halt and halt.recipe is None and now < halt.hold.until else None

    def open_part(
        self, pool: str, recipe: Recipe, rungs: Iterable[Rung], now: float
    ) -> tuple[tuple[Rung, ...], Halt | None]:
        """Return the rungs that may be asked for: those before the refused one while it holds; and what ends them."""
        ladder, halt = tuple(rungs), self._halts.get(pool)
        if halt is None or halt.rung is None or halt.recipe != recipe or now >= halt.hold.until:
            return ladder, None
        return ladder[: ladder.index(halt.rung)], halt

    def retry_in(self, halt: Halt, now: float) -> float:
        """Return the seconds until another look, or another try, may go better."""
        return max(0.0, min(halt.hold.until - now, self._look_every))
