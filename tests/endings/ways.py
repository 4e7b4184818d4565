"""How is each ending brought about?"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery import Celery

from celery_flame_ec2.cli.child import node_name
from tests.unit.test_imds import FakeMetadata
from tests.workers import Program

from .brokers import Broker
from .expected import Cell
from .tally import Entry

#: Seconds from a spot interruption notice until EC2 would take the machine.
NOTICE = 90
#: Seconds for which a machine is cut off before it is gone, where its broker asks connections for a sign of life.
UNHEARD = 12.0
#: The same where nothing depends on it.
CUT_OFF = 1.5
#: How often a runner is looked at for a moment at which it takes nothing more.
TRIES = 10


@dataclass(eq=False, kw_only=True)
class Runner:
    """One that lives, or lived. Moments are seconds since the epoch; `retired` is one that nothing was to happen to."""

    id: str
    program: Program
    hello: Path
    due_after: float
    up_at: float | None = None
    struck_at: float | None = None
    gone_at: float | None = None
    retired: bool = False

    def due(self, now: float) -> bool:
        """Tell whether it has been up for as long as it shall."""
        return self.up_at is not None and now - self.up_at >= self.due_after


class Way(ABC):
    """One ending. `runners` live at a time; `limits` is what their letter says."""

    runners = 8
    limits: dict[str, Any] = {"idle_shutdown_after": None}  # noqa: RUF012  read only
    #: Whether a runner that was struck is gone by it, sooner or later.
    ends = True

    def __init__(self, cell: Cell, broker: Broker, client: Celery) -> None:
        self.cell, self.broker, self.client = cell, broker, client

    def letter(self, runner_id: str) -> dict[str, Any]:
        """Return what this runner's letter has besides."""
        return {"limits": self.limits}

    @abstractmethod
    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        """Do it to a runner that is due, which runs these tasks; False where this is not the moment."""

    def go_on(self, runner: Runner, now: float) -> None:  # noqa: B027  most need nothing
        """Do what is to be done to a runner that was struck and still lives."""


class Itself(Way):
    """Nothing is done: the runner ends by what its letter says."""

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        return False


class Idle(Itself):
    limits = {"idle_shutdown_after": 0.3}  # noqa: RUF012


class SingleUse(Itself):
    limits = {"idle_shutdown_after": None, "single_use": True}  # noqa: RUF012


class Lifetime(Itself):
    def letter(self, runner_id: str) -> dict[str, Any]:
        return {"limits": {**self.limits, "max_lifetime": random.uniform(5.0, 10.0)}}


class Sigterm(Way):
    """What systemd does with KillMode=mixed; `Bed` ends the group when the worker is gone, or took too long."""

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        runner.program.signal(signal.SIGTERM)
        return True


class Told(Sigterm):
    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        if self.cell.broker == "sqs":
            return super().strike(runner, running)
        self.client.control.shutdown(destination=[node_name(runner.id)])
        return True


class Spot(Way):
    runners = 10

    def __init__(self, cell: Cell, broker: Broker, client: Celery) -> None:
        super().__init__(cell, broker, client)
        self.metadata = FakeMetadata()
        self.metadata.handle_error = lambda *_: None  # a runner that ends does not wait for an answer
        threading.Thread(target=self.metadata.serve_forever, args=(0.05,), daemon=True).start()

    def letter(self, runner_id: str) -> dict[str, Any]:
        base = f"http://127.0.0.1:{self.metadata.server_port}/latest"
        places = {"url": f"{base}/meta-data/{runner_id}/", "token_url": f"{base}/api/token"}
        self.metadata.leaves[f"{runner_id}/instance-life-cycle"] = "spot"
        return {"limits": self.limits, "backend": "ec2", "metadata": places}

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        at = datetime.now(tz=timezone.utc) + timedelta(seconds=NOTICE)
        text = f'{{"action": "terminate", "time": "{at:%Y-%m-%dT%H:%M:%SZ}"}}'
        self.metadata.leaves[f"{runner.id}/spot/instance-action"] = text
        return True


class KillProcess(Way):
    """Kills the pool process of a task that runs; the runner lives on. No task's twice: one that takes three with it on
    one runner fails."""

    ends = False

    def __init__(self, cell: Cell, broker: Broker, client: Celery) -> None:
        super().__init__(cell, broker, client)
        self._victims: set[str] = set()

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        spared = [entry for entry in running if entry.task not in self._victims]
        if not spared:
            return False
        victim = random.choice(spared)
        self._victims.add(victim.task)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        return True


class KillWorker(Way):
    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        runner.program.signal(signal.SIGKILL)
        runner.program.kill_group()
        return True


class CutOff(Way):
    """Stops every process first: no connection is closed, nothing is said. If possible of a runner that takes nothing
    more at that moment: what Redis hands to one that waits for work is gone, and is counted apart."""

    def __init__(self, cell: Cell, broker: Broker, client: Celery) -> None:
        super().__init__(cell, broker, client)
        self._tries: Counter[str] = Counter()

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        if not running:
            return False
        os.killpg(runner.program.pid, signal.SIGSTOP)
        self._tries[runner.id] += 1
        if self._tries[runner.id] > TRIES or self.broker.is_full(runner.id, slots=2):
            return True
        os.killpg(runner.program.pid, signal.SIGCONT)
        return False

    def go_on(self, runner: Runner, now: float) -> None:
        patience = UNHEARD if self.cell.broker == "rabbitmq" else CUT_OFF
        if runner.struck_at is not None and now - runner.struck_at >= patience:
            runner.program.kill_group()


class Restart(Way):
    """The broker's, not the runner's; see `bed.restart`."""

    runners = 17
    ends = False

    def strike(self, runner: Runner, running: list[Entry]) -> bool:
        return False


WAYS: dict[str, type[Way]] = {
    "idle": Idle,
    "told": Told,
    "single-use": SingleUse,
    "lifetime": Lifetime,
    "spot": Spot,
    "sigterm": Sigterm,
    "broker-restart": Restart,
    "kill-process": KillProcess,
    "kill-worker": KillWorker,
    "cut-off": CutOff,
}


def on_runner(entries: Iterable[Entry], runner: Runner) -> list[Entry]:
    """Return those of a runner."""
    return [entry for entry in entries if entry.runner == runner.id]
