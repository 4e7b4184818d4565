"""Is our policy better than those of other tools?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.policy import oracle
from benchmarks.policy.contenders import DEFAULT, LONG_IDLE, is_ours
from benchmarks.policy.runs import Row

BEATEN_SHARE = 2 / 3
BILL_RATIO = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Aims:
    """What came of the three aims.

    `worse` are pairs of load and peer that is better than our default on mean waiting or bill, and no worse on the
    other. `beaten` of the `pairs` of peer and load wait longer and are billed more than one of ours: ties count
    against us in both. `ratio` is the geometric mean over the loads of our
    bill over that of plain depth with idle 300 s, of ours the cheapest that waits no longer on average; `without` are
    the loads where none does: there our shortest target counts.
    """

    worse: tuple[tuple[str, str], ...]
    beaten: int
    pairs: int
    unbeaten: tuple[tuple[str, str], ...]
    ratio: float
    ratios: dict[str, float]
    without: tuple[str, ...]

    @property
    def met(self) -> tuple[bool, bool, bool]:
        """Tell which of the three are met."""
        share = self.beaten / self.pairs if self.pairs else 1.0
        return not self.worse, share >= BEATEN_SHARE, self.ratio <= BILL_RATIO


def beats(one: Row, other: Row) -> bool:
    """Tell whether one run waits less on average and is billed less."""
    return one.mean < other.mean and one.billed < other.billed


def is_no_worse(one: Row, other: Row) -> bool:
    """Tell whether one run is as good as the other on both, and better on one."""
    better = one.mean < other.mean or one.billed < other.billed
    return better and one.mean <= other.mean and one.billed <= other.billed


def judge(rows: Iterable[Row]) -> Aims:
    """Return what the rows say about the aims."""
    by_load: dict[str, list[Row]] = {}
    for row in rows:
        by_load.setdefault(row.load, []).append(row)
    worse, unbeaten, pairs = [], [], 0
    for load, here in by_load.items():
        ours, peers = [row for row in here if is_ours(row.contender)], peers_of(here)
        default = [row for row in ours if row.contender == DEFAULT]
        worse += [(load, peer.contender) for peer in peers if any(is_no_worse(peer, row) for row in default)]
        unbeaten += [(load, peer.contender) for peer in peers if not any(beats(row, peer) for row in ours)]
        pairs += len(peers)
    found = {load: _bill_ratio(here) for load, here in by_load.items()}
    ratios = {load: ratio for load, (ratio, _) in found.items() if ratio is not None}
    return Aims(
        worse=tuple(worse),
        beaten=pairs - len(unbeaten),
        pairs=pairs,
        unbeaten=tuple(unbeaten),
        ratio=geometric_mean(ratios.values()),
        ratios=ratios,
        without=tuple(load for load, (_, qualified) in found.items() if not qualified),
    )


def peers_of(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of other tools."""
    return [row for row in rows if not is_ours(row.contender) and row.contender != oracle.NAME]


def _bill_ratio(rows: Sequence[Row]) -> tuple[float | None, bool]:
    """Return our bill over that of plain depth with a long idle time, and whether one of ours waits no longer."""
    ours = [row for row in rows if is_ours(row.contender)]
    base = next((row for row in rows if row.contender == LONG_IDLE), None)
    if base is None or not ours:
        return None, True
    fit = [row for row in ours if row.mean <= base.mean]
    chosen = min(fit, key=lambda row: row.billed) if fit else ours[0]
    return chosen.billed / base.billed, bool(fit)


def geometric_mean(values: Iterable[float]) -> float:
    """Return it; 1 of nothing."""
    logs = [math.log(value) for value in values]
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1.0
