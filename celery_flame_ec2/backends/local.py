"""How does a child process of this machine serve as a runner?"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Settings
from ..errors import BackendError, LaunchError
from ..forks import lock_against_forks
from ..parent import LETTER_VARIABLE, PLACE_VARIABLE, RUNNER_ID_VARIABLE, Parent
from ..premises import file_name, make_own, must_be_own
from ..runner import Runner
from .base import Backend

logger = logging.getLogger(__name__)

#: Seconds after which the log of a runner that is gone is removed.
KEEP_LOGS = 86400.0
#: Bytes of a runner's log that may hold its last words.
TAIL = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a runner's file says: enough for another parent to adopt it. `pid` leads its process group."""

    runner: Runner
    pid: int


class LocalBackend(Backend):
    """Runners as process groups of this machine.

    A runner lives as long as any of its processes holds the lock on the runner's file in `directory`: the kernel
    lets go of it however the processes end, and a process id that is used again cannot be mistaken for a runner.
    """

    listing_ttl = 1.0

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str],
        directory: Path,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._command = list(command)
        self._directory = directory / file_name(settings.owner)
        self._environ = dict(environ)
        self._clock = clock
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        # A worker forks pool processes while the service launches on its own thread. One forked at the wrong moment
        # would hold the runner's lock as long as it lives, and the pipe on which its birth is awaited.
        self._launching = lock_against_forks()

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        environ = self._environ | self._plain_env(letter.pool) | {LETTER_VARIABLE: letter.encode()}
        try:
            make_own(self._directory.parent, self._directory)
            self._remove_leftovers()
        except OSError as exc:
            raise LaunchError(f"cannot use {self._directory} for runners: {exc}") from exc
        started: list[Runner] = []
        for _ in range(count):
            try:
                self.guard()
                with self._launching:
                    started.append(self._start(letter, environ))
            except OSError as exc:
                if not started:
                    raise LaunchError(f"cannot start {self._command[0]}: {exc}") from exc
                break
        return tuple(started)

    def runners(self) -> tuple[Runner, ...]:
        self._collect_exit_codes()
        return tuple(record.runner for record in self._living())

    def place(self) -> str:
        """Return machine and directory: a parent on another one, or with another /tmp, lists other runners."""
        try:
            status = self._directory.stat()
        except OSError:  # nothing was ever launched here
            return f"{socket.gethostname()}:nowhere"
        return f"{socket.gethostname()}:{status.st_dev}:{status.st_ino}"

    def terminate(self, ids: Collection[str]) -> None:
        for record in self._living():
            if record.runner.id in ids:
                self.guard()
                with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
                    os.killpg(record.pid, signal.SIGKILL)
        self._collect_exit_codes()

    def last_words(self, runner_id: str) -> str:
        try:
            with self._log(runner_id).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                return log.read().decode(errors="replace").strip()
        except OSError:  # kept for a day only, and never for another owner's runner
            return ""

    def _start(self, letter: Parent, environ: dict[str, str]) -> Runner:
        now = self._clock()
        runner = Runner(
            id=f"local-{secrets.token_hex(4)}",
            pool=letter.pool,
            launched_at=now,
            deadline=now + letter.limits.max_lifetime + letter.limits.shutdown_timeout,
            warm=letter.warm,
        )
        unnamed = self._directory / f"{runner.id}.new"
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            child = self._spawn(runner.id, environ, descriptor)
            os.write(descriptor, json.dumps(_as_fields(Record(runner=runner, pid=child.pid))).encode())
            unnamed.rename(self._file(runner.id))
        except BaseException:  # also a signal to stop: nobody else would clear it away
            unnamed.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self._children[runner.id] = child
        return runner

    def _spawn(self, runner_id: str, environ: dict[str, str], lock: int) -> subprocess.Popen[bytes]:
        log = os.open(self._log(runner_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                self._command,
                env=environ | {RUNNER_ID_VARIABLE: runner_id, PLACE_VARIABLE: self.place()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock,),
                # A Ctrl-C meant for the parent, or its death, must not reach the runners.
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _living(self) -> Iterator[Record]:
        """Yield the runners whose lock is held, and forget the others."""
        try:
            must_be_own(self._directory.parent, self._directory)
            files = sorted(self._directory.glob("*.json"))
        except FileNotFoundError:  # nothing was ever launched here
            return
        except OSError as exc:
            raise BackendError(f"cannot list the runners in {self._directory}: {exc}") from exc
        for path in files:
            try:
                record = _living_record(path)
            except (OSError, ValueError, KeyError, TypeError) as exc:
                raise BackendError(f"cannot read {path}: {exc}") from exc
            if record is None:
                path.unlink(missing_ok=True)
            else:
                yield record

    def _collect_exit_codes(self) -> None:
        """Let children that ended leave the process table."""
        self._children = {key: child for key, child in self._children.items() if child.poll() is None}

    def _plain_env(self, pool: str) -> dict[str, str]:
        env = self._settings.pool(pool).ec2.env
        references = [name for name, value in env.items() if not isinstance(value, str)]
        if references:
            raise LaunchError(
                f"pool {pool!r}: option 'env' refers to secrets ({', '.join(references)}) that only an EC2 runner "
                "can read; with flame_backend 'local' set them in this environment"
            )
        return {name: str(value) for name, value in env.items()}

    def _remove_leftovers(self) -> None:
        """Remove old logs, and what a parent left that was killed in the middle of a launch."""
        for path in [*self._directory.glob("*.log"), *self._directory.glob("*.new")]:
            with contextlib.suppress(FileNotFoundError):  # another parent was faster
                if self._clock() - path.stat().st_mtime > KEEP_LOGS and not path.with_suffix(".json").exists():
                    path.unlink()

    def _file(self, runner_id: str) -> Path:
        return self._directory / f"{runner_id}.json"

    def _log(self, runner_id: str) -> Path:
        return self._directory / f"{runner_id}.log"


def _living_record(path: Path) -> Record | None:
    """Read a runner's file; None where no process holds its lock any more."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _from_fields(json.load(file))
    return None


def _as_fields(record: Record) -> dict[str, Any]:
    runner = record.runner
    return {
        "id": runner.id,
        "pool": runner.pool,
        "launched_at": runner.launched_at,
        "deadline": runner.deadline,
        "warm": runner.warm,
        "pid": record.pid,
    }


def _from_fields(fields: dict[str, Any]) -> Record:
    pid = fields.pop("pid")
    return Record(runner=Runner(**fields), pid=pid)
