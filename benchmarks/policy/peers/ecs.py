"""celery-ecs-autoscaler 1.0.0 (its targets.py and scaler.py): steps by the pressure of waiting messages on slots.

Its loop looks every 15 s. Waiting messages over slots of the desired tasks is the pressure: above 0.75 up to two more,
below 0.25 one fewer, each with a cooldown of its own. Its bounds 1 and 20 are left to the pool here: max is the same
for all, and min 0 costs it less.
"""

from __future__ import annotations

import math

from celery_flame_ec2.policy import Plan

from .peer import Look

INTERVAL = 15.0
HIGH, LOW = 0.75, 0.25
STEP_OUT, STEP_IN = 2, 1
COOLDOWN_OUT, COOLDOWN_IN = 60.0, 120.0


class Pressure:
    """Steps out and in, each after its own cooldown; what runs is not seen."""

    def __init__(self) -> None:
        self._out_at = self._in_at = -math.inf

    def __call__(self, look: Look) -> Plan:
        current = look.clamped(look.current)
        pressure = look.waiting / max(1, current * look.slots)
        desired = look.clamped(math.ceil(look.waiting / (look.slots * HIGH)))
        wanted = current
        if pressure > HIGH and look.now - self._out_at >= COOLDOWN_OUT:
            wanted = min(desired, current + STEP_OUT)
        elif pressure < LOW and look.now - self._in_at >= COOLDOWN_IN:
            wanted = look.clamped(max(desired, current - STEP_IN))
        if wanted > current:
            self._out_at = look.now
        elif wanted < current:
            self._in_at = look.now
        return look.resize(wanted, f"pressure {pressure:.2f}: {wanted}")
