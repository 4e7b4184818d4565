"""Which policies go wrong?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from celery_flame_ec2 import policy


def cordons(settings: Any, *looked_at: Any) -> policy.Plan:
    """Plan as usual, and cordon and uncordon whom the file WORK_TOLD names."""
    told = json.loads(Path(os.environ["WORK_TOLD"]).read_text() or "{}")
    return dataclasses.replace(policy.plan(settings, *looked_at), **{verb: tuple(ids) for verb, ids in told.items()})


def troubled(*looked_at: Any) -> policy.Plan:
    """Raise as long as the file WORK_TROUBLE is there; then plan as usual."""
    if Path(os.environ["WORK_TROUBLE"]).exists():
        raise ZeroDivisionError("a policy in trouble")
    return policy.plan(*looked_at)
