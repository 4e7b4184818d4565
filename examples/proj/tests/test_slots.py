"""What would two tasks at a time on each runner change?"""

from __future__ import annotations

from typing import Any

import pytest
from proj.tasks import nap

from celery_flame_ec2.testing import Flame


@pytest.fixture
def flame_settings() -> dict[str, Any]:
    return {"ec2": {"app": "proj"}, "pools": {"default": {"max_concurrency": 2}}}


def test_half_the_runners_do_the_same_work(flame: Flame) -> None:
    flame.push(nap, 4, runtime=300)
    flame.settle()
    assert flame.peak("default") == 2
