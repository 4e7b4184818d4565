"""For how long may a runner be silent?"""

from __future__ import annotations

import dataclasses

import pytest

from celery_flame_ec2.keeper import MARGIN, patience_with
from celery_flame_ec2.lifetime import BROKER_PATIENCE
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits

LETTER = Parent(owner="test", pool="pool", backend="local", queues=("celery",), concurrency=1)


@pytest.mark.parametrize("shutdown_timeout", [0.0, 30.0, 600.0, 86400.0])
def test_a_runner_that_was_only_cut_off_has_ended_itself_before_others_take_what_it_held(
    shutdown_timeout: float,
) -> None:
    letter = dataclasses.replace(LETTER, limits=Limits(shutdown_timeout=shutdown_timeout))
    assert patience_with(letter) >= max(600.0, BROKER_PATIENCE + shutdown_timeout + MARGIN)
