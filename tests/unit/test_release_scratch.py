"""The directory in which a release is built or read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from celery_flame_ec2.errors import NoRoom
from celery_flame_ec2.release.scratch import scratch


def test_nothing_of_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as directory:
        (directory / "file").touch()
        assert list(tmp_path.iterdir()) == [directory]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_in_one_line_with_the_remedy() -> None:
    told = r"^cannot work in .*: No space left on device; let TMPDIR name a place"
    with pytest.raises(NoRoom, match=told), scratch():
        Path("/dev/full").write_bytes(b"more")


def test_a_place_where_none_can_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with pytest.raises(NoRoom, match=f"cannot work in {tmp_path / 'file'}: "), scratch():
        pass
