"""Does `flame simulate` understand what it is asked, and refuse the rest with the remedy?"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from celery_flame_ec2.cli import flame

POOLS = {"pool": {"queues": ["celery"], "max": 3, "max_concurrency": 2}}
REFUSED = {
    "no load": ((), "say one load of --trace, --burst, --poisson, --daily and --floods; got none"),
    "two loads": (("--burst", "5x1", "--daily", "2x5"), "got both --burst and --daily"),
    "a load in other words": (("--burst", "5"), "'--burst': how long tasks run stands behind the x"),
    "half a task": (("--burst", "0.5x1"), "'--burst': a whole number above 0 and at most 10,000,000 before the x"),
    "no such time": (("--burst", "5x1", "--boot", "soon"), "'--boot': expected a time such as 5, 10ms"),
    "a detail of another load": (("--burst", "5x1", "--for", "2h"), "--for belongs to --poisson, --daily, --floods"),
    "floods that overlap": (("--floods", "5x1", "--over", "20m"), "--over must be at most --every (900 s), got 1200 s"),
    "boots that all fail": (("--burst", "5x1", "--failed-boots", "1"), "'--failed-boots': 1.0 is not in the range"),
    "no room": (("--burst", "5x1", "--max", "0"), "option 'max' must be at least 'min' (0) and 1, got 0"),
    "more than may be": (("--burst", "5x1", "--slots", "99999"), "'max_concurrency' must be a whole number from 1"),
    "a target out of bounds": (("--burst", "5x1", "--target-wait", "2d"), "'target_wait' must be a number from 0"),
    "another pool": (("video", "--burst", "5x1"), "there is no flame pool 'video' (known: pool)"),
    "no file": (("--trace", "nowhere.csv"), "nowhere.csv: cannot be read"),
    "a picture of another kind": (
        ("--burst", "5x1", "--picture", "x.png"),
        "an SVG is drawn: name it *.svg, got 'x.png'",
    ),
    "no place for a picture": (("--burst", "5x1", "--picture", "no/where.svg"), "--picture no/where.svg: No such file"),
}


def asked(*words: str, pools: dict[str, Any] = POOLS, **conf: Any) -> Result:
    app = Celery("proj", broker="redis://127.0.0.1:9/0", set_as_current=False)
    app.conf.update(flame_pools=pools, **conf)
    return CliRunner().invoke(flame, ["simulate", *words], obj=SimpleNamespace(app=app))


def figures(*words: str, **options: Any) -> dict[str, Any]:
    ended = asked(*words, "--json", **options)
    assert ended.exit_code == 0, ended.output
    told: dict[str, Any] = json.loads(ended.output)
    return told


def test_the_same_words_give_the_same_figures_and_another_seed_others() -> None:
    words = ["pool", "--poisson", "0.5x~5", "--for", "5m", "--max", "2", "--slots", "4", "--failed-boots", "0.2"]
    first = figures(*words)
    assert (first["pool"], first["max"], first["slots"]) == ("pool", 2, 4)
    assert first["conditions"]["failed_boots"] == 0.2
    (run,) = first["runs"]
    assert run["tasks"] == run["finished"] > 100
    assert run["target_wait"] == 30
    assert run["peak"] <= 2
    assert figures(*words) == first
    assert figures(*words, "--seed", "1")["runs"] != first["runs"]


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        (["--burst", "7x~1"], 7),
        (["--floods", "5x1", "--for", "10m", "--every", "5m", "--over", "1m"], 10),
        (["--daily", "0.01x1", "--for", "1h", "--peak", "1"], 36),
    ],
)
def test_each_load_brings_its_tasks(words: list[str], tasks: int) -> None:
    (run,) = figures(*words)["runs"]
    assert run["finished"] == pytest.approx(tasks, rel=0.5 if words[0] == "--daily" else 0)


def test_what_was_decided_is_told_on_request() -> None:
    (run,) = figures("--burst", "4x1", "--decisions")["runs"]
    assert run["decisions"][0][1]
    assert run["decisions"][0][1] in asked("--burst", "4x1", "--decisions").output


def test_a_run_that_is_stopped_says_what_is_not_done() -> None:
    (run,) = figures("--burst", "500x60", "--until", "10m")["runs"]
    assert 0 < run["finished"] < run["tasks"] == 500
    assert "unfinished" in asked("--burst", "500x60", "--until", "10m").output


def test_a_price_gives_the_cost() -> None:
    (run,) = figures("--burst", "40x10", "--price", "0.5")["runs"]
    assert run["cost"] == pytest.approx(run["billed_hours"] * 0.5)
    priced = {"pool": {**POOLS["pool"], "hourly_price": 2.0}}
    (run,) = figures("--burst", "40x10", pools=priced)["runs"]
    assert run["cost"] == pytest.approx(run["billed_hours"] * 2)


def test_a_task_that_runs_for_ages_does_not_take_ages(tmp_path: Path) -> None:
    trace = tmp_path / "load.csv"
    trace.write_text("arrival,runtime\n0,1e12\n")
    (run,) = figures("--trace", str(trace))["runs"]
    assert run["finished"] == 1
    assert run["ended_at"] > 1e12


def test_boots_that_a_parent_would_not_wait_for_are_noted() -> None:
    assert "note: boot_timeout is 120 s" in asked("--burst", "1x1", "--boot", "3m").output
    assert "note" not in asked("--burst", "1x1", "--boot", "1m").output


def test_of_several_pools_one_must_be_named() -> None:
    pools = {**POOLS, "other": {"queues": ["video"], "max_concurrency": 1}}
    assert "there are pools pool, other: say which" in asked("--burst", "5x1", pools=pools).output
    assert figures("other", "--burst", "5x1", pools=pools)["pool"] == "other"


def test_of_a_recording_only_tasks_of_the_pool_are_played(tmp_path: Path) -> None:
    trace = tmp_path / "load.csv"
    trace.write_text("arrival,runtime,queue\n5,1,celery\n6,1,mail\n7,1,celery\n")
    (run,) = figures("--trace", str(trace))["runs"]
    assert run["tasks"] == 2


@pytest.mark.parametrize("command", ["simulate", "record"])
def test_each_command_explains_itself(command: str) -> None:
    ended = CliRunner().invoke(flame, [command, "--help"])
    assert ended.exit_code == 0
    assert ended.output.startswith(f"Usage: flame {command}")


@pytest.mark.parametrize(("words", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_simulated_is_refused_with_the_remedy(words: tuple[str, ...], told: str) -> None:
    ended = asked(*words)
    assert ended.exit_code in (1, 2)
    assert isinstance(ended.exception, SystemExit)  # no traceback
    assert told in " ".join(ended.output.split())


def test_a_policy_that_cannot_be_copied_is_refused_with_the_remedy() -> None:
    ended = asked("--burst", "5x1", flame_policy="tests.unit.test_testing_flame:locked")
    assert ended.exit_code == 1
    assert isinstance(ended.exception, SystemExit)  # no traceback
    assert "cannot be copied, as tests and simulations do: cannot pickle" in ended.output
