"""KEDA on a Redis list, and the horizontal pod autoscaler it drives, both as they come.

KEDA (redis_scaler.go, scale_executor.go, docs of ScaledObject): looks every 30 s whether the list holds anything, from
none to one replica if so, from any to none after 300 s without; 5 waiting messages a replica. What a worker has taken
is not in the list. HPA (Kubernetes docs, "Horizontal Pod Autoscaling", default behaviour): every 15 s as many replicas
as messages over 5, unless within a tenth of what there are; up by at most the double or 4 replicas in 15 s, down to
the highest of what it found right in the last 300 s.
"""

from __future__ import annotations

import math
from collections import deque

from celery_flame_ec2.policy import Plan

from .peer import Look

SYNC, POLL, COOLDOWN, STABILIZATION = 15.0, 30.0, 300.0, 300.0
LIST_LENGTH = 5
TOLERANCE = 0.1
PODS = 4


class RedisList:
    """KEDA between none and one, HPA above; held every `SYNC`, KEDA's part at every second time."""

    def __init__(self) -> None:
        self._active_at = -math.inf
        self._polled_at = -math.inf
        self._found: deque[tuple[float, int]] = deque()

    def __call__(self, look: Look) -> Plan:
        wanted = self._replicas(look) if look.current else 0
        if look.now - self._polled_at >= POLL:
            self._polled_at = look.now
            wanted = self._switched(look.waiting, wanted, look.now)
        return look.resize(wanted, f"{look.waiting} in the list: {wanted}")

    def _switched(self, waiting: int, wanted: int, now: float) -> int:
        if waiting:
            self._active_at = now
            return max(1, wanted)
        return 0 if now - self._active_at >= COOLDOWN else wanted

    def _replicas(self, look: Look) -> int:
        current = look.current
        ratio = look.waiting / (LIST_LENGTH * current)
        right = current if abs(ratio - 1) <= TOLERANCE else max(1, math.ceil(look.waiting / LIST_LENGTH))
        self._found.append((look.now, right))
        while look.now - self._found[0][0] > STABILIZATION:
            self._found.popleft()
        if right < current:
            return min(current, max(found for _, found in self._found))
        return min(right, max(2 * current, current + PODS))
