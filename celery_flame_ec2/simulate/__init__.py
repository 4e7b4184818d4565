"""What would this policy have done with that load?"""

from .load import Task
from .loads import Runtime, burst, daily, exponential, fixed, floods, jumping, mixed, poisson
from .outcome import Moment, Outcome
from .traces import read_trace
from .world import Conditions, simulate

__all__ = [
    "Conditions", "Moment", "Outcome", "Runtime", "Task", "burst", "daily", "exponential", "fixed", "floods", "jumping",
    "mixed", "poisson", "read_trace", "simulate",
]  # fmt: skip
