"""For how long have this machine and this process been running, and what of a boot did which part of it take?"""

from __future__ import annotations

import os
import time
from pathlib import Path

#: What a boot is made of: from the request for a machine to its kernel, from there to the release's first process, and
#: from there to the worker's hello.
PHASES = {
    "machine": "until EC2 started the machine",
    "release": "from the machine's start until it ran the release: cloud-init, fetch, unpack",
    "worker": "until the release's worker said hello: imports, connection",
}
#: Seconds by which a boot may seem shorter than its parts: a round counts from its start, and hears what is said after.
SLIP = 2.0


def ages() -> tuple[float, float] | None:
    """Return for how many seconds this machine and this process have been running; None where the system tells not."""
    try:
        # The name of the command may hold anything, and ends at the last parenthesis: see stat in proc(5).
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        machine = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, IndexError, OSError, ValueError):  # no Linux
        return None
    return round(machine, 1), round(max(0.0, machine - started), 1)


def phases(seconds: float, told: tuple[float, float] | None) -> dict[str, float]:
    """Return how long each phase of a boot took that lasted `seconds` and whose runner `told` its ages at its hello.

    A container or a local process tells the age of the machine it is on, which is no part of its boot: left out.
    """
    if told is None or told[1] > seconds + SLIP:
        return {}
    machine, process = told[0], min(told[1], seconds)
    if not process <= machine <= seconds:
        return {"worker": process}
    return {"machine": seconds - machine, "release": machine - process, "worker": process}
