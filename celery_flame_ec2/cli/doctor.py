"""Would it work, as an operator asks it?"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Collection
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options
from celery.platforms import EX_UNAVAILABLE

from ..doctor import examine
from ..finding import Finding, Verdict

MARKS = {Verdict.OK: "✓", Verdict.WARNING: "!", Verdict.UNKNOWN: "?", Verdict.FAILED: "✗"}
PLAIN = {**MARKS, Verdict.OK: "+", Verdict.FAILED: "x"}
COLOURS = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.UNKNOWN: "yellow", Verdict.FAILED: "red"}
WORDS = {
    Verdict.OK: "fine", Verdict.FAILED: "failed", Verdict.WARNING: "to think about", Verdict.UNKNOWN: "not told",
}  # fmt: skip
#: Seconds after which each check is told on stderr as it begins.
PATIENCE = 2.0


@click.command(cls=CeleryCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def doctor(ctx: click.Context, as_json: bool, **_: Any) -> None:
    """Check everything a launch needs: settings, broker, AWS. Changes nothing; needs no running worker.

    ✓ is well, ✗ cannot work, ! works at a price, ? could not be told. Exit code 1 says that a check failed, 69 that
    broker or AWS did not answer and nothing else is wrong.
    """
    progress, found = Progress(), []
    for finding in examine(ctx.obj.app, os.environ, progress.begin):
        found.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps({"findings": [_fields(finding) for finding in found]}, indent=2))
    else:
        click.echo(_summary(found))
    ctx.exit(exit_code(found))


def show(found: Collection[Finding], *, as_json: bool) -> None:
    """Print what was found."""
    if as_json:
        click.echo(json.dumps({"findings": [_fields(finding) for finding in found]}, indent=2))
        return
    for finding in found:
        _print(finding)
    click.echo(_summary(found))


class Progress:
    """Says on stderr which check runs, once it takes long."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def begin(self, name: str) -> None:
        """Say what begins."""
        if time.monotonic() - self._started > PATIENCE:
            click.echo(f"checking {name} ...", err=True)


def exit_code(found: Collection[Finding]) -> int:
    """Return 1 where something failed that answered, else 69 where something did not answer, else 0."""
    if any(finding.verdict is Verdict.FAILED and not finding.silent for finding in found):
        return 1
    return int(EX_UNAVAILABLE) if any(finding.silent for finding in found) else 0


def lines(finding: Finding, encoding: str) -> list[str]:
    """Return a finding as text that this encoding can hold: what was seen, and below it the remedy."""
    where = f"{', '.join(finding.pools)}: " if finding.pools else ""
    mark = MARKS[finding.verdict]
    try:
        mark.encode(encoding)
    except UnicodeEncodeError:
        mark = PLAIN[finding.verdict]
    told = [f"{mark} {where}{finding.check}: {finding.seen}"]
    told += [f"    {finding.remedy}"] if finding.remedy else []
    return [line.encode(encoding, "backslashreplace").decode(encoding) for line in told]


def _print(finding: Finding) -> None:
    first, *rest = lines(finding, sys.stdout.encoding or "ascii")
    click.echo(click.style(first[0], fg=COLOURS[finding.verdict]) + first[1:])
    for line in rest:
        click.echo(line)


def _fields(finding: Finding) -> dict[str, Any]:
    return dataclasses.asdict(finding) | {"verdict": finding.verdict.value, "pools": list(finding.pools)}


def _summary(found: Collection[Finding]) -> str:
    verdicts = [finding.verdict for finding in found]
    counts = ((verdicts.count(verdict), word) for verdict, word in WORDS.items())
    return ", ".join(f"{count} {word}" for count, word in counts if count)
