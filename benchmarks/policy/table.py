"""How are rows and aims read?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.policy import oracle
from benchmarks.policy.aims import Aims, is_no_worse, peers_of
from benchmarks.policy.contenders import is_ours
from benchmarks.policy.runs import Row, Setting

HEAD = f"{'':26}{'mean':>9}{'p95':>9}{'p99':>9}{'billed':>10}{'ratio':>8}{'launches':>10}{'peak':>6}"


def lines(setting: Setting, rows: Sequence[Row]) -> Iterator[str]:
    """Yield one table for each load: waits in seconds, the bill in instance-hours and over that of the oracle."""
    yield f"boot {setting.boot:g} s, {setting.slots} slots a runner; waits in s, billed in instance-hours"
    for load in dict.fromkeys(row.load for row in rows):
        here = [row for row in rows if row.load == load]
        least = next((row.billed for row in here if row.contender == oracle.NAME), 0.0)
        yield ""
        yield f"{load}: {max(row.tasks for row in here):,} tasks"
        yield HEAD
        for row in here:
            ratio = f"{row.billed / least:.2f}" if least else "-"
            yield (
                f"  {row.contender:24}{_wait(row.mean)}{_wait(row.p95)}{_wait(row.p99)}{row.billed:>10.3f}{ratio:>8}"
                f"{row.launches:>10}{row.peak:>6}"
            )
        for ours in filter(lambda row: is_ours(row.contender), here):
            better = [peer.contender for peer in peers_of(here) if is_no_worse(peer, ours)]
            yield f"  better than {ours.contender} on both: {'; '.join(better) or 'none'}"


def aim_lines(aims: Aims) -> Iterator[str]:
    """Yield the three aims, each with what came of it."""
    first, second, third = ("met" if met else "NOT met" for met in aims.met)
    yield f"1. no peer is better than our default on both: {first}"
    yield from (f"   {load}: {peer}" for load, peer in aims.worse)
    share = aims.beaten / aims.pairs if aims.pairs else 1.0
    yield (
        f"2. pairs of peer and load beaten on both by one of ours: {aims.beaten} of {aims.pairs}, {share:.0%}, "
        f"at least 67%: {second}"
    )
    yield from (f"   not on {load}: {peer}" for load, peer in aims.unbeaten)
    yield (
        f"3. our bill over that of plain depth with idle 300 s, geometric mean over {len(aims.ratios)} loads: "
        f"{aims.ratio:.3f}, at most 0.5: {third}"
    )
    yield from (f"   {load}: {ratio:.3f}{_note(aims, load)}" for load, ratio in aims.ratios.items())


def _note(aims: Aims, load: str) -> str:
    return " (none of ours waits as short there: counted is target 0)" if load in aims.without else ""


def _wait(seconds: float) -> str:
    return f"{seconds:>9.2f}" if seconds < 1000 else f"{seconds:>9.0f}"
