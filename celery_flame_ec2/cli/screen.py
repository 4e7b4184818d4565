"""How does a deployment look on a terminal?"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..overview import CostOverview, EndedOverview, LearnedOverview, Overview, PoolOverview, QueueOverview
from ..simulate.report import in_words

WIDTH = 100
#: How many runners of a pool are shown one by one.
RUNNERS = 40
#: What makes text bold, or another colour, by what it says; a colour is never all that says it.
Style = Callable[[str, str], str]


def plain(text: str, _: str) -> str:
    """Return text as it is."""
    return text


def lines(overview: Overview, style: Style = plain, width: int = WIDTH) -> Iterator[str]:
    """Return the lines of a screen, at most `width` wide unless names are longer."""
    at = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(overview.at))
    yield f"{style(overview.owner, 'head')}  {overview.backend}  {at}"
    yield from _fields(_deployment(overview), style, width)
    for pool in overview.pools:
        yield ""
        yield from _pool(pool, style, width)


def _deployment(overview: Overview) -> Iterator[tuple[str, str]]:
    if overview.notes_unknown:
        yield "leader", f"UNKNOWN: {overview.notes_unknown}"
    else:
        yield "leader", overview.leader or "nobody acts, or acted yet"
    yield "lease", _lease(overview)
    if overview.overrides_unknown:
        yield "operator", f"UNKNOWN: {overview.overrides_unknown}"
    if overview.held is not None:
        yield "held", f"{_count(overview.held, 'task')} by consumers: at work, prefetched, or waiting for their ETA"
    if overview.cost.seconds and len(overview.pools) > 1:
        yield "cost", _cost(overview.cost)
    if overview.runners_unknown:
        yield "runners", f"UNKNOWN: {overview.runners_unknown}"


def _lease(overview: Overview) -> str:
    lease = overview.lease
    if lease.held is None:
        return lease.place
    if not lease.held:
        return f"free: no parent runs; {lease.place}"
    left = "" if lease.seconds_left is None else f", free in {in_words(lease.seconds_left)} unless renewed"
    return f"held{left}; {lease.place}"


def _pool(pool: PoolOverview, style: Style, width: int) -> Iterator[str]:
    slots = "" if pool.concurrency is None else f", {_count(pool.concurrency, 'task')} at a time on each"
    yield f"{style(pool.name, 'head')}  {pool.min} to {pool.max} runners{slots}"
    yield from _fields(_standing(pool), style, width)
    yield from _table(_runner_rows(pool), style, width)
    yield from _table(_ended_rows(pool.ended), style, width)


def _standing(pool: PoolOverview) -> Iterator[tuple[str, str]]:
    if pool.unknown:
        yield "waiting", f"UNKNOWN: {pool.unknown}"
    else:
        yield "waiting", "; ".join(_queue(queue) for queue in pool.queues)
        yield "running", f"{_count(pool.running or 0, 'task')} on runners"
    counts = [f"{count} {state}" for state, count in pool.states.items() if count]
    counts += [f"{pool.unclear} launched perhaps"] if pool.unclear else []
    yield "runners", ", ".join(counts) or "none"
    if pool.override:
        ago = "" if pool.override.ago is None else f", {in_words(pool.override.ago)} ago"
        yield "operator", f"{_override(pool)} by {pool.override.by}{ago}"
    if pool.breaker:
        rests = f"the next in {in_words(pool.breaker.retry_in)}" if pool.breaker.retry_in else "the next may be tried"
        yield "breaker", f"OPEN: {_count(pool.breaker.failed, 'launch', 'es')} failed; {rests}; {pool.breaker.cause}"
    if decision := pool.last_decision:
        when = "" if decision.ago is None else f"{in_words(decision.ago)} ago: "
        yield "decided", f"{when}{decision.reason}"
    if pool.learned:
        yield "learned", _learned(pool.learned)
    if pool.cost.seconds:
        yield "cost", _cost(pool.cost)


def _override(pool: PoolOverview) -> str:
    override = pool.override
    wanted = None if override is None else override.wanted
    held = [] if wanted is None else [f"HELD AT {wanted}"]
    return " and ".join([*held, *(["PAUSED"] if override and override.paused else [])])


def _queue(queue: QueueOverview) -> str:
    told = [f"{queue.waiting}" if queue.waiting is not None else "unknown"]
    told += [f"{queue.delayed} delayed"] if queue.delayed else []
    told += [f"{queue.held} held"] if queue.held else []
    told += [f"the oldest for {in_words(queue.oldest_wait)}"] if queue.oldest_wait is not None else []
    return f"{queue.name} {', '.join(told)}"


def _learned(learned: LearnedOverview) -> str:
    runtime = "not known yet" if learned.runtime is None else f"{learned.runtime:.3g} s"
    told = f"runtime {runtime}, {learned.arriving:.3g} tasks arrive a second, boots take {learned.boot:.0f} s"
    return f"{in_words(learned.ago)} ago: {told}"


def _cost(cost: CostOverview) -> str:
    ended = f", {cost.ended} ended included" if cost.ended else ""
    billed = f"{in_words(cost.seconds)} of runners billed{ended}"
    if cost.cost is None:
        return f"{billed} (no hourly_price set)"
    return f"about {cost.cost:.2f} for {billed}; {cost.hourly or 0:.2f} an hour now"


def _runner_rows(pool: PoolOverview) -> Iterator[Sequence[str]]:
    if not pool.runners:
        return
    yield ("RUNNER", "STATE", "TASKS", "AGE", "TYPE", "MARKET", "ZONE", "")
    for runner in pool.runners[:RUNNERS]:
        kind = [each or "-" for each in (runner.instance_type, runner.market, runner.zone)]
        note = runner.reason or ("min" if runner.warm else "")
        yield (runner.id, runner.state, str(runner.tasks), in_words(runner.age), *kind, note)
    if len(pool.runners) > RUNNERS:
        yield (f"and {len(pool.runners) - RUNNERS} more", *[""] * 7)


def _ended_rows(ended: Sequence[EndedOverview]) -> Iterator[Sequence[str]]:
    if not ended:
        return
    yield ("ENDED", "AGO", "LIVED", "TYPE", "MARKET", "ZONE", "WHY")
    for each in ended:
        kind = [what or "-" for what in (each.instance_type, each.market, each.zone)]
        lived = "-" if each.seconds is None else in_words(each.seconds)
        yield (each.id, in_words(each.ago), lived, *kind, each.reason)


def _fields(fields: Iterable[tuple[str, str]], style: Style, width: int) -> Iterator[str]:
    for name, text in fields:
        first, *rest = textwrap.wrap(_one_line(text), width - 11, break_on_hyphens=False) or [""]
        alarms = first.split(":")[0] in ("UNKNOWN", "OPEN") or name == "operator"
        yield f"  {name:8} {style(first, 'alarm') if alarms else first}"
        yield from (f"{'':11}{line}" for line in rest)


def _table(rows: Iterable[Sequence[str]], style: Style, width: int) -> Iterator[str]:
    """Align columns; what is in the last one goes on in a line below where it does not fit."""
    found = list(rows)
    wide = [max(len(row[at]) for row in found) for at in range(len(found[0]) - 1)] if found else []
    for number, row in enumerate(found):
        line = "  ".join(cell.ljust(column) for cell, column in zip(row, wide, strict=False))
        last, left = _one_line(row[-1]), width - len(line) - 4
        whole = f"  {line}  {last if len(last) <= left else ''}".rstrip()
        yield style(whole, "table") if number == 0 else whole
        if len(last) > left:
            yield from textwrap.wrap(last, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _one_line(text: str) -> str:
    """Leave out what moves a cursor or colours: a reason may hold what a task printed."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
