"""What may a task do to its process?"""

from __future__ import annotations

import os
import signal

from .work import app, note


@app.task(name="work.die")
def die(number: int) -> None:
    """Take the process along, as a crash in a library or the kernel's choice when memory runs out would."""
    note("die", number=number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="work.exhaust")
def exhaust(number: int) -> None:
    """Ask for more memory than there is."""
    note("exhaust", number=number)
    raise MemoryError("no room")
