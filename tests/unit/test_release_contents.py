"""Contents of bundles, as they are packed, and whether they are what their manifest says."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.finding import Verdict
from celery_flame_ec2.release.contents import Contents, contents
from celery_flame_ec2.release.facts import facts_of, own_facts
from celery_flame_ec2.release.inspection import fits, inspect
from celery_flame_ec2.release.manifest import File, Link, Manifest

PROGRAM = b"#!/bin/sh\n"
FILES = {
    "bin/proj": File(sha256=hashlib.sha256(PROGRAM).hexdigest(), mode=0o755),
    "lib/a.py": File(sha256=hashlib.sha256(b"a").hexdigest(), mode=0o644),
    "lib/b.py": Link(target="a.py"),
}
MANIFEST = Manifest(
    name="proj", celery_app="proj.app:app", python="3.11.2", platform="x86_64-manylinux_2_28", compiled=True,
    git="abc", packages={"celery": "5.6.0", "celery-flame-ec2": "0.1"}, files=FILES,
)  # fmt: skip
TEXT = MANIFEST.encode().encode()


def packed(*, manifest: bytes | None = TEXT, **changes: bytes | None) -> bytes:
    """Return a .tar of the release; `changes` are of bin/proj, as `proj`, and of other files in lib."""
    content = {"bin/proj": PROGRAM, "lib/a.py": b"a", "release.json": manifest}
    content |= {"bin/proj" if name == "proj" else f"lib/{name}.py": data for name, data in changes.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        link = tarfile.TarInfo("lib/b.py")
        link.type, link.linkname = tarfile.SYMTYPE, "a.py"
        tar.addfile(link)
        for name, data in content.items():
            if data is not None:
                member = tarfile.TarInfo(f"./{name}")
                member.size, member.mode = len(data), 0o755 if name.startswith("bin/") else 0o644
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def read(directory: Path, **changes: Any) -> Contents:
    path = directory / "proj.tar.gz"
    path.write_bytes(gzip.compress(packed(**changes)))
    return contents(path)


def test_an_archive_is_read_whole(tmp_path: Path) -> None:
    assert read(tmp_path) == Contents(files=FILES, manifest=TEXT)


def test_an_archive_packed_with_zstd_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "proj.tar.zst"
    path.write_bytes(subprocess.run(["zstd", "-q"], input=packed(), capture_output=True, check=True).stdout)
    assert contents(path) == Contents(files=FILES, manifest=TEXT)


def archive(directory: Path, *members: tarfile.TarInfo) -> Path:
    path = directory / "proj.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def test_a_hard_link_is_the_file_that_it_is_of(tmp_path: Path) -> None:
    file, link = tarfile.TarInfo("./bin/proj"), tarfile.TarInfo("./bin/again")
    file.mode, link.type, link.linkname = 0o755, tarfile.LNKTYPE, "./bin/proj"
    found = contents(archive(tmp_path, file, link)).files
    assert found["bin/again"] == found["bin/proj"] == File(sha256=hashlib.sha256(b"").hexdigest(), mode=0o755)


@pytest.mark.parametrize("name", ["../proj", "bin/../../proj", "/bin/proj"])
def test_a_path_that_leads_out_of_the_release_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReleaseError, match=f"{name} leads out of the release"):
        contents(archive(tmp_path, tarfile.TarInfo(name)))


def test_what_follows_the_archive_in_its_zst_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "proj.tar.zst"
    more = packed() + bytes(1 << 20)
    path.write_bytes(subprocess.run(["zstd", "-q"], input=more, capture_output=True, check=True).stdout)
    assert contents(path).manifest == TEXT


@pytest.mark.parametrize("name", ["proj.tar.gz", "proj.tar.zst"])
@pytest.mark.parametrize("data", [b"no archive", b""], ids=["no archive", "empty"])
def test_what_is_no_archive_is_refused_with_its_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ReleaseError, match=f"cannot read .*{name}"):
        contents(tmp_path / name)


def verdicts(found: Contents, program: str = "bin/proj") -> dict[str, tuple[Verdict, str]]:
    return {finding.check: (finding.verdict, finding.seen) for finding in inspect(found, program)}


def test_a_release_as_it_was_built_is_well(tmp_path: Path) -> None:
    found = verdicts(read(tmp_path))
    assert found["program"] == (Verdict.OK, "bin/proj")
    assert found["files"] == (Verdict.OK, "all 3 are those that release.json names")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"a": b"changed"}, "lib/a.py (changed): not what release.json says"),
        ({"a": None}, "lib/a.py (missing): not what release.json says"),
        ({"c": b"more"}, "lib/c.py (not named there): not what release.json says"),
    ],
)
def test_a_file_that_is_not_the_one_that_was_built_is_named(
    tmp_path: Path, changes: dict[str, bytes | None], told: str
) -> None:
    assert verdicts(read(tmp_path, **changes))["files"] == (Verdict.FAILED, told)


def test_a_bundle_without_its_program_and_one_without_a_manifest_are_told(tmp_path: Path) -> None:
    found = verdicts(read(tmp_path, manifest=None), "bin/other")
    assert found["program"] == (Verdict.FAILED, "it has no bin/other")
    assert found["files"][0] is Verdict.WARNING
    assert verdicts(read(tmp_path), "/usr/bin/java")["program"][0] is Verdict.OK
    assert verdicts(read(tmp_path, manifest=b"{}"))["files"][0] is Verdict.FAILED


@pytest.mark.parametrize(
    ("facts", "architecture", "verdict"),
    [
        (facts_of(TEXT), "x86_64", Verdict.OK),
        (facts_of(TEXT), None, Verdict.OK),
        (facts_of(TEXT), "arm64", Verdict.FAILED),
        ({**facts_of(TEXT), "platform": "aarch64-manylinux_2_28"}, "arm64", Verdict.OK),
        ({}, "arm64", Verdict.UNKNOWN),
    ],
)
def test_a_release_has_to_fit_its_image(facts: dict[str, str], architecture: str | None, verdict: Verdict) -> None:
    (finding,) = fits(facts, architecture)
    assert finding.verdict is verdict


def test_the_facts_of_a_release_are_those_that_a_parent_compares() -> None:
    assert facts_of(TEXT) == {
        "name": "proj", "python": "3.11.2", "platform": "x86_64-manylinux_2_28", "celery": "5.6.0",
        "celery-flame-ec2": "0.1", "revision": "abc", "manifest": hashlib.sha256(TEXT).hexdigest(),
    }  # fmt: skip


def test_a_process_of_a_release_tells_the_facts_of_that_release(tmp_path: Path) -> None:
    (tmp_path / "release.json").write_bytes(TEXT)
    assert own_facts(tmp_path / "release.json") == facts_of(TEXT)


def test_any_other_process_tells_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert own_facts(tmp_path / "release.json").keys() == {"celery", "celery-flame-ec2"}
    (tmp_path / "release.json").write_text(json.dumps({"name": "proj"}))
    assert "manifest" not in own_facts(tmp_path / "release.json")
