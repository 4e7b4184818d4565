"""FLAME's pool (phoenixframework/flame, lib/flame/pool.ex): how a call that finds no free slot makes it grow.

Runners end by themselves after 30 s idle. A waiting task here is a waiting caller there.
"""

from __future__ import annotations

from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, room
from celery_flame_ec2.runner import RunnerState

#: Seconds from the end of one boot to the next, while callers still wait.
DEBOUNCE = 1.0


class OneBoot:
    """The pool up to 0.4: one boot at a time, and the next a second after it while callers wait.

    It is also what later releases do where tasks come from one caller at a time.
    """

    def __init__(self) -> None:
        self._booting = 0
        self._again_at = 0.0

    def __call__(self, pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
        assert isinstance(demand, Demand) and isinstance(fleet, Fleet)
        booting = fleet.count(RunnerState.BOOTING)
        if booting < self._booting:
            self._again_at = now + DEBOUNCE
        self._booting = booting
        if not demand.waiting or booting or now < self._again_at or not room(pool, fleet):
            return Plan(reason="no caller waits, or a runner boots")
        self._booting = 1
        return Plan(launch=1, reason=f"{demand.waiting} callers wait")


class ManyCallers:
    """The pool of 0.5: each call that finds no free slot boots one more unless those that boot are enough.

    Enough are slots of booting runners above the number of callers that wait already; looked at when a call comes,
    never afterwards: callers that wait when a runner is up, or ends, begin no boot.
    """

    def __init__(self) -> None:
        self._came = 0

    def __call__(self, pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
        assert isinstance(demand, Demand) and isinstance(fleet, Fleet)
        came = demand.past.taken + demand.waiting
        calls, self._came = min(demand.waiting, came - self._came), came
        booting, slots = fleet.count(RunnerState.BOOTING), pool.max_concurrency or 1
        if calls <= 0:
            return Plan(reason="no caller came to wait")
        # The last of them saw waiting - 1 before it: it boots one more where booting * slots <= waiting - 1.
        wanted = min((demand.waiting - 1) // slots + 1, booting + calls)
        return Plan(
            launch=max(0, min(wanted - booting, room(pool, fleet))), reason=f"{calls} of {demand.waiting} callers came"
        )
