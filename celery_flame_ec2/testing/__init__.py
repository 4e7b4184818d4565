"""What would this app's pools and policy do, in the tests of the team that set them?

The `flame` fixture is pytest's way in; see docs/testing.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flame import Flame

__all__ = ("Flame",)


def __getattr__(name: str) -> Any:
    # pytest imports this package in every run of every project that has it: what costs time comes with the fixture.
    if name == "Flame":
        from .flame import Flame

        return Flame
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
