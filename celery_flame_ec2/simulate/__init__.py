"""What would this policy have done with that load?"""

from .load import Task
from .outcome import Moment, Outcome
from .world import Conditions, simulate

__all__ = ["Conditions", "Moment", "Outcome", "Task", "simulate"]
