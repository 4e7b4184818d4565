"""Which policies go wrong?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from celery_flame_ec2.policy import Demand, Plan, Unknown
from tests import depth


def cordons(settings: Any, *looked_at: Any) -> Plan:
    """Plan as usual, and cordon and uncordon whom the file WORK_TOLD names."""
    told = json.loads(Path(os.environ["WORK_TOLD"]).read_text() or "{}")
    return dataclasses.replace(depth.plan(settings, *looked_at), **{verb: tuple(ids) for verb, ids in told.items()})


def telling(settings: Any, demand: Demand | Unknown, *looked_at: Any) -> Plan:
    """Plan as usual, and write what the parent learned until now to the file WORK_LEARNED."""
    if isinstance(demand, Demand):
        past, file = demand.past, Path(os.environ["WORK_LEARNED"])
        told = {
            "knows": past.last is not None,
            "ended": past.ended,
            "runtime": past.runtime,
            "boot": past.boot,
            "local": demand.local,
        }
        file.with_suffix(".new").write_text(json.dumps(told))
        file.with_suffix(".new").replace(file)
    return depth.plan(settings, demand, *looked_at)


def troubled(*looked_at: Any) -> Plan:
    """Raise as long as the file WORK_TROUBLE is there; then plan as usual."""
    if Path(os.environ["WORK_TROUBLE"]).exists():
        raise ZeroDivisionError("a policy in trouble")
    return depth.plan(*looked_at)
