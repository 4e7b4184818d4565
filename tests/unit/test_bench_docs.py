"""Does the page about the policy hold what was found, and small pictures of it?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.policy import oracle
from benchmarks.policy.__main__ import changes_of, main
from benchmarks.policy.aims import judge
from benchmarks.policy.contenders import DEFAULT, LONG_IDLE
from benchmarks.policy.docs import drawn, reasons, sensitivity_table, write
from benchmarks.policy.runs import Setting, play
from benchmarks.policy.sensitivity import LEFT_OUT, MODULES, Change
from benchmarks.policy.varied import numbers

OURS = "celery_flame_ec2.policy:plan"
ROOT = Path(__file__).parent.parent.parent
CHANGES = [
    Change(name="policy.SPARE", value=1.0, wait=1.25, bill=0.875),
    Change(name="policy.SPARE", value=4.0, wait=0.5, bill=1.0),
]
SOURCE = '''\
"""A module."""

#: Seconds of the one,
#: and of the other.
QUICK, SLOW = 60.0, 300.0
#: Not a number.
STATES = frozenset()
#: Acts after failures only.
PROBE_AFTER = 2
NAMELESS = 7
'''


def test_a_constant_stands_on_one_line_with_both_its_changes() -> None:
    assert list(sensitivity_table(CHANGES))[2:] == ["| `policy.SPARE` | 1 | 1.250 | 0.875 | 4 | 0.500 | 1.000 |"]


def test_constants_are_told_with_what_their_comments_say() -> None:
    values = {"QUICK": 60.0, "SLOW": 300.0, "PROBE_AFTER": 2, "NAMELESS": 7}

    assert list(reasons(SOURCE, "policy", values)) == [
        "* `policy.QUICK` (60), `policy.SLOW` (300): Seconds of the one, and of the other."
    ]


@pytest.mark.parametrize("module", MODULES)
def test_every_constant_that_is_varied_says_what_it_is_for(module: str) -> None:
    path = ROOT / "celery_flame_ec2" / f"{module}.py"
    told = " ".join(reasons(path.read_text(), module, numbers(path)))

    assert [name for name in numbers(path) if name not in LEFT_OUT and f"`{module}.{name}`" not in told] == []


def test_a_picture_has_both_policies_and_is_small() -> None:
    picture = drawn(Setting(ours=OURS), "floods 400 x 5 s")

    ElementTree.fromstring(picture)  # it is XML
    assert "ours, target 30 s: mean wait" in picture
    assert "plain depth, idle 300 s: mean wait" in picture
    assert len(picture.encode()) < 60_000


def test_a_page_holds_aims_constants_tables_and_shows_the_pictures_beside_it(tmp_path: Path) -> None:
    page, setting, load = tmp_path / "page.md", Setting(ours=OURS), "floods 400 x 5 s"
    rows = [play(setting, load, name) for name in (DEFAULT, LONG_IDLE, oracle.NAME)]

    write(page, setting, rows, judge(rows), CHANGES)

    text = page.read_text()
    for part in (
        "1. no peer is better",
        "`experience.SLOW` (",
        "| `policy.SPARE` | 1 ",
        f"  {LONG_IDLE} ",
        "{load}: 6,400",
    ):
        assert part.format(load=load) in text
    assert "](page-floods.svg)" in text
    assert (tmp_path / "page-floods.svg").read_text().startswith("<svg ")


def test_figures_of_constants_may_come_from_an_earlier_run(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    figures.write_text(json.dumps([asdict(change) for change in CHANGES]))

    assert list(changes_of(figures, [])) == CHANGES


@pytest.mark.parametrize("other", [["--all"], ["--policies", "keda"]])
def test_a_page_is_of_one_setting_and_all_policies(other: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--docs", "page.md", *other])

    assert "--docs is a page of one boot time, one number of slots and all policies" in capsys.readouterr().err
