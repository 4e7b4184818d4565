"""How is a parent stopped at the worst moment: when it has decided and not acted?"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from celery_flame_ec2.policy import Plan
from tests import depth


def once(*looked_at: Any) -> Plan:
    """Plan as usual; if something is to be launched and the file WORK_STOP is there, stop this process before it is."""
    decided = depth.plan(*looked_at)
    file = Path(os.environ.get("WORK_STOP", "/nowhere"))
    if decided.launch and file.exists():
        file.unlink()
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread goes no step further
    return decided
