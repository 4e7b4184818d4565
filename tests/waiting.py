"""Has it happened yet?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds after which what was waited for will not happen any more, however busy the machine is.
PATIENCE = 60.0


def wait_until(condition: Callable[[], T], *, what: str, timeout: float = PATIENCE, poll: float = 0.05) -> T:
    """Return the condition's first true value; fail naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: did not happen within {timeout:g} s")
        time.sleep(poll)
    return value
