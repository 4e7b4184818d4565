"""How many runners does this project want, and when?"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, plan


def by_day(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    """Plan as ever, but launch nothing from 22:00 to 06:00 UTC."""
    decided = plan(pool, demand, fleet, now)
    if 6 <= datetime.fromtimestamp(now, timezone.utc).hour < 22 or not decided.launch:
        return decided
    return dataclasses.replace(decided, launch=0, warm=0, held=True, reason=f"{decided.reason}; nothing by night")
