"""Which processes belong to a guest, and how do all of them end at once?"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.waiting import wait_until

PARENT = "celery-flame-box"  #: every box has a group of its own below this one


class CgroupMissing(Exception):
    """Raised when the machine mounts no cgroup v2 hierarchy that can kill a group."""


class Cgroup:
    """A control group below the root of the hierarchy. What runs in it cannot leave, so `kill` misses nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        hierarchies = _hierarchies()
        if "cgroup2" not in hierarchies:
            raise CgroupMissing("no cgroup v2 hierarchy is mounted on this machine, and guests need one")
        self.path = hierarchies["cgroup2"] / PARENT / name
        # systemd-nspawn makes the same path in systemd's own v1 hierarchy, where there is one
        self._all = [path / PARENT / name for path in hierarchies.values()]

    def below(self, name: str) -> Cgroup:
        return Cgroup(f"{self.name}/{name}")

    def create(self) -> None:
        self.path.mkdir(parents=True)

    def kill(self) -> None:
        """End every process in the group and below; returns when none is left."""
        if not self.path.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        wait_until(lambda: not self.populated, what=f"the end of {self.name}", timeout=10, poll=0.01)

    @property
    def populated(self) -> bool:
        return "populated 1" in (self.path / "cgroup.events").read_text()

    def pids(self, below: str = "") -> list[int]:
        """Return the processes in the group itself, or in one `below` it; none where that is not there (yet)."""
        members = self.path / below / "cgroup.procs"
        return [int(pid) for pid in members.read_text().split()] if members.exists() else []

    def remove(self) -> None:
        """Remove the empty group and what is below it; what all boxes share too, if this was the last."""
        for path in self._all:
            for directory, _, _ in os.walk(path, topdown=False):
                Path(directory).rmdir()
            with contextlib.suppress(OSError):  # others live beside it
                path.parent.rmdir()


def _hierarchies() -> dict[str, Path]:
    """Return where cgroup v2 and, on a hybrid machine, systemd's v1 hierarchy are mounted."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ")[:3]
        if kind == "cgroup2":
            found["cgroup2"] = Path(left.split()[4])
        elif kind == "cgroup" and "name=systemd" in options:
            found["systemd"] = Path(left.split()[4])
    return found
