"""Which policies go wrong?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from celery_flame_ec2.policy import Plan
from tests import depth


def cordons(settings: Any, *looked_at: Any) -> Plan:
    """Plan as usual, and cordon and uncordon whom the file WORK_TOLD names."""
    told = json.loads(Path(os.environ["WORK_TOLD"]).read_text() or "{}")
    return dataclasses.replace(depth.plan(settings, *looked_at), **{verb: tuple(ids) for verb, ids in told.items()})


def troubled(*looked_at: Any) -> Plan:
    """Raise as long as the file WORK_TROUBLE is there; then plan as usual."""
    if Path(os.environ["WORK_TROUBLE"]).exists():
        raise ZeroDivisionError("a policy in trouble")
    return depth.plan(*looked_at)
