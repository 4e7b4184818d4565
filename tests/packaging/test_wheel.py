"""Does the wheel work where nothing else of this repository is?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from configparser import ConfigParser
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import uv

import celery_flame_ec2

ROOT = Path(__file__).parent.parent.parent
TEMPLATES = {path.name for path in (ROOT / "celery_flame_ec2" / "templates").iterdir() if path.is_file()}
NOT_COPIED = shutil.ignore_patterns(".git", *(ROOT / ".gitignore").read_text().replace("/", "").split())

#: runs celery's command line, then says on the last line which of the heavy libraries it loaded
LOADED = """
import atexit, sys
atexit.register(lambda: print(sorted({"boto3", "botocore"} & set(sys.modules))))
from celery.__main__ import main
sys.exit(main())
"""

#: imports all there is, without what only pytest's own process can, and says how much it was
EVERY_MODULE = """
import importlib, pkgutil, celery_flame_ec2
names = [m.name for m in pkgutil.walk_packages(celery_flame_ec2.__path__, "celery_flame_ec2.")]
for name in names:
    if name != "celery_flame_ec2.testing.plugin":
        importlib.import_module(name)
print(len(names))
"""


def run(command: Sequence[str | Path], directory: Path) -> str:
    """Return what the command printed; show all it said where it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree, as a clone has it."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "tree", ignore=NOT_COPIED))


@pytest.fixture(scope="module")
def built(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an sdist of this tree, and of the wheel that was built from that sdist."""
    directory = tmp_path_factory.mktemp("built")
    copy = shutil.copytree(tree, directory / "tree")  # a build leaves files behind
    run([uv.find_uv_bin(), "build", "--quiet", "--out-dir", directory / "dist", copy], directory)
    return directory / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new virtual environment that holds the wheel and what it depends on."""
    return install(f"{wheel}", tmp_path_factory.mktemp("installed"))


def install(requirement: str, directory: Path) -> Path:
    """Install it into a new virtual environment there; return its bin directory."""
    run([uv.find_uv_bin(), "venv", "--quiet", "--python", sys.executable, "venv"], directory)
    python = directory / "venv" / "bin" / "python"
    run([uv.find_uv_bin(), "pip", "install", "--quiet", "--python", python, requirement], directory)
    return python.parent


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(archive.read(name))


@pytest.mark.parametrize(
    "tool", [("twine", "check", "--strict"), ("check-wheel-contents",)], ids=["twine", "check-wheel-contents"]
)
def test_those_who_publish_packages_have_nothing_to_say(tool: tuple[str, ...], built: Path) -> None:
    files = sorted(built.glob("*.whl")) + (sorted(built.glob("*.tar.gz")) if tool[0] == "twine" else [])

    run([uv.find_uv_bin(), "tool", "run", *tool, *files], built)


def test_the_metadata_tell_version_readme_licence_and_every_extra(metadata: Message) -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")

    assert metadata["Version"] == celery_flame_ec2.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text()
    assert metadata["License-File"] == "LICENSE"
    assert set(metadata.get_all("Provides-Extra", [])) == set(setup["options.extras_require"])


def test_the_wheel_holds_the_templates_the_type_marker_and_the_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    assert TEMPLATES
    assert {f"celery_flame_ec2/templates/{name}" for name in TEMPLATES} <= names
    assert "celery_flame_ec2/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_holds_no_test(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"celery_flame_ec2"}


def test_the_wheel_adds_flame_to_the_celery_command_and_to_pytest(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
    parser = ConfigParser()
    parser.read_string(archive.read(entry_points).decode())

    assert dict(parser["celery.commands"]) == {"flame": "celery_flame_ec2.cli:flame"}
    assert dict(parser["pytest11"]) == {"flame": "celery_flame_ec2.testing.plugin"}


def test_the_sdist_holds_all_that_a_clone_has(sdist: Path, tree: Path) -> None:
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}

    assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - names == set()


def test_an_installed_wheel_can_be_imported(installed: Path, tmp_path: Path) -> None:
    printed = run(
        [installed / "python", "-c", "import celery_flame_ec2 as f; print(f.__file__, f.Autoscaler)"], tmp_path
    )

    assert printed.startswith(str(installed.parent))


def test_an_installed_wheel_answers_as_a_celery_command(installed: Path, tmp_path: Path) -> None:
    printed = run([installed / "celery", "flame", "--help"], tmp_path)

    assert all(command in printed for command in ("serve", "child", "plan", "status", "user-data", "reap", "release"))


def test_every_module_of_an_installed_wheel_can_be_imported_with_the_extras_for_users(
    wheel: Path, tmp_path: Path
) -> None:
    python = install(f"{wheel}[metrics,redis,release]", tmp_path) / "python"

    assert int(run([python, "-c", EVERY_MODULE], tmp_path)) > 50


@pytest.mark.parametrize("arguments", [["--help"], ["flame", "--help"], ["flame", "release", "build", "--help"]])
def test_a_command_that_needs_no_cloud_loads_no_boto3(installed: Path, tmp_path: Path, arguments: list[str]) -> None:
    printed = run([installed / "python", "-c", LOADED, *arguments], tmp_path)

    assert printed.splitlines()[-1] == "[]"
