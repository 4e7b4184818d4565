"""What does each ending do to tasks, on each broker? Prints the table of what was measured.

    python -m tests.endings [--endings N] [--json FILE] [BROKER/ACK/ENDING...]

Any part of a cell's name may be `*`. With a file, cells that are in it are not measured again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import AWS

from .bed import Result, as_fields, from_fields
from .expected import Cell, cells, guarantee
from .world import World

HEAD = f"{'cell':<30}{'endings':>8}{'tasks':>7}{'once':>7}{'again':>7}{'lost':>6}{'of it begun':>13}{'handed over':>13}"
HEAD += f"{'returned':>11}{'took':>7}"


def main(words: Sequence[str]) -> int:
    """Measure the cells that were named, or all; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.endings", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--endings", type=int, default=50, help="how many in each cell (default: 50)")
    parser.add_argument("--json", type=Path, help="write each cell's figures there as they come")
    parser.add_argument("--plain", action="store_true", help="start a new Python for each runner, as parents do")
    parser.add_argument("--keep", action="store_true", help="keep the logs of runners also where nothing was broken")
    parser.add_argument("cells", nargs="*", help="for example redis/late/idle, or rabbitmq/*/kill-worker")
    chosen = parser.parse_args(words)
    results = read(chosen.json)
    wanted = [cell for cell in cells() if cell not in results and _is_named(cell, chosen.cells)]
    print(HEAD, flush=True)
    for result in results.values():
        print(line(result), flush=True)
    with World(plain=chosen.plain, keep=chosen.keep) as world:
        for cell in wanted:
            results[cell] = result = world.run(cell, chosen.endings)
            print(line(result), flush=True)
            write(chosen.json, result)
    return 1 if any(result.broken for result in results.values()) else 0


def read(path: Path | None) -> dict[Cell, Result]:
    """Return the results that a run before this one wrote."""
    if path is None or not path.exists():
        return {}
    found = [from_fields(json.loads(text)) for text in path.read_text().splitlines()]
    return {result.cell: result for result in found}


def write(path: Path | None, result: Result) -> None:
    """Note a result for a later run."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(as_fields(result)) + "\n")


def line(result: Result) -> str:
    """Return a result as one line of the table."""
    n = result.count
    lost = n.begun + n.handed + n.waiting
    returned = f"{result.returned:.1f} s" if result.returned is not None else "-"
    text = f"{result.cell!s:<30}{result.endings:>8}{n.tasks:>7}{n.once:>7}{n.again + n.doubled:>7}{lost:>6}"
    text += f"{n.begun:>13}{n.handed:>13}{returned:>11}{result.seconds:>5.0f} s"
    if n.doubled:
        text += f"  ({n.doubled} of them again at once)"
    if result.crashed:
        text += f"  ({result.crashed} workers crashed)"
    return text + (f"  BROKEN: {', '.join(result.broken)}" if result.broken else f"  {guarantee(result.cell).value}")


def _is_named(cell: Cell, names: Sequence[str]) -> bool:
    return not names or any(fnmatch.fnmatchcase(str(cell), name) for name in names)


if __name__ == "__main__":
    os.environ.update(AWS)
    sys.exit(main(sys.argv[1:]))
