"""Let a Celery worker burst past its own machine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .parent import Parent, flame_parent

if TYPE_CHECKING:
    from .autoscaler import Autoscaler

__all__ = ("Autoscaler", "Parent", "__version__", "flame_parent")

__version__ = "0.1.0"

# Without this, what a command tells in its own words would stand on stderr a second time.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    # `celery --help` imports this package too: the worker's machinery is loaded only by who asks for it.
    if name == "Autoscaler":
        from .autoscaler import Autoscaler

        return Autoscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
