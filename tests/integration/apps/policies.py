"""Which policies go wrong?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery_flame_ec2 import policy


def troubled(*looked_at: Any) -> policy.Plan:
    """Raise as long as the file WORK_TROUBLE is there; then plan as usual."""
    if Path(os.environ["WORK_TROUBLE"]).exists():
        raise ZeroDivisionError("a policy in trouble")
    return policy.plan(*looked_at)
