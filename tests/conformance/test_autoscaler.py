"""Is our autoscaler Celery's, by Celery's own tests of it?"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent.parent
TESTS = "t/unit/worker/test_autoscale.py"


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Celery's tests as its sdist has them, away from its package: what they import is what is installed."""
    directory = tmp_path_factory.mktemp("celery")
    wanted = f"celery=={version('celery')}"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", wanted],
        cwd=directory, check=True,
    )  # fmt: skip
    (archive,) = directory.glob("celery-*.tar.gz")
    shutil.unpack_archive(archive, directory)
    (unpacked,) = (path for path in directory.iterdir() if path.is_dir())
    shutil.rmtree(unpacked / "celery")
    return unpacked


def test_celerys_own_tests_of_its_autoscaler_pass_against_ours(source: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conformance.ours", f"--junitxml={report}", TESTS],
        cwd=source, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)

    assert "autoscaler under test: celery_flame_ec2.autoscaler" in done.stdout
    assert done.returncode == 0
    (suite,) = ElementTree.parse(report).getroot()
    assert int(suite.attrib["tests"]) >= 10
    assert int(suite.attrib["skipped"]) == 0
