"""bin/<app> of a release, where no release is needed."""

from __future__ import annotations

import importlib.resources
import runpy
import subprocess
import sys
from typing import Any

import pytest


def test_a_worker_that_ends_while_it_is_asked_to_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    seen = iter([[over.pid], []])
    start: dict[str, Any] = runpy.run_path(
        str(importlib.resources.files("celery_flame_ec2").joinpath("templates", "start.py"))
    )
    start["stop"].__globals__["workers"] = lambda: next(seen)
    assert start["stop"]() == 3
    assert "asked to drain" not in capsys.readouterr().out
