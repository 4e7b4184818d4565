"""What stands of all this in the docs? A page of tables, and pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import celery_flame_ec2
from benchmarks.policy.aims import Aims
from benchmarks.policy.contenders import DEFAULT, LONG_IDLE, contenders
from benchmarks.policy.loads import loads
from benchmarks.policy.runs import Row, Setting, simulated
from benchmarks.policy.sensitivity import FACTORS, LEFT_OUT, MODULES, Change
from benchmarks.policy.table import aim_lines, lines
from benchmarks.policy.varied import numbers
from celery_flame_ec2.simulate.picture import picture

#: Loads that are drawn, each with the seconds that are: what comes later looks alike.
DRAWN = {"floods 400 x 5 s": 3600.0, "burst 10,000 x 1 s": 3600.0}

PAGE = """\
# The policy against others

How long do tasks wait, and what is billed: with this policy, with those of other tools, and with an oracle that knows
the future and boots in no time? Simulated ([Simulate](simulate.md) says what is modelled), with at most {most}
machines, and a broker with which boots can be [recalled](deciding.md#recalled), such as Redis.

```sh
make docs-policy                                    # this page
make bench-policy                                   # the tables; TRACES="file ..." for loads of your own, JSON=file
make bench-policy LOADS="floods nasa" POLICIES="ours keda" BOOT=180 SLOTS=1       # a part of them, other machines
make bench-policy ARGS=--all                        # boots of 15, 60 and 180 s with 1, 4 and 16 slots each
```

Each tool is written anew in `benchmarks/policy/peers`, from its own source and documentation and with its defaults;
each module says what was assumed where these leave something open. "Ours" is the policy with nothing set but
`target_wait`, at 30 s, its default, at 0 and at 120 s. Runtimes are told to nobody, save to AWS target tracking, whose
target is made of their mean.

## What was aimed at

```
{aims}
```
{pictures}
## What each constant is for, and how much it matters

{reasons}

The default again, on the loads that are described rather than recorded, with one constant halved or doubled at a time:
the geometric means over these loads of waiting and of the bill, over those with the constants as they are. Below 1 is
better; a second is added to waits, as some are zero. Whole numbers are rounded, and at least 1.
`python -m benchmarks.policy.sensitivity` makes it.

{sensitivity}

## All loads

Waits in seconds, the bill in instance-hours, and its ratio to the oracle's.

```
{table}
```
"""


def write(path: Path, setting: Setting, rows: Sequence[Row], aims: Aims, changes: Iterable[Change]) -> None:
    """Write the page, and the pictures it shows into the same directory."""
    changes = list(changes)
    names = list(dict.fromkeys(row.load for row in rows))
    page = PAGE.format(
        most=setting.most,
        aims="\n".join(aim_lines(aims)),
        pictures="".join(_pictures(path, setting, names)),
        reasons="\n".join(_reasons()),
        sensitivity="\n".join(sensitivity_table(changes)),
        table="\n".join(lines(setting, rows)),
    )
    path.write_text(page, encoding="utf-8")


def _pictures(path: Path, setting: Setting, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name in DRAWN:
            file = path.with_name(f"{path.stem}-{name.split()[0]}.svg")
            file.write_text(drawn(setting, name), encoding="utf-8")
            yield f"\n![{name}: ours and plain depth]({file.name})\n"
    yield "\n"


def drawn(setting: Setting, load_name: str) -> str:
    """Return an SVG of a load with our default, and with plain depth that idles long."""
    load, known = loads(setting.traces)[load_name], contenders(setting.ours, setting.constants)
    runs = []
    for name in (DEFAULT, LONG_IDLE):
        outcome = simulated(setting, load, known[name], until=DRAWN[load_name])
        runs.append((f"{name}: mean wait {outcome.mean_wait:.1f} s, {outcome.billed_hours:.2f} h billed", outcome))
    return picture(runs, f"{load_name}, {DRAWN[load_name] / 3600:g} h of it")


def sensitivity_table(changes: Sequence[Change]) -> Iterator[str]:
    """Yield the lines of a table in Markdown, one for each constant."""
    yield "| constant | " + " | ".join(f"times {factor:g} | waiting | billed" for factor in FACTORS) + " |"
    yield "|---" * (1 + 3 * len(FACTORS)) + "|"
    for name in dict.fromkeys(change.name for change in changes):
        cells = (f"{each.value:g} | {each.wait:.3f} | {each.bill:.3f}" for each in changes if each.name == name)
        yield f"| `{name}` | {' | '.join(cells)} |"


def _reasons() -> Iterator[str]:
    for module in MODULES:
        path = Path(celery_flame_ec2.__file__).parent / f"{module}.py"
        yield from reasons(path.read_text(encoding="utf-8"), module, numbers(path))


def reasons(source: str, module: str, values: dict[str, float]) -> Iterator[str]:
    """Yield for each line of constants, that are numbers and are varied, what the comment above it says."""
    for comment, names in re.findall(r"((?:^#: .*\n)+)^([A-Z][A-Z0-9_, ]*) = ", source, re.MULTILINE):
        found = [name for name in names.split(", ") if name in values and name not in LEFT_OUT]
        if found:
            told = ", ".join(f"`{module}.{name}` ({values[name]:g})" for name in found)
            yield f"* {told}: {' '.join(line.removeprefix('#: ') for line in comment.splitlines())}"
