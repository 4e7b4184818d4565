"""What does `make test` run, and what came of it?

    python -m tests.stages [STAGE... | matrix]

A stage is a tox environment. The units run on half the cells of the matrix, each Python and each Celery among them,
and the integration tests on one of these. The commit chooses: each another, the same commit the same again. `matrix`
runs all of them on all cells.
A stage whose interpreter is not here does not run, which is said last. With CI=true a stage that skipped all it has is
a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
REPORTS = ROOT / ".tox" / "reports"
OWN = f"py{sys.version_info.major}{sys.version_info.minor}"
PYTHONS = tuple(dict.fromkeys(("py310", "py311", "py312", "py313", OWN)))
CELERYS = ("celery54", "celery55", "celery56", "celery57")
CELLS = tuple(f"{python}-{celery}" for python in PYTHONS for celery in CELERYS)
CONFORMANCE = tuple(f"conformance-{celery}" for celery in CELERYS)
REST = ("docs", "endings", "chaos", "package", "box")
#: What the summary tells of an environment, because the matrix is of them.
LIBRARIES = ("celery", "kombu", "redis")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one stage did; seconds and counts of tests."""

    stage: str
    result: str
    seconds: float = 0.0
    passed: int = 0
    failed: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    libraries: str = ""

    def __str__(self) -> str:
        tests = f"{self.passed} passed, {len(self.failed)} failed, {self.skipped.total()} skipped"
        ran = self.passed or self.failed or self.skipped
        line = f"{self.stage:<28}{self.result:<9}{self.seconds:>5.0f} s  {tests if ran else '':<38}{self.libraries}"
        return line.rstrip()


def main(names: Sequence[str]) -> int:
    """Run the stages and say what came of them; return the exit code."""
    path = search_path()
    outcomes = [
        run(name, path) if has_interpreter(name, path) else Outcome(stage=name, result="not run")
        for name in chosen(names, path)
    ]
    print(f"\n{'=' * 20} what ran {'=' * 20}")
    print("\n".join(line for outcome in outcomes for line in report(outcome)))
    failures = [outcome.stage for outcome in outcomes if is_failure(outcome)]
    missing = [outcome.stage for outcome in outcomes if outcome.result == "not run"]
    if missing:
        print(f"NOT RUN for want of a Python: {', '.join(missing)}")
    minutes = sum(outcome.seconds for outcome in outcomes) / 60
    print(f"{'failed: ' + ', '.join(failures) if failures else 'passed'} ({minutes:.0f} min)")
    return 1 if failures else 0


def chosen(names: Sequence[str], path: str) -> Sequence[str]:
    """Return the stages that names mean; without a name what CI runs."""
    if list(names) == ["matrix"]:
        return (*CELLS, *CONFORMANCE, *(f"{cell}-integration" for cell in CELLS))
    if names:
        return names
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    half, turn = in_turn(int(asked.stdout.strip() or "0", 16), path)
    turn += "-integration"
    print(f"integration tests of this commit: {turn} (again: make test STAGES={turn})", flush=True)
    return ("lint", *half, *CONFORMANCE, turn, *REST)


def in_turn(commit: int, path: str) -> tuple[Sequence[str], str]:
    """Return the half of the cells whose turn it is at a commit, as on a chessboard, and one of it to run here."""
    half = [
        f"{python}-{celery}"
        for row, python in enumerate(PYTHONS)
        for column, celery in enumerate(CELERYS)
        if (row + column + commit) % 2 == 0
    ]
    here = [cell for cell in half if has_interpreter(cell, path)]
    return half, here[commit // 2 % len(here)]


def run(name: str, path: str) -> Outcome:
    """Run one tox environment to its end."""
    print(f"\n{'=' * 20} {name} {'=' * 20}", flush=True)
    junit = REPORTS / f"{name}.xml"
    junit.unlink(missing_ok=True)
    started = time.monotonic()
    # a missing interpreter is a stage that did not run, not a download
    env = {**os.environ, "PATH": path, "UV_PYTHON_DOWNLOADS": "never"}
    code = subprocess.run([sys.executable, "-m", "tox", "run", "-e", name], cwd=ROOT, env=env, check=False).returncode
    outcome = Outcome(
        stage=name,
        result="FAILED" if code else "passed",
        seconds=time.monotonic() - started,
        libraries=libraries(name),
        **(read_report(junit) if junit.exists() else {}),
    )
    print(f"{name}: {outcome.seconds:.0f} s", flush=True)
    return outcome


def libraries(name: str) -> str:
    """Return what of the matrix an environment holds."""
    places = map(str, (ROOT / ".tox" / name).glob("lib/python3*/site-packages"))
    found = {each.name: each.version for each in distributions(path=list(places))}
    return " ".join(f"{library} {found[library]}" for library in LIBRARIES if library in found)


def read_report(junit: Path) -> dict[str, Any]:
    """Return how many tests passed, which failed, and how many were skipped for which reason."""
    cases = list(ElementTree.parse(junit).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skips = [skip for case in cases if (skip := case.find("skipped")) is not None]
    return {
        "passed": len(cases) - len(failed) - len(skips),
        "failed": tuple(f"{case.get('classname')}: {case.get('name')}" for case in failed),
        "skipped": Counter(skip.get("message", "") for skip in skips),
    }


def report(outcome: Outcome) -> Iterator[str]:
    """Yield the lines that say what came of a stage, and why tests are missing."""
    yield str(outcome)
    if outcome.result == "not run":
        yield f"    no {interpreter(outcome.stage)} on this machine (`.venv/bin/uv python install` can bring one)"
    for test in outcome.failed:
        yield f"    failed: {test}"
    for reason, count in outcome.skipped.items():
        yield f"    {count} skipped: {reason}"


def is_failure(outcome: Outcome) -> bool:
    """Whether the run as a whole fails by this outcome."""
    nothing_ran = bool(outcome.skipped) and not outcome.passed
    return outcome.result == "FAILED" or (nothing_ran and os.environ.get("CI") == "true")


def interpreter(name: str) -> str | None:
    """Return the interpreter a stage asks for by name, as `python3.10`; None where any will do."""
    match = re.match(r"py3(\d+)-", name)
    return f"python3.{match[1]}" if match else None


def has_interpreter(name: str, path: str) -> bool:
    """Whether the interpreter a stage asks for is here."""
    wanted = interpreter(name)
    return wanted is None or name.startswith(f"{OWN}-") or shutil.which(wanted, path=path) is not None


def search_path() -> str:
    """Return PATH with every interpreter of pyenv on it, and without its shims: they fail for all but one of them."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    ours = Path(sys.base_prefix) / "bin"
    versions = sorted(root.glob("versions/3.*/bin"))
    others = [Path(entry) for entry in os.environ["PATH"].split(os.pathsep) if Path(entry) != root / "shims"]
    return os.pathsep.join(str(entry) for entry in dict.fromkeys((ours, *others, *versions)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
