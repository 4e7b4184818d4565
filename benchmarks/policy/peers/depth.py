"""Plain depth: as many runners as tasks that wait or run, over the slots of a runner.

What many a home-made autoscaler does, and what this project did before it looked at time. Runners end by themselves
when they were idle for long enough.
"""

from __future__ import annotations

import math

from celery_flame_ec2.policy import Plan

from .peer import Look


def depth(look: Look) -> Plan:
    """Plan one round."""
    tasks = look.waiting + look.running
    return look.grow(math.ceil(tasks / look.slots), f"{tasks} tasks at {look.slots} a runner")
