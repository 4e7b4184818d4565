"""How does a test start many runners cheaply? By forking a process that has imported Celery and nothing of the app.

A fork runs what `python -m celery` runs, from its first line on, in a session of its own. It reads its app and its
letter from its own environment. `Plain` starts the same command the usual way, which shows that it makes no difference.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
MODULES = (
    "celery.__main__", "celery.bin.celery", "celery.bin.worker", "celery.apps.worker", "celery.worker.consumer",
    "celery.worker.components", "celery.worker.strategy", "celery.worker.control", "celery.concurrency.prefork",
    "celery.app.events", "celery.app.control", "celery.app.amqp", "celery.app.log", "celery.backends.base",
    "celery.events.state", "celery.fixups.django", "celery.loaders.app",
    "kombu.transport.redis", "kombu.transport.pyamqp", "kombu.transport.SQS", "kombu.asynchronous.http.curl",
    "celery_flame_ec2.cli.child", "celery_flame_ec2.keeper", "celery_flame_ec2.notices", "celery_flame_ec2.terminator",
)  # fmt: skip
PDEATHSIG = 1  # prctl's PR_SET_PDEATHSIG


class Nursery:
    """The test's side of the process that forks."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._ended: dict[int, int] = {}
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.endings.nursery"], cwd=ROOT, env=dict(environ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def spawn(self, words: Sequence[str], environ: Mapping[str, str], log: Path) -> int:
        """Start `celery WORDS` with these variables besides the nursery's own; return its process id."""
        asked = json.dumps({"words": list(words), "environ": dict(environ), "log": str(log)})
        assert self._process.stdin is not None
        self._process.stdin.write(asked.encode() + b"\n")
        self._process.stdin.flush()
        while True:
            for answer in self._read(60.0):
                if "born" in answer:
                    return int(answer["born"])

    def ended(self) -> dict[int, int]:
        """Return those that ended since the last call, with their exit codes."""
        self._read(0.0)
        found, self._ended = self._ended, {}
        return found

    def close(self) -> None:
        """End it and all that live."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(60)

    def _read(self, seconds: float) -> list[dict[str, Any]]:
        out = self._process.stdout
        assert out is not None
        while select.select([out], [], [], seconds)[0]:
            if not (data := os.read(out.fileno(), 65536)):
                raise RuntimeError("the nursery died")
            *lines, self._rest = (self._rest + data).split(b"\n")
            answers = [json.loads(line) for line in lines]
            self._ended.update({each["pid"]: each["code"] for each in answers if "code" in each})
            if answers:
                return answers + (self._read(0.0) if seconds == 0.0 else [])
        return []


class Plain:
    """Starts each runner as any parent does: a new Python."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._living: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(self, words: Sequence[str], environ: Mapping[str, str], log: Path) -> int:
        """Start `celery WORDS` with these variables besides the usual ones; return its process id."""
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", *words], cwd=ROOT, env={**self._environ, **environ},
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self._living[process.pid] = process
        return process.pid

    def ended(self) -> dict[int, int]:
        """Return those that ended since the last call, with their exit codes."""
        found = {pid: code for pid, process in self._living.items() if (code := process.poll()) is not None}
        for pid in found:
            del self._living[pid]
        return found

    def close(self) -> None:
        """End all that live."""
        for pid, process in self._living.items():
            _end_group(pid)
            process.wait(60)


def main() -> dict[str, Any] | None:
    """Fork what is asked for on standard input and say on standard output who was born and who ended.

    Returns None in the nursery, and in each fork what it shall be.
    """
    for module in MODULES:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    living: set[int] = set()
    rest = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            if not (data := os.read(0, 65536)):
                break
            *lines, rest = (rest + data).split(b"\n")
            for asked in map(json.loads, lines):
                if not (pid := os.fork()):
                    return dict(asked)
                living.add(pid)
                _tell(born=pid)
        _bury(living)
    for pid in living:
        _end_group(pid)
    return None


def become(asked: Mapping[str, Any]) -> None:
    """Be what `python -m celery WORDS` would be, to the interpreter's own end."""
    os.setsid()
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    log, null = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, null), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    os.environ.update(asked["environ"])
    sys.argv = ["celery", *asked["words"]]
    importlib.import_module("celery.__main__").main()


def _bury(living: set[int]) -> None:
    while living:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        living.discard(pid)
        _tell(pid=pid, code=os.waitstatus_to_exitcode(status))


def _tell(**fields: int) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    if (wanted := main()) is not None:
        become(wanted)
