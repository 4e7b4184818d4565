"""Do table and picture tell what came of a run, whatever its words are?"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import plan
from celery_flame_ec2.simulate import Moment, Outcome, Task, burst, fixed, simulate
from celery_flame_ec2.simulate.picture import STEPS, picture
from celery_flame_ec2.simulate.report import Amount, Run, amount_of, fields, in_words, table

POOL = PoolSettings(name="video", queues=("video",), max=20, max_concurrency=4)
SVG = "{http://www.w3.org/2000/svg}"


def outcome(**given: object) -> Outcome:
    told = {
        "waits": array("d", [0, 10, 20, 30]), "starts": array("d", [0, 100, 100, 400]), "billed": 7200.0,
        "busy": 14400.0, "launches": 2, "peak": 2, "ended_at": 500.0,
        "moments": [Moment(0, 4, 0, 2, 0, 0), Moment(100, 1, 3, 0, 2, 0), Moment(300, 0, 1, 0, 1, 1)],
    }  # fmt: skip
    return Outcome(**{**told, **given})  # type: ignore[arg-type]


def run(price: float | None = None, target: float = 30.0, tasks: int = 4, **given: object) -> Run:
    amount = Amount(tasks=tasks, seconds=14400, last=400)
    return Run(target_wait=target, slots=4, price=price, amount=amount, outcome=outcome(**given))


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_load_is_added_up() -> None:
    assert amount_of([Task(0, 2), Task(7, 3)]) == Amount(tasks=2, seconds=5, last=7)
    assert amount_of([]) == Amount()


def test_the_figures_are_those_of_the_outcome() -> None:
    told = fields(run(price=0.25))
    assert (told["mean_wait"], told["wait_50"], told["wait_95"], told["longest_wait"]) == (15, 10, 30, 30)
    assert (told["billed_hours"], told["work_hours"], told["cost"]) == (2, 1, 0.5)
    assert (told["tasks"], told["finished"], told["launches"], told["peak"]) == (4, 4, 2, 2)


def test_the_table_has_a_row_for_each_run_and_no_column_for_what_did_not_happen() -> None:
    heading, first, second = table([run(), run(target=120.0, launches=7)]).splitlines()
    assert re.split(r"\s{2,}", heading.strip()) == [
        "target_wait", "mean wait s", "50 %", "95 %", "99 %", "longest", "billed h", "work h", "launches", "peak",
    ]  # fmt: skip
    assert first.split() == ["30", "15.0", "10.0", "30.0", "30.0", "30.0", "2.00", "1.00", "2", "2"]
    assert second.split()[0] == "120"
    assert len(heading) == len(first) == len(second)


def test_the_table_tells_cost_and_trouble_where_there_are_any() -> None:
    told = table([run(price=0.1, tasks=6, lost_boots=3, interrupted=1, rerun=2)])
    heading = re.split(r"\s{2,}", told.splitlines()[0].strip())
    row = dict(zip(heading, told.splitlines()[1].split(), strict=True))
    assert (row["cost"], row["failed boots"], row["interrupted"], row["run again"]) == ("0.20", "3", "1", "2")
    assert row["unfinished"] == "2"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.5, "0.5 s"), (119, "119 s"), (120, "2.0 min"), (9000, "2.5 h"), (1e6, "11.6 d")],
)
def test_times_are_told_in_the_unit_that_suits_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_picture_names_what_it_shows_with_units() -> None:
    told = texts(picture([("target_wait 30 s", outcome())], "video: 4 tasks"))
    assert told[:2] == ["video: 4 tasks", "target_wait 30 s"]
    assert {"Tasks", "Runners", "Waiting of the tasks that start (s)"} <= set(told)
    assert {"waiting", "running", "booting", "up", "cordoned", "longest", "mean"} <= set(told)
    assert told.count("8 min") == 3  # each panel has its time axis
    assert "30" in told  # seconds of waiting


def test_a_picture_needs_no_colour() -> None:
    drawn = picture([("", outcome())], "")
    for colour in re.findall(r"#([0-9a-f]+)", drawn):
        assert len(set(re.findall("..", colour) if len(colour) == 6 else colour)) == 1, colour


def test_a_picture_draws_what_there_was_when_it_was() -> None:
    svg = ET.fromstring(picture([("", outcome())], ""))
    area = next(path for path in svg.iter(f"{SVG}path") if (path.get("d") or "").startswith("M70.0"))
    forth = (area.get("d") or "").split("L")[0]
    # 4 waited until 100 of 500 s, then 1 until 300 s; y grows downwards
    heights = [float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", forth)]
    assert [heights[-1] - y for y in heights] == pytest.approx([4 / 4.2 * 140, 1 / 4.2 * 140, 0], abs=0.1)
    ends = [float(x) for x in re.findall(r"H([\d.]+)", forth)]
    wide = ends[-1] - 70
    assert [(x - 70) / wide for x in ends] == pytest.approx([0.2, 0.6, 1], abs=2 / STEPS)


def test_runs_stand_beside_each_other_on_the_same_axes() -> None:
    one, two = outcome(), outcome(ended_at=5000.0, waits=array("d", [900] * 4))
    svg = ET.fromstring(picture([("one", one), ("two", two)], "both"))
    columns = svg.findall(f"{SVG}g")
    ticks = [[text.text for text in column.iter(f"{SVG}text") if text.get("text-anchor")] for column in columns]
    assert ticks[0] == ticks[1]
    assert columns[0].get("transform") != columns[1].get("transform")
    for column in columns:  # those of the longer waits, 900 s
        assert "Waiting of the tasks that start (min)" in [text.text for text in column.iter(f"{SVG}text")]
        assert "15" in ticks[0]


def heights_of(svg: ET.Element, run: int) -> list[float]:
    """Return how high the area of the queue is, in pixels, from left to right."""
    column = svg.findall(f"{SVG}g")[run]
    area = next(path for path in column.iter(f"{SVG}path") if (path.get("d") or "").startswith("M70.0"))
    heights = [float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", (area.get("d") or "").split("L")[0])]
    return [228 - y for y in heights]


def test_nothing_is_drawn_after_the_end_of_a_run() -> None:
    waits = outcome(moments=[Moment(0, 4, 0, 2, 0, 0)])
    svg = ET.fromstring(picture([("", waits), ("", outcome(ended_at=5000.0, moments=waits.moments))], ""))
    assert heights_of(svg, 0) == pytest.approx([4 / 4.2 * 140, 0], abs=0.1)
    assert heights_of(svg, 1) == pytest.approx([4 / 4.2 * 140], abs=0.1)


def test_a_peak_is_drawn_however_short_it_was() -> None:
    moments = [Moment(0, 1, 0, 2, 0, 0), Moment(100, 50, 0, 2, 0, 0), Moment(100.1, 1, 0, 2, 0, 0)]
    heights = heights_of(ET.fromstring(picture([("", outcome(moments=moments))], "")), 0)
    assert heights == pytest.approx([140 / 52.5, 50 / 52.5 * 140, 140 / 52.5], abs=0.1)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=())), st.text())
def test_a_picture_is_well_formed_whatever_the_words_are(words: str, title: str) -> None:
    drawn = picture([(f'<&>"{words}', outcome())], f"]]>{title}\x00\x1b")
    assert texts(drawn)[1].startswith('<&>"')
    drawn.encode()


@pytest.mark.parametrize("ended_at", [0.0, 1e-3, 1.0, 1e7])
def test_a_picture_of_nothing_is_a_picture_too(ended_at: float) -> None:
    ET.fromstring(picture([("", Outcome(ended_at=ended_at))], ""))


def test_a_real_run_is_drawn_to_its_end() -> None:
    done = simulate(burst(100, fixed(10)), POOL, plan)
    told = texts(picture([("", done)], "100 tasks"))
    assert "2 min" in told or "100 s" in told
