"""How does the result change when a constant of the policy is halved, or doubled?

`python -m benchmarks.policy.sensitivity`; for each number of the modules that plan and learn, and for both factors: the
geometric means over the loads of our mean waiting and of our bill at the default target, over those with the numbers as
they are. Waits are compared with a second added: some are zero. Recorded loads are left out unless they are named: they
take weeks, and no constant shall be chosen by them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import celery_flame_ec2
from benchmarks.policy.aims import geometric_mean
from benchmarks.policy.contenders import DEFAULT
from benchmarks.policy.loads import loads
from benchmarks.policy.varied import numbers

MODULES = ("policy", "experience")
#: What acts after failed launches only, or is no choice.
LEFT_OUT = {"FAILURE_PAUSE", "LONGEST_PAUSE", "PROBE_AFTER", "ROUNDING"}
FACTORS = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One constant at another value, and what came of it."""

    name: str
    value: float
    wait: float
    bill: float


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policy.sensitivity", description=__doc__)
    parser.add_argument("--loads", nargs="*", default=[], help="only loads whose names hold one of these")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    print(f"{'':28}{'value':>10}{'waiting':>10}{'billed':>10}", flush=True)
    found = []
    for change in changes(arguments.loads):
        found.append(change)
        print(f"{change.name:28}{change.value:>10g}{change.wait:>10.3f}{change.bill:>10.3f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(change) for change in found], indent=1) + "\n")


def changes(load_filter: Sequence[str]) -> Iterator[Change]:
    """Yield one change after the other: each takes as long as our policy at its default target on all these loads."""
    names = load_filter or [name for name, load in loads().items() if not load.recorded]
    base = _play([], names)
    for name, value in _variations():
        yield _compared(name, value, base, _play([f"{name}={value}"], names))


def _variations() -> Iterator[tuple[str, float]]:
    root = Path(celery_flame_ec2.__file__).parent
    for module in MODULES:
        for name, value in numbers(root / f"{module}.py").items():
            for factor in FACTORS if name not in LEFT_OUT else ():
                changed = value * factor
                yield f"{module}.{name}", max(1, round(changed)) if isinstance(value, int) else changed


def _play(changes: Sequence[str], load_names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return mean waiting and bill by load, of our policy at its default target."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder, "figures.json")
        command = [sys.executable, "-m", "benchmarks.policy.varied", *changes, "--", "--policies", DEFAULT]
        command += ["--json", str(figures), "--loads", *load_names]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (table,) = json.loads(figures.read_text())
    return {row["load"]: (row["mean"], row["billed"]) for row in table["rows"] if row["contender"] == DEFAULT}


def _compared(
    name: str, value: float, base: dict[str, tuple[float, float]], found: dict[str, tuple[float, float]]
) -> Change:
    return Change(
        name=name,
        value=value,
        wait=geometric_mean((found[load][0] + 1) / (base[load][0] + 1) for load in base),
        bill=geometric_mean(found[load][1] / base[load][1] for load in base),
    )


if __name__ == "__main__":
    main()
