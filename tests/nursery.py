"""How does a test start many `celery` processes without waiting for Python to import Celery each time?

A nursery is a process that has imported what a runner imports; each program is a fork of it, with environment,
directory, log and session of its own. An app is imported by the fork: it may read its environment.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tests.servers import kill_group
from tests.workers import PYTHON, Program

if TYPE_CHECKING:
    from typing_extensions import Self

#: What a runner's worker imports on its way, apart from the app.
FAMILY = (
    "celery.__main__",
    "celery.apps.worker",
    "celery.backends.filesystem",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.consumer",
    "kombu.transport.pyamqp",
    "kombu.transport.redis",
    "kombu.transport.SQS",
    "celery_flame_ec2.cli",
    "celery_flame_ec2.cli.child",
    "celery_flame_ec2.keeper",
    "celery_flame_ec2.notices",
    "celery_flame_ec2.terminator",
)
#: And what asks SQS: kombu 5.5 has the latter alone, all others the former.
CLIENTS = ("kombu.asynchronous.http.curl", "kombu.asynchronous.http.urllib3_client")
#: Seconds between two looks for children that ended.
LOOK = 0.02
PR_SET_PDEATHSIG = 1


class Birth:
    """Stands for the Popen of a process whose parent is the nursery."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = ended

    def poll(self) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            self.returncode = int(self._ended.read_text() or "0")
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(LOOK)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended, and was not looked for yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Born(Program):
    """A program that a nursery starts; its command begins as any Python's does, `python -m`."""

    def __init__(self, nursery: Nursery, command: Sequence[str], **options: Any) -> None:
        super().__init__(command, **options)
        self._nursery, self._argv = nursery, list(command[2:])

    def start(self) -> None:
        self._process = self._nursery.bear(  # type: ignore[assignment]
            argv=self._argv, cwd=str(self.directory), log=str(self.log), env=self.env
        )


class Nursery:
    """A context manager; what it started ends with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()
        self._asking = threading.Lock()
        self._popen: subprocess.Popen[str]

    def program(self, command: Sequence[str], **options: Any) -> Program:
        """Return what `Program` would, but to be started by fork."""
        return Born(self, command, **options)

    def bear(self, **wanted: Any) -> Birth:
        ended = self._directory / f"ended{next(self._numbers)}"
        with self._asking:
            print(json.dumps({**wanted, "ended": str(ended)}), file=self._popen.stdin, flush=True)
            assert self._popen.stdout is not None
            if not (pid := self._popen.stdout.readline()):
                raise RuntimeError(f"the nursery ended with {self._popen.wait()}: see {self._directory}/nursery.log")
            return Birth(int(pid), ended)

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "nursery.log").open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery"], cwd=self._directory, env={**os.environ, **PYTHON},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._popen.communicate()  # the end of its input ends it; and its children with it


def main() -> list[str]:
    """Fork for each line of stdin; returns in the child alone, with the words of its command line."""
    for name in (*FAMILY, *filter(importlib.util.find_spec, CLIENTS)):
        importlib.import_module(name)
    gc.freeze()  # what no collection touches, all forks share
    living: dict[int, str] = {}
    while True:
        if select.select([0], [], [], LOOK)[0]:
            line = sys.stdin.readline()
            if not line:
                _end(living)
            wanted = json.loads(line)
            pid = os.fork()
            if not pid:
                return _become(wanted)
            living[pid] = wanted["ended"]
        _bury(living)


def _bury(living: dict[int, str]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        ended = Path(living.pop(pid))
        new = ended.with_suffix(".new")
        new.write_text(str(os.waitstatus_to_exitcode(status)))
        new.rename(ended)


def _end(living: Iterable[int]) -> NoReturn:
    for pid in living:
        kill_group(pid)
        os.kill(pid, signal.SIGKILL)  # one just forked is no group yet
        os.waitpid(pid, 0)
    os._exit(0)


def _become(wanted: dict[str, Any]) -> list[str]:
    os.setsid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    print(os.getpid(), flush=True)  # who reads it may end the group
    log, nothing = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), os.open(os.devnull, 0)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.chdir(wanted["cwd"])
    os.environ.update(wanted["env"])
    sys.argv = wanted["argv"]
    sys.orig_argv = [sys.executable, "-m", *wanted["argv"]]
    return list(wanted["argv"])


if __name__ == "__main__":
    main()
    from celery.__main__ import main as celery

    celery()
