"""What could nobody do better?

An oracle knows the future, and its machines are up the instant it wants them. No task waits while fewer than `max`
times `slots` run; above that they take turns in the order of their arrivals. It is billed for full machines only, the
runtime of all tasks over the slots of a machine: no policy is billed less, and none makes tasks that take turns wait
less.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from celery_flame_ec2.simulate import Outcome, Task

NAME = "oracle"


def foresee(tasks: Iterable[Task], *, machines: int, slots: int) -> Outcome:
    """Return how a load fares with the oracle."""
    outcome = Outcome()
    ends: list[float] = []
    most = machines * slots
    for task in tasks:
        while ends and ends[0] <= task.arrival:
            heapq.heappop(ends)
        begin = task.arrival if len(ends) < most else heapq.heappop(ends)
        heapq.heappush(ends, begin + task.runtime)
        outcome.peak = max(outcome.peak, -(-len(ends) // slots))
        outcome.waits.append(begin - task.arrival)
        outcome.busy += task.runtime
    outcome.billed = outcome.busy / slots
    return outcome
