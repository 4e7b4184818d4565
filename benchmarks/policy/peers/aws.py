"""AWS target tracking on the backlog per instance, the documented custom metric for queues.

Amazon EC2 Auto Scaling User Guide, "Scaling policy based on Amazon SQS" and "Target tracking scaling policies": the
metric is published once a minute, visible messages over instances in service; the target is the acceptable latency over
the mean time that an instance takes for a message. The alarms that target tracking makes are of 3 datapoints above the
target for out and of 15 below nine tenths of it for in; out in proportion to the metric, in more gradually.

Assumed: the acceptable latency is 30 s, our own default; the mean time is that of the whole load, known beforehand,
over the slots of an instance. No instance in service is counted as one (the documented division by zero would never
scale out from none). "More gradually" is at most half of the instances for each minute that the alarm stays. None is
ended while another warms up, which is until it is in service.
"""

from __future__ import annotations

import math

from celery_flame_ec2.policy import Plan

from .peer import Look

INTERVAL = 60.0
LATENCY = 30.0
OUT_DATAPOINTS, IN_DATAPOINTS = 3, 15
LOW = 0.9


class TargetTracking:
    """Two alarms on one metric; `runtime` is the mean of a message in seconds."""

    def __init__(self, runtime: float) -> None:
        self._runtime = runtime
        self._above = self._below = 0

    def __call__(self, look: Look) -> Plan:
        up, target = max(1, len(look.up)), LATENCY / (self._runtime / look.slots)
        backlog = look.waiting / up
        self._above = self._above + 1 if backlog > target else 0
        self._below = self._below + 1 if backlog < LOW * target else 0
        wanted = look.current
        if self._above >= OUT_DATAPOINTS:
            wanted = max(wanted, math.ceil(up * backlog / target))
        elif self._below >= IN_DATAPOINTS and not look.booting:
            wanted = max(wanted // 2, math.ceil(up * backlog / target))
        return look.resize(wanted, f"{backlog:.2f} waiting an instance of {target:.2f}: {wanted}")
