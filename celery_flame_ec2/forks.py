"""How does a thread keep others from forking while it does what no new process may carry half done?"""

from __future__ import annotations

import os
import threading


def lock_against_forks() -> threading.RLock:
    """Return a lock that every other thread that forks this process waits for."""
    lock = threading.RLock()  # under gevent, starting a process forks with this lock held
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock
