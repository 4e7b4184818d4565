from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.release import bundle, sources
from celery_flame_ec2.release.bundle import Release, build
from celery_flame_ec2.release.manifest import Manifest, files_in
from celery_flame_ec2.release.progress import Progress
from celery_flame_ec2.release.sources import Dependencies
from celery_flame_ec2.release.target import Target
from celery_flame_ec2.release.wheels import Uv, find_uv
from celery_flame_ec2.runner import Limits
from tests.waiting import wait_until
from tests.workers import Program

ROOT = Path(__file__).parents[2]
#: The running Python's minor version in the patch level of a Debian 12: on 3.11 older than what builds.
PYTHON = f"3.{sys.version_info.minor}.2"
PLATFORM = f"{platform.machine()}-manylinux_2_28"


def build_example(project: Path, output: Path, **options) -> Release:
    given = {"name": "proj", "celery_app": "proj.app:app", "target": Target(python=PYTHON, platform=PLATFORM)}
    return build(project, output=output, **{**given, **options})


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository as it is now: what changes in it while these tests run does not change what they build."""
    copy = tmp_path_factory.mktemp("copied")
    for name in ("setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("celery_flame_ec2", "examples"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "dist"))
    return copy


@pytest.fixture(scope="module")
def example(copied: Path) -> Path:
    return copied / "examples/proj"


@pytest.fixture(scope="module")
def release(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Release:
    return build_example(example, tmp_path_factory.mktemp("release") / "proj.tar.gz")


@pytest.fixture(scope="module")
def unpacked(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("elsewhere") / "v1"
    directory.mkdir()
    subprocess.run(["tar", "xzf", release.path, "-C", directory], check=True)
    return directory


def run(unpacked: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the release's program with an environment of nothing but PATH; the interpreter's directory comes first."""
    path = f"{Path(sys._base_executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        [unpacked / "bin/proj", *words],
        env={"PATH": path, **environ}, cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def project(directory: Path, requirements: str) -> Path:
    (directory / "proj").mkdir(parents=True)
    (directory / "proj/app.py").write_text("from celery import Celery\napp = Celery('proj')\n")
    (directory / "requirements.txt").write_text(requirements)
    return directory


class TestResolving:
    @pytest.fixture
    def resolved(self, tmp_path: Path) -> Callable[[str], set[str | None]]:
        def resolve(python: str) -> set[str | None]:
            requirements = tmp_path / "requirements.txt"
            requirements.write_text("redis>=5,<9\n")
            scratch = tmp_path / python
            scratch.mkdir()
            uv = Uv(Target(python=python, platform=PLATFORM), tmp_path, scratch)
            return {package.name for package in uv.resolve(Dependencies(listed=requirements))}

        return resolve

    def test_markers_are_those_of_the_runners_exact_python(self, resolved):
        assert "async-timeout" in resolved("3.11.2")
        assert "async-timeout" not in resolved("3.11.7")

    def test_a_package_without_a_wheel_is_named_and_nothing_stays(self, tmp_path: Path):
        sources_only = project(tmp_path / "project", "docopt==0.6.2\n")
        target = Target(python="3.11.2", platform="aarch64-manylinux_2_28")
        with pytest.raises(ReleaseError, match=r"^docopt has no wheel for Python 3\.11\.2 on aarch64-manylinux_2_28"):
            build_example(sources_only, tmp_path / "out/x.tar.gz", target=target)
        assert not (tmp_path / "out").exists()

    def test_a_release_that_could_not_start_as_a_child_is_refused(self, tmp_path: Path):
        bare = project(tmp_path / "project", "click\n")
        with pytest.raises(ReleaseError, match=r"requirements\.txt does not ask for celery-flame-ec2"):
            build_example(bare, tmp_path / "x.tar.gz")

    def test_an_app_the_project_does_not_have_is_refused(self, example: Path, tmp_path: Path):
        with pytest.raises(ReleaseError, match=r"would not hold other\.app:app: the project has no other"):
            build_example(example, tmp_path / "x.tar.gz", celery_app="other.app:app")

    def test_without_uv_the_remedy_is_named(self, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "uv", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ReleaseError, match=r'pip install "celery-flame-ec2\[release\]"'):
            build_example(example, tmp_path / "x.tar.gz")

    @pytest.mark.parametrize("line", ["-e ./library", "./library"])
    def test_a_changed_and_a_deleted_module_of_a_source_given_by_path_are_seen(self, tmp_path: Path, line: str):
        library = tmp_path / "library"
        (library / "mine").mkdir(parents=True)
        (library / "setup.py").write_text("from setuptools import setup; setup(name='mine', packages=['mine'])\n")
        for name, text in {"__init__.py": "A = 1\n", "gone.py": ""}.items():
            (library / "mine" / name).write_text(text)
        listed = tmp_path / "requirements.txt"
        listed.write_text(line)
        self._install(tmp_path, listed, "first")
        (library / "mine/__init__.py").write_text("A = 2\n")
        (library / "mine/gone.py").unlink()
        installed = self._install(tmp_path, listed, "second")
        assert (installed / "mine/__init__.py").read_text() == "A = 2\n"
        assert not (installed / "mine/gone.py").exists()
        assert sorted(path.name for path in library.iterdir()) == ["mine", "setup.py"]

    def _install(self, directory: Path, listed: Path, name: str) -> Path:
        scratch = directory / f"{name}-scratch"
        scratch.mkdir()
        uv = Uv(Target(python=PYTHON, platform=PLATFORM), directory, scratch)
        uv.install(uv.resolve(Dependencies(listed=listed)), directory / name, Progress())
        return directory / name


class TestPins:
    """What is small and has several versions: iniconfig."""

    PYPROJECT = """\
[project]
name = "mine"
version = "1"
requires-python = ">=3.10"
dependencies = ["iniconfig"]
"""
    OLD = "iniconfig==1.1.1"
    SHA256 = "011e24c64b7f47f6ebd835bb12a743f2fbe9a26d4cecaa7f53bc4f35ee9da8b3"

    def uv(self, directory: Path) -> Uv:
        scratch = directory / "scratch"
        scratch.mkdir()
        return Uv(Target(python=PYTHON, platform=PLATFORM), directory, scratch)

    @pytest.fixture
    def locked(self, tmp_path: Path) -> Path:
        (tmp_path / "pyproject.toml").write_text(self.PYPROJECT)
        command = [find_uv(), "lock", "--quiet", "--python", sys.executable, "--upgrade-package", self.OLD]
        subprocess.run(command, cwd=tmp_path, check=True)
        return tmp_path

    def test_versions_are_those_of_uv_lock(self, locked: Path):
        resolved = self.uv(locked).resolve(sources.dependencies(locked))
        assert [package.line for package in resolved] == [self.OLD]

    def test_a_lock_that_does_not_fit_its_project_any_more_is_refused(self, locked: Path):
        (locked / "pyproject.toml").write_text(self.PYPROJECT.replace('"iniconfig"', '"iniconfig>=2"'))
        with pytest.raises(ReleaseError, match=r"uv\.lock. needs to be updated"):
            self.uv(locked).resolve(sources.dependencies(locked))

    @pytest.mark.parametrize("listed", [None, "iniconfig"])
    def test_a_file_that_is_not_the_locked_one_is_refused(self, tmp_path: Path, listed: str | None):
        (tmp_path / "pylock.toml").write_text(PYLOCK.format(sha256=self.SHA256.replace("0", "f")))
        if listed:
            (tmp_path / "requirements.txt").write_text(listed)
        uv = self.uv(tmp_path)
        resolved = uv.resolve(sources.dependencies(tmp_path))
        assert [package.line for package in resolved] == [self.OLD]
        with pytest.raises(ReleaseError, match=r"Hash mismatch for .iniconfig==1\.1\.1"):
            uv.install(resolved, tmp_path / "lib", Progress())

    def test_a_hash_in_a_requirements_file_is_held_to_as_well(self, tmp_path: Path):
        listed = tmp_path / "requirements.txt"
        listed.write_text(f"{self.OLD} --hash=sha256:{self.SHA256.replace('0', 'f')}\n")
        uv = self.uv(tmp_path)
        with pytest.raises(ReleaseError, match=r"Hash mismatch for .iniconfig==1\.1\.1"):
            uv.install(uv.resolve(sources.dependencies(tmp_path)), tmp_path / "lib", Progress())

    def test_the_right_file_is_installed(self, tmp_path: Path):
        (tmp_path / "pylock.toml").write_text(PYLOCK.format(sha256=self.SHA256))
        uv = self.uv(tmp_path)
        uv.install(uv.resolve(sources.dependencies(tmp_path)), tmp_path / "lib", Progress())
        assert (tmp_path / "lib/iniconfig/__init__.py").is_file()

    def test_versions_are_those_of_this_environment(self, tmp_path: Path):
        (tmp_path / "requirements.txt").write_text("celery[redis]")
        resolved = self.uv(tmp_path).resolve(sources.dependencies(tmp_path, installed=True))
        lines = {package.line for package in resolved}
        assert lines >= {f"{name}=={version(name)}" for name in ("celery", "kombu", "redis")}
        assert "pytest" not in {package.name for package in resolved}


PYLOCK = """\
lock-version = "1.0"
created-by = "test"
[[packages]]
name = "iniconfig"
version = "1.1.1"
[[packages.wheels]]
name = "iniconfig-1.1.1-py2.py3-none-any.whl"
[packages.wheels.hashes]
sha256 = "{sha256}"
"""


class TestBundle:
    def test_nothing_beside_the_release_is_left(self, release: Release):
        assert list(release.path.parent.iterdir()) == [release.path]

    def test_no_trace_of_the_machine_that_built_is_in_it(self, release: Release, copied: Path):
        with tarfile.open(release.path) as tar:
            members = tar.getmembers()
            told = [
                member.name for member in members
                if member.isfile() and str(copied).encode() in tar.extractfile(member).read()
            ]  # fmt: skip
        assert told == []
        assert {(member.uid, member.gid, member.uname, member.gname) for member in members} == {(0, 0, "", "")}

    def test_the_manifest_says_what_is_in_it(self, release: Release, unpacked: Path):
        manifest = Manifest.decode((unpacked / "release.json").read_bytes())
        assert manifest.packages == release.packages
        assert (manifest.name, manifest.celery_app) == ("proj", "proj.app:app")
        assert (manifest.python, manifest.platform, manifest.compiled) == (PYTHON, PLATFORM, True)
        assert manifest.files == files_in(unpacked)
        assert manifest.files["bin/proj"].mode == 0o755
        assert manifest.git is None

    def test_the_manifest_names_the_revision(self, example: Path, tmp_path: Path):
        shutil.copytree(example, tmp_path / "proj")
        git = ["git", "-C", str(tmp_path / "proj"), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["tag", "v1"]):
            subprocess.run([*git, *words], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        assert bundle.revision(tmp_path / "proj") == head
        (tmp_path / "proj/README.md").write_text("changed")
        assert bundle.revision(tmp_path / "proj") == f"{head}-dirty"

    def test_what_only_a_parent_needs_is_left_out(self, release: Release):
        assert release.packages.keys() >= {"celery", "kombu", "redis", "celery-flame-ec2"}
        assert not release.packages.keys() & {"boto3", "botocore", "click-repl", "prompt-toolkit", "pip"}

    def test_everything_is_compiled_for_the_runner(self, unpacked: Path):
        for part in ("app/proj", "lib/celery", "lib/celery_flame_ec2"):
            assert list((unpacked / part / "__pycache__").glob(f"*.cpython-3{sys.version_info.minor}.pyc"))


class TestStart:
    def test_the_worker_starts_with_nothing_but_path_and_ends_when_idle(self, unpacked: Path):
        letter = Parent(
            owner="test", pool="default", backend="local", queues=("celery",), concurrency=1,
            limits=Limits(idle_shutdown_after=0.1), worker_options={"pool": "solo"},
        )  # fmt: skip
        done = run(
            unpacked, "start",
            FLAME_PARENT=letter.encode(), BROKER_URL="memory://", RESULT_BACKEND="cache+memory://",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "of pool default is up" in done.stderr
        assert "ending: idle" in done.stderr

    def test_a_child_without_a_letter_says_so_in_one_line(self, unpacked: Path):
        done = run(unpacked, "start")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: FLAME_PARENT is not set")

    def test_it_runs_from_wherever_a_link_leads(self, unpacked: Path, tmp_path: Path):
        (tmp_path / "current").symlink_to(unpacked)
        assert run(tmp_path / "current", "celery", "--version").returncode == 0

    @pytest.mark.parametrize("command", ["worker", "flame", "inspect", "amqp"])
    def test_celerys_commands_work_without_what_was_left_out(self, unpacked: Path, command: str):
        done = run(unpacked, "celery", command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: proj {command}")

    def test_nothing_the_machine_has_installed_is_imported(self, unpacked: Path, tmp_path: Path):
        told = (
            "import runpy, sys; sys.argv = [sys.argv[1], 'celery', '--version']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit: print([path for path in sys.path if 'packages' in path])"
        )
        done = subprocess.run(
            [sys.executable, "-c", told, unpacked / "bin/proj"], capture_output=True, text=True, cwd="/", check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("words", [(), ("stop", "now"), ("--help",)])
    def test_another_word_gets_the_usage_and_exit_code_2(self, unpacked: Path, words: tuple[str, ...]):
        done = run(unpacked, *words)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: ")

    def test_a_wrong_architecture_is_refused_in_one_line_that_names_both(self, unpacked: Path, tmp_path: Path):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/proj").write_bytes((unpacked / "bin/proj").read_bytes())
        (tmp_path / "release.json").write_text('{"python": "3.7.1", "platform": "s390x-manylinux_2_28"}')
        done = subprocess.run([sys.executable, tmp_path / "bin/proj", "start"], capture_output=True, text=True)
        assert done.returncode == 1
        assert f"built for s390x, and this machine is {platform.machine()}; " in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_a_wrong_python_is_refused_in_one_line_that_names_both(self, unpacked: Path, tmp_path: Path):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/proj").write_bytes((unpacked / "bin/proj").read_bytes())
        (tmp_path / "release.json").write_text(json.dumps({"python": "3.7.1", "platform": PLATFORM}))
        done = subprocess.run(
            [sys.executable, tmp_path / "bin/proj", "start"],
            env={"PATH": os.devnull}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        own = f"3.{sys.version_info.minor}"
        assert done.returncode == 1
        assert f"built for Python 3.7, and {sys.executable} is Python {own}; install python3.7" in done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_the_right_python_is_taken_where_another_one_comes_first(self, unpacked: Path, tmp_path: Path):
        program = tmp_path / "python3.7"
        program.write_text('#!/bin/sh\necho "taken: $2"\n')
        program.chmod(0o755)
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/proj").write_bytes((unpacked / "bin/proj").read_bytes())
        (tmp_path / "release.json").write_text(json.dumps({"python": "3.7.1", "platform": PLATFORM}))
        done = subprocess.run(
            [sys.executable, tmp_path / "bin/proj", "start"],
            env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == "taken: start\n"


class TestWorkers:
    @pytest.fixture
    def copy(self, unpacked: Path, tmp_path: Path) -> Path:
        """A release of this test alone: `stop` ends whatever of it runs."""
        shutil.copytree(unpacked, tmp_path / "v1", symlinks=True)
        return tmp_path / "v1"

    @pytest.fixture
    def worker(self, copy: Path, tmp_path: Path, redis_url: str) -> Iterator[Program]:
        letter = Parent(owner="test", pool="default", backend="local", queues=("celery",), concurrency=2)
        program = Program(
            [str(copy / "bin/proj"), "start"], directory=tmp_path, name="worker",
            env={"PATH": f"{Path(sys._base_executable).parent}:/usr/bin:/bin", "FLAME_PARENT": letter.encode(),
                 "BROKER_URL": redis_url, "FLAME_RUNNER_ID": "r1", "FLAME_HELLO_FILE": str(tmp_path / "hello")},
        )  # fmt: skip
        program.start()
        yield program
        program.stop()

    def test_status_tells_who_runs_and_stop_drains_it(self, copy: Path, worker: Program, tmp_path: Path):
        worker.says("is up")
        done = run(copy, "status")
        told = f"up: pid {worker.pid}, worker flame-r1@{socket.gethostname()}\n"
        assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
        done = run(copy, "stop")
        assert (done.returncode, done.stdout) == (0, f"asked to drain and end: pid {worker.pid}\n"), done.stderr
        assert "flame: ending: told by SIGTERM" in worker.output
        assert json.loads((tmp_path / "hello").read_text())["state"] == "ending"
        done = run(copy, "status")
        assert (done.returncode, done.stdout) == (3, "not running\n" if os.geteuid() == 0 else MAYBE)

    def test_a_worker_that_has_not_said_hello_is_starting(self, copy: Path, worker: Program, tmp_path: Path):
        wait_until(lambda: run(copy, "status").returncode == 0, what="the worker being there")
        os.kill(worker.pid, signal.SIGSTOP)
        (tmp_path / "hello").unlink(missing_ok=True)
        told = run(copy, "status").stdout
        os.kill(worker.pid, signal.SIGCONT)
        assert told == f"starting: pid {worker.pid}\n"

    def test_where_nothing_runs_both_say_so_with_a_code_of_its_own(self, copy: Path):
        for word in ("status", "stop"):
            assert run(copy, word).returncode == 3


MAYBE = "nothing runs that this user may see; root may see all\n"


@pytest.fixture(scope="module")
def celery(example: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "celery", *words]
        return subprocess.run(command, cwd=example, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output") / "x.tar.gz"


@pytest.fixture(scope="module")
def done(copied: Path, output: Path, tmp_path_factory) -> subprocess.CompletedProcess[str]:
    """Another build of the same project: by an operator, elsewhere, with other habits."""
    elsewhere = tmp_path_factory.mktemp("else") / "where"
    shutil.copytree(copied, elsewhere)
    options = ("--name", "proj", "--python", PYTHON, "--output", str(output))
    command = [sys.executable, "-m", "celery", "-A", "proj.app", "flame", "release", "build", *options]
    habits = {
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "C",
        "TZ": "Asia/Kathmandu",
        "PYTHONHASHSEED": "7",
        "PYTHONOPTIMIZE": "1",
    }
    return subprocess.run(
        command, cwd=elsewhere / "examples/proj", env=os.environ | habits, umask=0o077,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


class TestCommand:
    def test_building_a_second_time_gives_the_same_bytes(self, done, output: Path, release: Release):
        assert done.returncode == 0, done.stderr
        assert output.read_bytes() == release.path.read_bytes()

    def test_it_prints_path_size_and_checksum(self, done, output: Path, release: Release):
        assert done.stdout.splitlines() == [str(output), str(release.size), release.sha256]

    def test_it_tells_its_progress_on_stderr(self, done):
        assert "leaving out what no runner needs: boto3" in done.stderr

    def test_an_error_is_one_line_and_exit_code_1(self, celery):
        done = celery("-A", "proj.app", "flame", "release", "build", "--name", "My App")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: a release cannot be named 'My App'")
        assert len(done.stderr.splitlines()) == 1

    def test_without_an_app_the_remedy_is_named(self, celery):
        done = celery("flame", "release", "build")
        assert done.returncode == 2
        assert "give it with celery -A, or say --app-path" in done.stderr
