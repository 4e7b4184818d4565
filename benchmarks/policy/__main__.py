"""Compare our policy with those of other tools, on all loads: `python -m benchmarks.policy`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

from benchmarks.policy import docs, oracle, sensitivity
from benchmarks.policy.aims import judge
from benchmarks.policy.contenders import contenders
from benchmarks.policy.loads import loads
from benchmarks.policy.runs import Row, Setting, jobs, play_all
from benchmarks.policy.sensitivity import Change
from benchmarks.policy.table import aim_lines, lines

POLICY = "celery_flame_ec2.policy:plan"
BOOTS, SLOTS = (15.0, 60.0, 180.0), (1, 4, 16)


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables, and write the figures where asked; without `words`, as the command line says."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.docs and (arguments.all or arguments.policies):
        parser.error("--docs is a page of one boot time, one number of slots and all policies")
    pairs = product(BOOTS, SLOTS) if arguments.all else [(arguments.boot, arguments.slots)]
    settings = [
        Setting(boot=boot, slots=slots, traces=tuple(arguments.traces), ours=arguments.ours) for boot, slots in pairs
    ]
    figures = []
    for setting in settings:
        rows = _rows(setting, arguments.loads, arguments.policies)
        aims = judge(rows)
        print("\n".join((*lines(setting, rows), "", *aim_lines(aims), "")), flush=True)
        figures.append({"boot": setting.boot, "slots": setting.slots, "rows": rows, "aims": aims})
        if arguments.docs:
            docs.write(arguments.docs, setting, rows, aims, changes_of(arguments.sensitivity, arguments.loads))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1, default=asdict) + "\n")


def changes_of(file: Path | None, load_filter: Sequence[str]) -> Iterable[Change]:
    """Return what became of each changed constant: as a file says, or played now."""
    if file is None:
        return sensitivity.changes(load_filter)
    return [Change(**each) for each in json.loads(file.read_text())]


def _rows(setting: Setting, load_filter: Sequence[str], policy_filter: Sequence[str]) -> list[Row]:
    names = [*contenders(setting.ours, {}), oracle.NAME]
    chosen = [name for name in names if not policy_filter or name == oracle.NAME or _named(name, policy_filter)]
    found = [name for name in loads(setting.traces) if not load_filter or _named(name, load_filter)]
    if not found:
        raise SystemExit(f"no load is named like {load_filter}; there are: {', '.join(loads(setting.traces))}")
    return list(play_all(jobs(setting, found, chosen)))


def _named(name: str, parts: Sequence[str]) -> bool:
    return any(part.lower() in name.lower() for part in parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy", description=__doc__)
    parser.add_argument("--boot", type=float, default=60.0, help="mean boot time in seconds (default 60)")
    parser.add_argument("--slots", type=int, default=4, help="tasks at a time on one runner (default 4)")
    parser.add_argument("--all", action="store_true", help="boot times 15, 60, 180 s with 1, 4 and 16 slots each")
    parser.add_argument("--traces", type=Path, nargs="*", default=[], help="further loads: SWF or CSV, plain or gzip'd")
    parser.add_argument("--loads", nargs="*", default=[], help="only loads whose names hold one of these")
    parser.add_argument("--policies", nargs="*", default=[], help="only policies whose names hold one of these")
    parser.add_argument("--ours", default=POLICY, help="our policy as module:name; a class is made anew for each run")
    parser.add_argument("--docs", type=Path, help="write tables, aims, constants and pictures as a page, here")
    parser.add_argument("--sensitivity", type=Path, help="for --docs: figures that benchmarks.policy.sensitivity wrote")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser


if __name__ == "__main__":
    main()
