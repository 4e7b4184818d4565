from __future__ import annotations

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.release import archive, bundle, sources
from celery_flame_ec2.release.bundle import build
from celery_flame_ec2.release.progress import Progress
from celery_flame_ec2.release.target import Target
from celery_flame_ec2.release.wheels import Locked, Package, explain, needed, parse, read_lock

TARGET = Target(python="3.11.2", platform="x86_64-manylinux_2_28")

RESOLVED = """\
async-timeout==5.0.1
    # via redis
-e ../flame
    # via -r requirements.txt
boto3==1.44.5
    # via celery-flame-ec2
botocore==1.44.5
    # via
    #   boto3
    #   s3transfer
celery==5.7.0
    # via
    #   -c limits.txt
    #   -r requirements.txt
    #   celery-flame-ec2
mine @ file:///src/mine
    # via -r requirements.txt
redis==8.1.0
    # via celery
s3transfer==0.19.3
    # via boto3
"""


def package(name: str | None, *wanted_by: str) -> Package:
    return Package(line=f"{name}==1", name=name, wanted_by=frozenset(wanted_by))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return root


def unpacked(path: Path) -> io.BytesIO:
    content = path.read_bytes()
    if path.suffix == ".zst":
        return io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(content))
    return io.BytesIO(gzip.decompress(content))


def names_in(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())


class TestParse:
    def test_every_package_is_read_with_those_that_want_it(self):
        read = {package.name: package.wanted_by for package in parse(RESOLVED)}
        assert read["async-timeout"] == {"redis"}
        assert read["botocore"] == {"boto3", "s3transfer"}
        assert read["mine"] == {"-r requirements.txt"}

    def test_an_editable_path_becomes_a_plain_one_without_a_name(self):
        assert [package.line for package in parse(RESOLVED) if package.name is None] == ["../flame"]

    def test_a_constraint_is_no_wish(self):
        (celery,) = [package for package in parse(RESOLVED) if package.name == "celery"]
        assert celery.wanted_by == {"-r requirements.txt", "celery-flame-ec2"}

    def test_built_is_what_comes_from_a_directory_a_repository_or_a_source_archive(self):
        lock = """
lock-version = "1.0"
[[packages]]
name = "celery"
version = "5.7.0"
wheels = [{ url = "https://example.org/celery-5.7.0-py3-none-any.whl" }]
[[packages]]
name = "from-a-directory"
directory = { path = ".." }
[[packages]]
name = "from-git"
vcs = { type = "git" }
[[packages]]
name = "from-a-wheel"
archive = { path = "x-1-py3-none-any.whl", hashes = {} }
[[packages]]
name = "from-an-sdist"
archive = { path = "x-1.tar.gz", hashes = {} }
"""
        assert read_lock(lock) == [
            Locked(name="celery", built=False),
            Locked(name="from-a-directory", built=True, path=".."),
            Locked(name="from-git", built=True),
            Locked(name="from-a-wheel", built=False, path="x-1-py3-none-any.whl"),
            Locked(name="from-an-sdist", built=True, path="x-1.tar.gz"),
        ]


class TestNeeded:
    WITHOUT = frozenset({("celery-flame-ec2", "boto3")})

    def names(self, *packages: Package) -> set[str | None]:
        return {package.name for package in needed(packages, self.WITHOUT)}

    def test_what_only_the_left_out_one_wants_goes_with_it(self):
        kept = {package.name for package in needed(parse(RESOLVED), self.WITHOUT)}
        assert kept == {"async-timeout", "celery", "mine", "redis", None}

    def test_without_exceptions_everything_stays(self):
        assert needed(parse(RESOLVED), ()) == parse(RESOLVED)

    def test_what_the_project_lists_itself_stays(self):
        boto3 = package("boto3", "celery-flame-ec2", "-r requirements.txt")
        assert self.names(boto3, package("botocore", "boto3")) == {"boto3", "botocore"}

    def test_what_another_package_wants_stays(self):
        kombu = package("kombu", "-r requirements.txt")  # kombu[sqs]
        assert self.names(kombu, package("boto3", "celery-flame-ec2", "kombu")) == {"kombu", "boto3"}

    def test_two_that_want_only_each_other_do_not_keep_each_other(self):
        boto3 = package("boto3", "celery-flame-ec2", "botocore")
        assert self.names(boto3, package("botocore", "boto3")) == set()


class TestExplain:
    @pytest.mark.parametrize(
        ("stderr", "name"),
        [
            ("error: No solution found\n  cause: Because all versions of uwsgi have no usable wheels and you", "uwsgi"),
            ("  × No solution found:\n  ╰─▶ Because numpy==1.21.0 has no usable wheels and", "numpy"),  # noqa: RUF001
            ("cause: Because only psycopg2==2.9 is available and psycopg2==2.9 has no wheels with a matching "
             "platform\n    tag (e.g., `manylinux_2_28_x86_64`)", "psycopg2"),
            ("error: Failed to build `pycurl==7.43.0`\n  cause: curl-config is missing", "pycurl"),
            ("  cause: Building source distributions for `mine` is disabled", "mine"),
        ],
    )  # fmt: skip
    def test_a_package_without_a_wheel_is_named_with_the_target(self, stderr: str, name: str):
        told = explain(stderr, TARGET)
        assert told.startswith(f"{name} has no wheel for Python 3.11.2 on x86_64-manylinux_2_28")
        assert "\n" not in told

    def test_anything_else_is_told_in_one_line_without_decoration_and_hints(self):
        stderr = "error: No solution found\n  cause: Because a==1\n     and a==2 conflict.\n\nhint: look\n at it"
        assert explain(stderr, TARGET) == (
            "uv cannot gather the dependencies for Python 3.11.2 on x86_64-manylinux_2_28: "
            "No solution found Because a==1 and a==2 conflict."
        )


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
class TestArchive:
    def test_neither_time_nor_order_nor_owner_nor_umask_is_seen(self, tmp_path: Path, suffix: str):
        one, two = tree(tmp_path / "one", "a/x", "b"), tree(tmp_path / "two", "b", "a/x")
        os.utime(two / "b", (1, 1))
        (two / "a").chmod(0o700)
        (two / "a/x").chmod(0o600)
        archive.pack(one, tmp_path / f"one{suffix}", Progress())
        archive.pack(two, tmp_path / f"other-name{suffix}", Progress())
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"other-name{suffix}").read_bytes()

    def test_a_release_under_what_is_no_directory_is_an_error_of_one_line(self, tmp_path: Path, suffix: str):
        (tmp_path / "file").touch()
        with pytest.raises(ReleaseError, match=r"cannot write .*/file/x"):
            archive.pack(tree(tmp_path / "source", "a"), tmp_path / f"file/x{suffix}", Progress())

    def test_programs_links_and_content_come_back(self, tmp_path: Path, suffix: str):
        source = tree(tmp_path / "source", "bin/app", "data")
        (source / "bin/app").chmod(0o755)
        (source / "link").symlink_to("data")
        archive.pack(source, tmp_path / f"deep/x{suffix}", Progress())
        with tarfile.open(fileobj=unpacked(tmp_path / f"deep/x{suffix}")) as tar:
            assert tar.getnames() == ["bin", "bin/app", "data", "link"]
            assert [tar.getmember(name).mode for name in ("bin/app", "data")] == [0o755, 0o644]
            assert tar.getmember("link").linkname == "data"
            assert tar.extractfile("data").read() == b"data"

    def test_a_place_that_cannot_be_written_is_named_and_nothing_stays(self, tmp_path: Path, suffix: str):
        taken = tmp_path / f"taken{suffix}"
        taken.mkdir()
        with pytest.raises(ReleaseError, match=r"cannot write .*taken"):
            archive.pack(tree(tmp_path / "source", "a"), taken, Progress())
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_zstandard_the_remedy_is_named_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ReleaseError, match=r'written with zstandard.*: pip install "celery-flame-ec2\[release\]"'):
        archive.pack(tree(tmp_path / "source", "a"), tmp_path / "x.tar.zst", Progress())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


class TestSources:
    def copied(self, project: Path, tmp_path: Path) -> list[str]:
        sources.copy(project, "proj.app", tmp_path / "copy", without=(project / "old.tar.gz", project / "tmp" / "ours"))
        return names_in(tmp_path / "copy")

    def test_code_goes_and_what_no_runner_needs_stays(self, tmp_path: Path):
        project = tree(
            tmp_path / "project", "proj/app.py", "proj/data/tests.csv", "proj/build/plan.py", "manage.py", ".env",
            ".git/HEAD", "proj/__pycache__/app.pyc", "env/pyvenv.cfg", "env/lib/x.py", "proj.egg-info/PKG-INFO",
            "tests/test_app.py", "build/x", "dist/x", "web/node_modules/x.js", "old.tar.gz",
            "tmp/ours/x.py", "tmp/theirs.py",
        )  # fmt: skip
        assert self.copied(project, tmp_path) == [
            "manage.py",
            "proj/app.py",
            "proj/build/plan.py",
            "proj/data/tests.csv",
            "tmp/theirs.py",
        ]

    def test_where_the_app_lies_in_src_only_src_goes(self, tmp_path: Path):
        project = tree(tmp_path / "project", "src/proj/app.py", "src/other.py", "setup.py")
        assert self.copied(project, tmp_path) == ["other.py", "proj/app.py"]

    def test_a_src_without_the_app_is_a_directory_like_others(self, tmp_path: Path):
        project = tree(tmp_path / "project", "proj/app.py", "src/main.c")
        assert self.copied(project, tmp_path) == ["proj/app.py", "src/main.c"]

    def test_a_link_within_the_project_stays_a_link(self, tmp_path: Path):
        project = tree(tmp_path / "project", "proj/app.py")
        (project / "proj/worker.py").symlink_to("app.py")
        self.copied(project, tmp_path)
        assert (tmp_path / "copy/proj/worker.py").readlink() == Path("app.py")

    @pytest.mark.parametrize("leads_to", ["../outside", "/etc/hostname", "nowhere", "tests/here", "link"])
    def test_a_link_a_runner_could_not_follow_is_refused(self, tmp_path: Path, leads_to: str):
        project = tree(tmp_path / "project", "proj/app.py", "tests/here")
        tree(tmp_path, "outside")
        (project / "link").symlink_to(leads_to)
        with pytest.raises(ReleaseError, match=f"project/link is a symbolic link to {leads_to}, which"):
            self.copied(project, tmp_path)

    def test_what_cannot_be_read_is_named(self, tmp_path: Path):
        project = tree(tmp_path / "project", "proj/app.py")
        os.mkfifo(project / "proj/pipe")
        with pytest.raises(ReleaseError, match=r"cannot copy .*proj/pipe into the release: .*named pipe"):
            self.copied(project, tmp_path)


class TestDependencies:
    def found(self, project: Path, chosen: str | None = None, **options) -> tuple[str | None, str | None]:
        found = sources.dependencies(project, project / chosen if chosen else None, **options)
        return found.listed and found.listed.name, found.locked and found.locked.name

    def test_what_says_it_most_exactly_comes_first(self, tmp_path: Path):
        tree(tmp_path, "pyproject.toml")
        assert self.found(tmp_path) == ("pyproject.toml", None)
        tree(tmp_path, "requirements.txt")
        assert self.found(tmp_path) == ("requirements.txt", None)
        tree(tmp_path, "pylock.toml")
        assert self.found(tmp_path) == ("requirements.txt", "pylock.toml")
        tree(tmp_path, "uv.lock")
        assert self.found(tmp_path) == ("pyproject.toml", "uv.lock")

    def test_a_chosen_file_comes_before_all(self, tmp_path: Path):
        tree(tmp_path, "uv.lock", "pyproject.toml", "requirements.txt", "lock.txt", "other/pylock.worker.toml")
        assert self.found(tmp_path, "lock.txt") == ("lock.txt", None)
        assert self.found(tmp_path, "pyproject.toml") == ("pyproject.toml", None)
        assert self.found(tmp_path, "other/pylock.worker.toml") == (None, "pylock.worker.toml")

    def test_this_environment_gives_versions_for_a_list_and_else_the_list_too(self, tmp_path: Path):
        tree(tmp_path, "uv.lock")
        assert self.found(tmp_path, installed=True) == (None, None)
        tree(tmp_path, "pyproject.toml", "lock.txt")
        assert self.found(tmp_path, installed=True) == ("pyproject.toml", None)
        assert self.found(tmp_path, "lock.txt", installed=True) == ("lock.txt", None)

    def test_they_are_told_in_words(self, tmp_path: Path):
        tree(tmp_path, "uv.lock", "pyproject.toml")
        assert str(sources.dependencies(tmp_path)).endswith(f"pyproject.toml with the versions of {tmp_path}/uv.lock")
        assert str(sources.dependencies(tmp_path / "x", installed=True)) == "this environment"

    def test_nothing_at_all_is_an_error_with_both_remedies(self, tmp_path: Path):
        with pytest.raises(ReleaseError, match=r"no uv\.lock, .*--requirements.*--environment"):
            sources.dependencies(tmp_path)

    @pytest.mark.parametrize(
        ("files", "chosen", "options", "told"),
        [
            ([], "nope.txt", {}, "there is no .*nope.txt"),
            (["uv.lock"], None, {}, "there is no pyproject.toml beside .*uv.lock"),
            (["pyproject.toml", "poetry.lock"], None, {}, "uv cannot read .*poetry.lock: export it"),
            (["Pipfile.lock"], None, {}, "uv cannot read .*Pipfile.lock: export it"),
            (["uv.lock"], "uv.lock", {"installed": True}, "either those of .*uv.lock or those of this environment"),
        ],
    )
    def test_what_contradicts_or_is_lost_is_told(self, tmp_path: Path, files, chosen, options, told):
        tree(tmp_path, *files)
        with pytest.raises(ReleaseError, match=told):
            self.found(tmp_path, chosen, **options)

    def test_a_foreign_lock_beside_its_export_is_no_hindrance(self, tmp_path: Path):
        tree(tmp_path, "pyproject.toml", "poetry.lock", "requirements.txt")
        assert self.found(tmp_path) == ("requirements.txt", None)
        assert self.found(tmp_path, "pyproject.toml") == ("pyproject.toml", None)


class TestPrune:
    def test_tests_scripts_and_the_installers_notes_go(self, tmp_path: Path):
        lib = tree(
            tmp_path, "bin/celery", ".lock", "a/__init__.py", "a/tests/test_a.py", "a/sub/tests/deep/tests/t.py",
            "a-1.dist-info/RECORD", "a-1.dist-info/direct_url.json", "a-1.dist-info/uv_cache.json",
            "a-1.dist-info/METADATA", "a-1.dist-info/entry_points.txt", "a-1.dist-info/licenses/LICENSE",
        )  # fmt: skip
        bundle._prune(lib)
        assert names_in(lib) == [
            "a-1.dist-info/METADATA",
            "a-1.dist-info/entry_points.txt",
            "a-1.dist-info/licenses/LICENSE",
            "a/__init__.py",
        ]

    @pytest.mark.parametrize("line", ["from .tests.runner import run", "from a import tests", "import a.tests.runner"])
    def test_tests_that_the_package_itself_imports_stay(self, tmp_path: Path, line: str):
        lib = tree(tmp_path, "a/__init__.py", "a/tests/runner.py")
        (lib / "a/__init__.py").write_text(f"x = 1\n{line}\n")
        bundle._prune(lib)
        assert names_in(lib) == ["a/__init__.py", "a/tests/runner.py"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"name": "My App"}, "a release cannot be named 'My App'"),
            ({"name": "../x"}, "a release cannot be named '../x'"),
            ({"celery_app": "proj app"}, "'proj app' is not the path of a Celery app"),
            ({"celery_app": "-A"}, "'-A' is not the path of a Celery app"),
            ({"output": Path("x.zip")}, "a release is called .tar.gz, .tgz, .tar.zst, and x.zip is not"),
            ({"project": Path("/nonexistent")}, "/nonexistent is not a directory"),
        ],
    )
    def test_what_cannot_work_is_refused_before_anything_is_done(self, tmp_path: Path, change: dict, told: str):
        good = {
            "project": tmp_path, "name": "proj", "celery_app": "proj.app:app", "output": tmp_path / "x.tar.gz",
            "target": TARGET,
        }  # fmt: skip
        with pytest.raises(ReleaseError) as caught:
            build(**{**good, **change})
        assert str(caught.value).startswith(told)
        assert list(tmp_path.iterdir()) == []
