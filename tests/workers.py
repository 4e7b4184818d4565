"""How does a test start real `celery` processes, watch the runners they raise, and leave none behind?"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.result import AsyncResult

from tests.servers import Process, kill_group
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parent.parent
#: The environment of a `celery` command that finds the tests' apps.
PYTHON = {
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
}
WORK = "tests.integration.apps.work:app"
#: It launches for what waits and learns nothing, for tests that are about anything but deciding.
POLICY = "tests.depth:plan"


class Program(Process):
    """A process whose output can be asked for words, and whose end has a code."""

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def says(self, pattern: str, *, times: int = 1, timeout: float = PATIENCE) -> list[str]:
        """Wait until the output holds the pattern so many times; return what it matched."""

        def found() -> list[str]:
            matches = re.findall(pattern, self.output)
            if len(matches) < times:
                self.must_live()
            return matches if len(matches) >= times else []

        try:
            return wait_until(found, what=f"{self.name} saying {pattern!r} {times} times", timeout=timeout)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; it said:\n{self.tail}") from None

    @property
    def tail(self) -> str:
        """Return the last lines, without those about single tasks."""
        return "\n".join([line for line in self.output.splitlines() if "] Task work." not in line][-40:])

    def ends(self, *, timeout: float = PATIENCE) -> int:
        """Wait until the process is over; return its exit code."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {timeout:g} s; it said:\n{self.tail}") from None

    def kill(self) -> None:
        """End the process as the kernel does when memory runs out: without a word."""
        self.signal(signal.SIGKILL)
        self.ends()


class Deployment:
    """One app on one broker, with local runners of its own: nothing is shared with another deployment.

    `program` makes its processes, `conf` goes into the app's configuration; every process and runner is ended when the
    context is left.
    """

    def __init__(
        self, directory: Path, broker: str, *, results: str = "", app: str = WORK,
        program: Callable[..., Program] = Program, **conf: Any,
    ) -> None:  # fmt: skip
        self.directory, self.app, self._program = directory, app, program
        self.journal = directory / "journal"
        self.journal.touch()
        self.processes: list[Program] = []
        self.conf = {
            "broker_url": broker,
            "result_backend": results or f"file://{_made(directory / 'results')}",
            "broker_connection_retry_on_startup": True,
            "worker_autoscaler": "celery_flame_ec2:Autoscaler",
            "flame_interval": 0.2,
            "flame_policy": POLICY,
            **conf,
        }
        self.temporary = _made(directory / "tmp")
        self.client = Celery("client", broker=broker, backend=self.conf["result_backend"], set_as_current=False)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "WORK_CONF": json.dumps(self.conf),
            "WORK_JOURNAL": str(self.journal),
            "TMPDIR": str(self.temporary),
            **PYTHON,
        }

    def start(self, name: str, *words: str, **environ: str) -> Program:
        """Start `celery -A app WORDS` in the background."""
        env = {**self.environ, **environ}
        program = self._program(self._command(words), directory=self.directory, name=name, env=env)
        program.start()
        self.processes.append(program)
        return program

    def worker(self, *words: str, name: str = "worker", **environ: str) -> Program:
        """Start a worker and wait until it takes tasks."""
        started = self.start(name, "worker", "-l", "INFO", "-n", f"{name}@%h", *words, **environ)
        started.says(r"ready\.")
        return started

    def run(self, *words: str, timeout: float = PATIENCE, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `celery -A app WORDS` to its end."""
        return subprocess.run(
            self._command(words), cwd=self.directory, env={**os.environ, **self.environ, **environ},
            capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult[Any]:
        return self.client.send_task(f"work.{task}", args, **options)

    def noted(self, word: str) -> list[dict[str, Any]]:
        """Return the journal's entries with this word, in order."""
        entries = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [entry for entry in entries if entry["word"] == word]

    def numbers(self, word: str) -> list[int]:
        return sorted(entry["number"] for entry in self.noted(word))

    def runners(self) -> dict[str, int]:
        """Return the process id of each runner that lives, by runner id: told by its lock, as its backend does."""
        return living(self.temporary)

    def runner_log(self, runner_id: str) -> str:
        (path,) = self.temporary.glob(f"celery-flame-*/*/{runner_id}.log")
        return path.read_text(errors="replace")

    def has_runners(self, count: int, *, timeout: float = PATIENCE) -> dict[str, int]:
        """Wait until exactly so many runners live."""
        found: dict[str, int] = {}

        def counted() -> bool:
            nonlocal found
            found = self.runners()
            return len(found) == count

        try:
            wait_until(counted, what=f"{count} runners", timeout=timeout)
        except AssertionError as exc:
            told = "".join(f"\n--- {p.name}:\n{p.tail}" for p in self.processes)
            raise AssertionError(f"{exc}; there are {sorted(found)}{told}") from None
        return found

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watch]:
        """Count the runners all the time."""
        watch = Watch(self)
        with watch:
            yield watch

    def close(self) -> None:
        for program in self.processes:
            program.stop()
        # What a parent that was just ended had begun to launch has its file by now.
        for pid in self.runners().values():
            kill_group(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _command(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "celery", "-A", self.app, *words]


class Watch:
    """Looks again and again which runners live; `most` is how many lived at one moment, `seen` all there were."""

    def __init__(self, deployment: Deployment) -> None:
        self.most = 0
        self.seen: set[str] = set()
        self._deployment = deployment
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.05)  # and then a last look: what is there now was there meanwhile
            living = self._deployment.runners()
            self.most = max(self.most, len(living))
            self.seen |= living.keys()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()


def living(temporary: Path) -> dict[str, int]:
    """Return the process id of each local runner that lives, where this was TMPDIR when it was launched."""
    found = {}
    for path in temporary.glob("celery-flame-*/*/*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found[path.stem] = int(json.load(file)["pid"])
    return found


def error_lines(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a command failed with, having checked that it failed as a Unix user expects."""
    assert ended.returncode not in (0, None), ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout, ended.stderr
    assert ended.stderr.startswith("Error: "), ended.stderr
    return ended.stderr.strip().splitlines()


def one_line_error(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the line a command failed with, having checked that it is one."""
    (line,) = error_lines(ended)
    return line


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
