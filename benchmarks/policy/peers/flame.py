"""FLAME's pool (phoenixframework/flame, lib/flame/pool.ex): how a call that finds no free slot makes it grow.

Runners end by themselves after 30 s idle. A waiting task here is a waiting caller there.
"""

from __future__ import annotations

from celery_flame_ec2.policy import Plan

from .peer import Look

#: Seconds from the end of one boot to the next, while callers still wait.
DEBOUNCE = 1.0


class OneBoot:
    """The pool as first released: one boot at a time, and the next a second after it while callers wait.

    It is also what later releases do where tasks come from one caller at a time.
    """

    def __init__(self) -> None:
        self._booting = 0
        self._again_at = 0.0

    def __call__(self, look: Look) -> Plan:
        if look.booting < self._booting:
            self._again_at = look.now + DEBOUNCE
        self._booting = look.booting
        if not look.waiting or look.booting or look.now < self._again_at or not look.room:
            return Plan(reason="no caller waits, or a runner boots")
        self._booting = 1
        return Plan(launch=1, reason=f"{look.waiting} callers wait")


class ManyCallers:
    """The pool of 0.5: each call that finds no free slot boots one more unless those that boot are enough.

    Enough are slots of booting runners above the number of callers that wait already; looked at when a call comes,
    never afterwards: callers that wait when a runner is up, or ends, begin no boot.
    """

    def __init__(self) -> None:
        self._came = 0

    def __call__(self, look: Look) -> Plan:
        came = look.taken + look.waiting
        calls, self._came = min(look.waiting, came - self._came), came
        if calls <= 0:
            return Plan(reason="no caller came to wait")
        # The last of them saw waiting - 1 before it: it boots one more where booting * slots <= waiting - 1.
        boots = min((look.waiting - 1) // look.slots + 1 - look.booting, calls, look.room)
        return Plan(launch=max(0, boots), reason=f"{calls} of {look.waiting} callers came")
