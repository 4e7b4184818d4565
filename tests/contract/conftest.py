"""Which places do backends have to prove themselves in?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.box.cloud import Cloud
from tests.contract.rigs import Ec2Rig, LocalRig, MemoryRig, Rig


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture(params=["local", "ec2", "memory"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    rigs: dict[str, Callable[[], Rig]] = {
        "local": lambda: LocalRig(tmp_path),
        "ec2": lambda: Ec2Rig(request.getfixturevalue("cloud")),
        "memory": MemoryRig,
    }
    rig = rigs[request.param]()
    yield rig
    rig.close()
