"""What does a box own on this machine, and what did a killed one leave behind?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.box.cgroup import Cgroup


class Claim:
    """A directory and a control group of a living box; both are its own for as long as it holds the lock in there.

    Mounts need no care: each guest has a mount namespace of its own, which goes when its last process does.
    """

    def __init__(self, cache: Path) -> None:
        self._boxes = cache / "boxes"
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.directory = self._boxes / self.name
        self.cgroup = Cgroup(self.name)
        self._lock: IO[str] | None = None

    def take(self) -> list[str]:
        """Create both, after removing what boxes that were killed left; return the names of those."""
        self._boxes.mkdir(parents=True, exist_ok=True)
        with _locked(self._boxes / ".lock"):
            removed = [name for name in self._others() if self._remove_if_dead(name)]
            self.directory.mkdir()
            self._lock = (self.directory / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self.cgroup.create()
        return removed

    def release(self) -> None:
        """End whatever still runs and remove both."""
        if self._lock is None:
            return
        with _locked(self._boxes / ".lock"):
            _remove(self.directory, self.cgroup)
        self._lock.close()
        self._lock = None

    def _others(self) -> list[str]:
        return sorted(entry.name for entry in self._boxes.iterdir() if entry.is_dir())

    def _remove_if_dead(self, name: str) -> bool:
        lock = self._boxes / name / "lock"
        if lock.exists() and not _free(lock):
            return False
        _remove(self._boxes / name, Cgroup(name))
        return True


def _remove(directory: Path, cgroup: Cgroup) -> None:
    cgroup.kill()
    cgroup.remove()
    shutil.rmtree(directory)


def _free(lock: Path) -> bool:
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
