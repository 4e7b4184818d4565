"""Do the examples about Django run where Django is set up?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.workers import PYTHON

from .pages import ROOT, Block, blocks

#: What stands around an example: the project in examples/django, its database and its broker in memory.
AROUND = """
import os, sys
import django
from celery import shared_task
from unittest import mock

django.setup()

from django.core.management import call_command
from django.db import transaction
from orders.models import Order
from orders.tasks import pack
from celery_flame_ec2 import signals

call_command("migrate", verbosity=0)
exec(compile(sys.stdin.read(), "example", "exec"), dict(globals(), Ending=mock.Mock()))
for receiver, answer in signals.runner_ended.send(sender="orders", runner=mock.Mock(id="i-1"), reason="idle"):
    assert not isinstance(answer, Exception), answer
"""


@pytest.mark.parametrize("block", [block for block in blocks("python") if block.page == "docs/django.md"], ids=str)
def test_an_example_about_django_runs(block: Block) -> None:
    place = ROOT / "examples" / "django"
    known = {"DJANGO_SETTINGS_MODULE": "shop.settings", "SHOP_DATABASE": ":memory:", "DJANGO_SECRET_KEY": "x"}
    known |= {
        "CELERY_BROKER_URL": "memory://",
        "PYTHONPATH": f"{place}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", AROUND], input=block.text, cwd=place, env={**os.environ, **PYTHON, **known},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
