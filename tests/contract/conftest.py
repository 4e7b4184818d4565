"""Which places do backends have to prove themselves in?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box.cloud import Cloud
from tests.contract.rigs import Ec2Rig, LocalRig, Rig


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture(params=["local", "ec2"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rig: Rig = LocalRig(tmp_path) if request.param == "local" else Ec2Rig(request.getfixturevalue("cloud"))
    yield rig
    rig.close()
