from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.release.manifest import File, Link, Manifest, files_in

SHA256 = "0" * 64
MANIFEST = Manifest(
    name="proj",
    celery_app="proj.app:app",
    python="3.11.2",
    platform="x86_64-manylinux_2_28",
    compiled=True,
    git=None,
    packages={"kombu": "5.7.0", "celery": "5.7.0"},
    files={
        "lib/x.so": Link(target="../app/x.so"),
        "app/x.so": File(sha256=SHA256, mode=0o644),
        "bin/proj": File(sha256=SHA256, mode=0o755),
    },
)


def changed(**fields: object) -> str:
    return json.dumps({**json.loads(MANIFEST.encode()), **fields})


class TestEncoding:
    def test_what_is_written_is_read(self):
        assert Manifest.decode(MANIFEST.encode()) == MANIFEST

    def test_modes_are_octal_digits_and_links_have_none(self):
        assert json.loads(MANIFEST.encode())["files"] == {
            "app/x.so": {"sha256": SHA256, "mode": "644"},
            "bin/proj": {"sha256": SHA256, "mode": "755"},
            "lib/x.so": {"link": "../app/x.so"},
        }

    def test_the_order_of_files_and_packages_is_not_seen(self):
        fields = json.loads(MANIFEST.encode())
        assert list(fields["files"]) == ["app/x.so", "bin/proj", "lib/x.so"]
        assert list(fields["packages"]) == ["celery", "kombu"]

    def test_what_a_later_version_says_besides_is_left_out(self):
        assert Manifest.decode(changed(colour="red")) == MANIFEST


class TestRefusals:
    @pytest.mark.parametrize("text", ["", "{", b"\xff", "[]", "null"])
    def test_what_is_no_object_is_refused(self, text: str | bytes):
        with pytest.raises(ReleaseError, match=r"^release\.json is no"):
            Manifest.decode(text)

    def test_what_is_missing_is_named(self):
        fields = json.loads(MANIFEST.encode())
        del fields["files"]
        with pytest.raises(ReleaseError, match=r"^release\.json has no 'files'; build the release again"):
            Manifest.decode(json.dumps(fields))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("name", ""), ("celery_app", None), ("python", "2.7.1"), ("python", 3.11), ("platform", "x86_64"),
            ("compiled", "yes"), ("git", ""), ("packages", {"celery": 5}), ("packages", []), ("files", []),
        ],
    )  # fmt: skip
    def test_a_value_of_another_kind_is_named(self, name: str, value: object):
        with pytest.raises(ReleaseError, match=rf"^release\.json: '{name}' cannot be "):
            Manifest.decode(changed(**{name: value}))

    @pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b", "", "a/.", "a\0b"])
    def test_a_path_that_leads_out_of_the_release_is_refused(self, path: str):
        with pytest.raises(ReleaseError, match="is no path inside a release"):
            Manifest.decode(changed(files={path: {"sha256": SHA256, "mode": "644"}}))

    @pytest.mark.parametrize(
        "entry",
        [
            None, {}, {"sha256": SHA256}, {"sha256": SHA256, "mode": "4755"}, {"sha256": SHA256, "mode": 644},
            {"sha256": SHA256.replace("0", "G"), "mode": "644"}, {"sha256": "0", "mode": "644"},
            {"link": "/etc/passwd"}, {"link": "../../x"}, {"link": ".."}, {"link": 1},
        ],
    )  # fmt: skip
    def test_a_file_that_could_not_be_checked_is_refused(self, entry: object):
        with pytest.raises(ReleaseError, match=r'^release\.json: file "lib/x" cannot be '):
            Manifest.decode(changed(files={"lib/x": entry}))


class TestFilesIn:
    def test_every_file_but_the_manifest_is_there_with_its_checksum_and_one_of_two_modes(self, tmp_path: Path):
        for name in ("bin/proj", "lib/x", "lib/release.json", "release.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        (tmp_path / "bin/proj").chmod(0o700)
        (tmp_path / "lib/x").chmod(0o600)
        (tmp_path / "lib/y").symlink_to("x")
        (tmp_path / "app").symlink_to("lib")
        assert files_in(tmp_path) == {
            "app": Link(target="lib"),
            "bin/proj": File(sha256=hashlib.sha256(b"bin/proj").hexdigest(), mode=0o755),
            "lib/release.json": File(sha256=hashlib.sha256(b"lib/release.json").hexdigest(), mode=0o644),
            "lib/x": File(sha256=hashlib.sha256(b"lib/x").hexdigest(), mode=0o644),
            "lib/y": Link(target="x"),
        }
