"""What is the bundle that a runner runs?"""

from __future__ import annotations

from .bundle import Release, build

__all__ = ("Release", "build")
