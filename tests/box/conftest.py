"""Can this machine run guests, and if not, why?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.box import rootfs
from tests.box.box import Box
from tests.box.burst import build_release
from tests.box.cloud import Cloud


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "able" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.box)


@pytest.fixture(scope="session")
def able() -> None:
    """Skip where guests cannot run; on CI that is a failure."""
    if reason := rootfs.what_is_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"the box cannot be opened: {reason}")
        pytest.skip(f"the box cannot be opened: {reason}")


@pytest.fixture
def box(able: None, tmp_path: Path) -> Iterator[Box]:
    """A box of this test's own."""
    with Box(tmp_path / "consoles") as opened:
        yield opened


@pytest.fixture(scope="module")
def open_box(able: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box that the tests of a module share; each tells its own instances apart by their ids."""
    with Box(tmp_path_factory.mktemp("consoles")) as opened:
        yield opened


@pytest.fixture(scope="session")
def release(able: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example project's release, built once."""
    return build_release(tmp_path_factory.mktemp("release") / "proj.tar.gz")


@pytest.fixture(scope="session")
def aws_session() -> boto3.session.Session:
    """Read AWS's models once."""
    return boto3.session.Session()


@pytest.fixture
def cloud(aws_session: boto3.session.Session) -> Iterator[Cloud]:
    """AWS without guests."""
    with Cloud(session=aws_session) as opened:
        yield opened
