"""A minute of `make soak`: waves of tasks meet a fleet to which something is done every few seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.box.soak import Soak

SECONDS, SEED = 45.0, 11

pytestmark = pytest.mark.box


def test_no_task_is_lost_and_no_machine_left_when_things_go_wrong_for_a_while(able: None, tmp_path: Path) -> None:
    report = Soak(seconds=SECONDS, seed=SEED).run(tmp_path)
    assert report.good, report
    assert report.sent
    assert report.faults
    assert report.ended
