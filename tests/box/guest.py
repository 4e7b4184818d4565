"""How does one container live as an instance: its disk, its console, its end?"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.box.cgroup import Cgroup

SCRIPT = Path(__file__).with_name("guest.sh")
INIT = "payload/init.scope"  #: where the guest's systemd runs, below its control group


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What one instance has on its disk beyond what all share."""

    instance_id: str
    hostname: str
    address: str  #: on the loopback interface; instance metadata is served there
    user_data: bytes
    files: Mapping[str, str] = field(default_factory=dict)  #: of its image, by path; programs begin with #!

    def write(self, root: Path) -> None:
        seed = root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        (seed / "meta-data").write_text(f"instance-id: {self.instance_id}\nlocal-hostname: {self.hostname}\n")
        (seed / "user-data").write_bytes(self.user_data)
        for path, text in self.files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
            (root / path).chmod(0o755 if text.startswith("#!") else 0o644)
        (root / "etc").mkdir(exist_ok=True)
        (root / "etc/hostname").write_text(f"{self.hostname}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.hostname} instance-metadata\n")


class Guest:
    """One container with its own systemd, mounts and control group; it shares the host's network."""

    def __init__(
        self,
        machine: Machine,
        *,
        rootfs: Path,
        directory: Path,
        console: Path,
        cgroup: Cgroup,
        on_line: Callable[[str, str], None],
        on_exit: Callable[[str, int], None],
    ) -> None:
        self.machine = machine
        self._rootfs, self._directory, self._console, self.cgroup = rootfs, directory, console, cgroup
        self._on_line, self._on_exit = on_line, on_exit
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._follow, name=f"console of {machine.instance_id}", daemon=True)
        self._lines: list[str] = []

    @property
    def console(self) -> str:
        """Return everything the guest wrote on its console so far."""
        return "".join(f"{line}\n" for line in self._lines)

    def start(self) -> None:
        """Switch the power on; what follows is told by `on_line`, and by `on_exit` when it is off again."""
        for name in ("machine", "disk", "root"):
            (self._directory / name).mkdir(parents=True)
        self.machine.write(self._directory / "machine")
        self.cgroup.create()
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--", str(SCRIPT), str(self._directory), str(self._rootfs),
             self.machine.instance_id, str(self.cgroup.path)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the box: it ends the guests in its own order
        )  # fmt: skip
        self._reader.start()

    def kill(self) -> None:
        """Cut the power: nothing in the guest gets to run another instruction."""
        if self._process is not None:
            self._process.kill()  # first, or one only just started could join its group after the next line
            self.cgroup.kill()

    def power_off(self) -> None:
        """Press the power button: the guest's systemd shuts down in good order."""
        for pid in self.cgroup.pids(INIT)[:1]:
            os.kill(pid, signal.SIGRTMIN + 4)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and return what it answered."""
        inside = ["nsenter", f"--target={self._init_pid()}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root"]
        return subprocess.run([*inside, "--wd", "--", *command], capture_output=True, text=True, check=False)

    def join(self, timeout: float) -> None:
        """Wait until the container is gone and all it said has been read."""
        if self._reader.ident is not None:
            self._reader.join(timeout)

    def _init_pid(self) -> int:
        pids = self.cgroup.pids(INIT)
        if not pids:
            raise ProcessLookupError(f"{self.machine.instance_id} does not run")
        return pids[0]

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._console.open("wb") as file, self._process.stdout as stream:
            for raw in stream:
                file.write(raw)
                file.flush()
                line = raw.decode(errors="replace").strip("\r\n")
                self._lines.append(line)
                self._on_line(self.machine.instance_id, line)
        self._on_exit(self.machine.instance_id, self._process.wait())
