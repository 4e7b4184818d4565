"""Which cells of the matrix run?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import stages

COMMITS = range(40)


def a_machine_with(tmp_path: Path, *pythons: str) -> str:
    for python in pythons:
        (tmp_path / python).touch(mode=0o755)
    return str(tmp_path)


def test_every_cell_has_its_turn(tmp_path: Path) -> None:
    path = a_machine_with(tmp_path, "python3.10", "python3.11", "python3.12", "python3.13")

    assert {stages.in_turn(commit, path)[1] for commit in COMMITS} == set(stages.CELLS)


def test_two_commits_of_another_parity_have_each_cell_in_turn_and_each_has_every_python_and_celery() -> None:
    here, there = ([cell.split("-") for cell in stages.in_turn(commit, "")[0]] for commit in (6, 7))

    assert sorted("-".join(cell) for cell in here + there) == sorted(stages.CELLS)
    for half in (here, there):
        assert {python for python, _ in half} == set(stages.PYTHONS)
        assert {celery for _, celery in half} == set(stages.CELERYS)


def test_no_cell_has_its_turn_where_its_python_is_not(tmp_path: Path) -> None:
    path = a_machine_with(tmp_path, "python3.12")

    turns = {stages.in_turn(commit, path)[1] for commit in COMMITS}

    assert {cell.split("-")[0] for cell in turns} == {"py312", stages.OWN}


def test_a_stage_without_its_python_breaks_nothing_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYENV_ROOT", "/nowhere")

    assert stages.main(["py399-celery57"]) == 0

    assert "NOT RUN for want of a Python: py399-celery57" in capsys.readouterr().out


def test_the_matrix_is_every_cell_twice_and_celerys_own_tests_with_each_celery() -> None:
    matrix = stages.chosen(["matrix"], "")

    assert len(set(matrix)) == len(matrix)
    assert len([name for name in matrix if name.endswith("-integration")]) == len(stages.CELLS) >= 16
    assert {name for name in matrix if name.startswith("conformance")} == set(stages.CONFORMANCE)
