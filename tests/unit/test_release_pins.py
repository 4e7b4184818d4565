from __future__ import annotations

import json
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.release import pins

#: As uv writes it, and below as pip does.
LOCK = """\
lock-version = "1.0"
[[packages]]
name = "async-timeout"
version = "5.0.1"
marker = "python_full_version < '3.11.3'"
sdist = { url = "https://example.org/a.tar.gz", hashes = { sha256 = "aa" } }
wheels = [{ url = "https://example.org/a.whl", hashes = { sha256 = "bb" } }, { url = "b", hashes = { md5 = "cc" } }]
[[packages]]
name = "mine"
directory = { path = "../mine" }
[[packages]]
name = "theirs"
vcs = { type = "git", url = "https://example.org/theirs", commit-id = "abc" }
[[packages]]
name = "old"
archive = { url = "https://example.org/old-1.tar.gz", hashes = { sha256 = "dd" } }
[[packages]]
name = "celery"
version = "5.7.0"
[[packages.wheels]]
name = "celery-5.7.0-py3-none-any.whl"
[packages.wheels.hashes]
sha256 = "ee"
"""


class TestLock:
    def test_every_package_is_pinned_with_marker_and_hashes(self, tmp_path: Path):
        (tmp_path / "project").mkdir()
        (tmp_path / "project/pylock.toml").write_text(LOCK)
        assert pins.pins_of_lock(tmp_path / "project/pylock.toml") == [
            "async-timeout==5.0.1 ; python_full_version < '3.11.3' --hash=sha256:bb --hash=sha256:aa",
            f"mine @ {(tmp_path / 'mine').as_uri()}",
            "theirs @ git+https://example.org/theirs@abc",
            "old @ https://example.org/old-1.tar.gz",
            "celery==5.7.0 --hash=sha256:ee",
        ]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("x", "pylock.toml is not TOML: "),
            ('packages = "x"', r"pylock.toml is no pylock.toml as PEP 751 has it \("),
            ("[[packages]]\nversion = '1'", r"as PEP 751 has it \(KeyError: 'name'\)"),
            ("[[packages]]\nname = 'x'", r"as PEP 751 has it \(KeyError: 'version'\)"),
        ],
    )
    def test_what_is_none_is_told_in_one_line(self, tmp_path: Path, text: str, told: str):
        (tmp_path / "pylock.toml").write_text(text)
        with pytest.raises(ReleaseError, match=told) as caught:
            pins.pins_of_lock(tmp_path / "pylock.toml")
        assert "\n" not in str(caught.value)


def test_an_export_is_read_with_its_hashes_and_without_what_is_only_a_path():
    text = """\
-e ./mine
./other
async-timeout==5.0.1 ; python_full_version < '3.11.3' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via redis
theirs @ git+https://example.org/theirs@abc
"""
    assert pins.pins_of_export(text) == [
        "async-timeout==5.0.1 ; python_full_version < '3.11.3' --hash=sha256:aa --hash=sha256:bb",
        "theirs @ git+https://example.org/theirs@abc",
    ]


class TestEnvironment:
    def installed(self, directory: Path, origin: object = None) -> list[str]:
        info = directory / "mine-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: mine\nVersion: 1.0\n")
        if origin:
            (info / "direct_url.json").write_text(json.dumps(origin))
        return list(pins._installed([PathDistribution(info)]))

    def test_what_came_from_an_index_is_pinned_by_its_version(self, tmp_path: Path):
        assert self.installed(tmp_path) == ["mine==1.0"]

    def test_what_came_from_elsewhere_is_pinned_by_where_it_came_from(self, tmp_path: Path):
        origin = {"url": "file:///src/mine", "dir_info": {"editable": True}}
        assert self.installed(tmp_path, origin) == ["mine @ file:///src/mine"]

    def test_what_came_from_a_repository_is_pinned_by_its_revision(self, tmp_path: Path):
        origin = {"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
        assert self.installed(tmp_path, origin) == ["mine @ git+https://example.org/x@abc"]

    def test_this_one_has_pytest_once(self):
        assert len([line for line in pins.pins_of_environment() if line.startswith("pytest==")]) == 1
