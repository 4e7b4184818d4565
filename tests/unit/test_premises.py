"""Who else can put files where leases, boards and runners lie?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_flame_ec2.board.base import Pin
from celery_flame_ec2.board.folder import Folder
from celery_flame_ec2.errors import BoardError, LeaseError
from celery_flame_ec2.lease.file import FileStore
from celery_flame_ec2.premises import make_own, own_file, premises

REMEDY = "must be a directory of this user that others cannot write to: chmod 700 it, or remove what is there, or set"

AS_ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user keeps files, in a temporary directory that is shared."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o1777)
    return premises()


def linked(ours: Path, elsewhere: Path) -> None:
    ours.symlink_to(elsewhere)


def open_to_others(ours: Path, _: Path) -> None:
    ours.mkdir()
    ours.chmod(0o777)


def of_another(ours: Path, _: Path) -> None:
    ours.mkdir(mode=0o700)
    os.chown(ours, 65534, -1)


LEASE: dict[str, Callable[[FileStore], object]] = {
    "take": lambda store: store.take(),
    "left": lambda store: store.left(),
    "notes": lambda store: store.notes(),
    "overrides": lambda store: store.overrides(),
    "override": lambda store: store.override({"paused:video": "1"}),
}
BOARD: dict[str, Callable[[Folder], object]] = {
    "pin": lambda board: board.pin(Pin(runner_id="r1", text="1.x")),
    "pins": lambda board: board.pins(),
    "take down": lambda board: board.take_down([Pin(runner_id="r1", text="1.x")]),
    "cordoned": lambda board: board.cordoned(),
    "order": lambda board: board.order(lambda ids: ids),
}


@pytest.mark.parametrize("planted", [linked, open_to_others, pytest.param(of_another, marks=AS_ROOT)])
@pytest.mark.parametrize("verb", LEASE)
def test_a_lease_is_neither_written_nor_read_where_others_can_put_files(
    verb: str, planted: Callable[[Path, Path], None], ours: Path, tmp_path: Path
) -> None:
    store, elsewhere = FileStore(own_file("proj", "lease")), tmp_path / "elsewhere"
    elsewhere.mkdir()
    planted(ours, elsewhere)
    with pytest.raises(LeaseError, match=f"proj.lease.*: {ours} {REMEDY} TMPDIR"):
        LEASE[verb](store)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("planted", [linked, open_to_others, pytest.param(of_another, marks=AS_ROOT)])
@pytest.mark.parametrize("verb", BOARD)
def test_a_board_is_neither_written_nor_read_where_others_can_put_files(
    verb: str, planted: Callable[[Path, Path], None], ours: Path, tmp_path: Path
) -> None:
    board, elsewhere = Folder(own_file("proj", "board")), tmp_path / "elsewhere"
    (elsewhere / "proj.board" / "words").mkdir(parents=True)
    (elsewhere / "proj.board" / "orders").write_text('{"cordoned": ["r1"]}')
    planted(ours, elsewhere)
    with pytest.raises(BoardError, match=f"proj.board: {ours} {REMEDY} TMPDIR"):
        BOARD[verb](board)
    assert not list((elsewhere / "proj.board" / "words").iterdir())


def test_a_link_within_is_refused_as_well(ours: Path, tmp_path: Path) -> None:
    make_own(ours)
    (ours / "proj.board").symlink_to(tmp_path)
    with pytest.raises(BoardError, match=f"{ours}/proj.board {REMEDY}"):
        Folder(own_file("proj", "board")).order(lambda ids: ids)


def test_where_nothing_is_yet_it_is_made_for_this_user_alone(ours: Path) -> None:
    board, store = Folder(own_file("a/b", "board")), FileStore(own_file("a/b", "lease"))
    assert (board.pins(), board.cordoned(), store.left(), store.notes()) == ([], frozenset(), 0.0, {})
    assert not ours.exists()
    board.pin(Pin(runner_id="r1", text="1.x"))
    assert store.take()
    store.give_up()
    made = [ours, ours / "a-b.board", ours / "a-b.board" / "words"]
    assert [each.stat().st_mode & 0o777 for each in made] == [0o700] * 3
