"""What happens in one cell: runners come, work, end in one way and are replaced, and what became of each task?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kombu import pools

from celery_flame_ec2.errors import HoldingsError
from celery_flame_ec2.holdings import open_holdings
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits
from celery_flame_ec2.salvage import Listing, Salvage
from tests.workers import PYTHON, Program

from .app import CONF, JOURNAL, make_app
from .brokers import Broker
from .expected import DEATHS, Cell, Count, broken
from .load import Load
from .tally import Death, Journal, count, slowest_return
from .ways import WAYS, Runner, on_runner

SLOTS = 2  #: tasks at a time on one runner
TURN = 0.03  #: seconds between two looks
LIST_EVERY = 0.5  #: seconds between two listings; a local backend's hold for one, EC2's for two while runners end
TIMEOUT_STOP = 60.0  #: seconds after which systemd kills: `shutdown_timeout` + 30
BACK_WITHIN = 180.0  #: seconds within which every runner must take tasks again when its broker is back
PATIENCE = 600.0  #: seconds a cell may take before it is given up
#: Seconds within which what a dead runner held must run again on Redis, on a machine that does much else: ten are
#: promised, and what was measured is printed.
RETURN_BOUND = 60.0
LATE = {True: {"task_acks_late": True, "task_reject_on_worker_lost": True}, False: {"task_acks_late": False}}
PLACE = "here"
COMMAND = (sys.executable, "-m", "celery", "-A", "tests.endings.app", "flame", "child")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What was measured in a cell; `returned` is the slowest return of a dead runner's task, in seconds, and
    `crashed` how many runners ended of themselves and with an error, as Celery or its transport did not go on."""

    cell: Cell
    endings: int
    count: Count
    seconds: float
    crashed: int = 0
    returned: float | None = None
    troubles: tuple[str, ...] = ()

    @property
    def broken(self) -> list[str]:
        """How this breaks what must hold; nothing where it does not."""
        late = self.cell.broker == "redis" and (self.returned or 0.0) > RETURN_BOUND
        return [*broken(self.cell, self.count), *self.troubles, *(["returned too late"] if late else [])]


class Bed:
    """One cell on one broker."""

    def __init__(
        self, cell: Cell, broker: Broker, program: Callable[..., Program], directory: Path, *, endings: int
    ) -> None:
        self.cell, self.broker, self._wanted = cell, broker, endings
        self._program, self._directory = program, directory
        self.queue = f"{cell}-{random.randrange(10**6)}".replace("/", "-")
        self._conf = {
            **broker.conf(cell.ending), **LATE[cell.ack == "late"], "task_ignore_result": True,
            "broker_connection_retry_on_startup": True, "worker_log_color": False,
        }  # fmt: skip
        journal = directory / "journal"
        journal.touch()
        self.journal = Journal(journal)
        client = self._client()
        self.way = WAYS[cell.ending](cell, broker, client)
        self.way.runners = min(self.way.runners, endings)
        depth = SLOTS * self.way.runners * (1 if cell.ending == "idle" else 2)
        self.load = Load(client, self.queue, depth=depth, bursts=cell.ending == "idle")
        holdings = open_holdings(client, self.queue)
        self._salvage = Salvage(holdings) if holdings is not None else None
        self._listed_at, self._retiring = 0.0, False
        self.runners: list[Runner] = []
        self.deaths: list[Death] = []
        self.endings = self.crashed = 0
        self.troubles: list[str] = []

    def run(self) -> Result:
        """Have the endings, and count."""
        began = time.time()
        try:
            with contextlib.suppress(TimeoutError):
                self._until(began + PATIENCE)
        finally:
            for runner in self._living():
                runner.program.kill_group()
                runner.program.ends()
            pools.reset()
        counted = count(self.load.sent, self.journal.entries, self.broker.handed(self.queue))
        if counted.handed > len(self.deaths):  # a consumer asks for one message, and then for the next
            self.troubles.append("more were handed over than runners died")
        return Result(
            cell=self.cell, endings=self.endings, seconds=round(time.time() - began, 1), count=counted,
            returned=slowest_return(self.journal.entries, self.deaths), crashed=self.crashed,
            troubles=tuple(self.troubles),
        )  # fmt: skip

    def _until(self, deadline: float) -> None:
        if self.cell.ending == "broker-restart":
            while self.endings < self._wanted:
                self._restart(deadline)
        else:
            self._turns(lambda: self.endings >= self._wanted, deadline)
        self._settle(deadline)

    def _turns(self, over: Callable[[], bool], deadline: float, *, load: bool = True, fresh: bool = True) -> None:
        while not over():
            now = time.time()
            if now > deadline:
                self.troubles.append("it did not come to its end")
                raise TimeoutError
            self._turn(now, load=load, fresh=fresh)
            time.sleep(TURN)

    def _turn(self, now: float, *, load: bool, fresh: bool) -> None:
        self.journal.read()
        self._bury(now)
        for runner in self._living():
            self._attend(runner, now)
        if fresh:
            for _ in range(self.way.runners - sum(1 for runner in self._living() if runner.struck_at is None)):
                self._spawn(self.way.letter)
        if load:
            self.load.arrive(self.journal.ended, self._lost(), now)
        self._give_back(now)

    # runners

    def _spawn(self, letter: Callable[[str], dict[str, Any]], *, due_after: float | None = None) -> None:
        runner_id = f"r{len(self.runners)}"
        fields = letter(runner_id)
        limits = Limits(**fields.pop("limits"))
        common = {"owner": self.queue, "pool": "pool", "backend": "local", "queues": (self.queue,)}
        parent = Parent(**{**common, "concurrency": SLOTS, **fields}, limits=limits)
        hello = self._directory / f"{runner_id}.hello"
        environ = {
            CONF: json.dumps(self._conf), JOURNAL: str(self.journal.path), "FLAME_PARENT": parent.encode(),
            "FLAME_RUNNER_ID": runner_id, "FLAME_PLACE": PLACE, "FLAME_HELLO_FILE": str(hello),
            "AWS_EC2_METADATA_DISABLED": "" if parent.metadata else "true", **PYTHON,
        }  # fmt: skip
        program = self._program(COMMAND, directory=self._directory, name=runner_id, env=environ)
        program.start()
        due_after = due_after or random.uniform(0.2, 2.0)
        self.runners.append(Runner(id=runner_id, program=program, hello=hello, due_after=due_after))

    def _living(self) -> list[Runner]:
        return [runner for runner in self.runners if runner.gone_at is None]

    def _attend(self, runner: Runner, now: float) -> None:
        if runner.up_at is None and runner.hello.exists():
            runner.up_at = now
        if runner.struck_at is not None:
            self._wait_for(runner, runner.struck_at, now)
        elif runner.due(now) and self._retiring:
            runner.retired, runner.struck_at = True, now
            with contextlib.suppress(ProcessLookupError):  # it ended by itself in between
                runner.program.signal(signal.SIGTERM)
        elif runner.due(now):
            if self.way.strike(runner, on_runner(self.journal.running.values(), runner)):
                self._struck(runner, now)
            else:
                runner.due_after += 0.1

    def _wait_for(self, runner: Runner, struck_at: float, now: float) -> None:
        if not runner.retired:
            self.way.go_on(runner, now)
        if now - struck_at > TIMEOUT_STOP:
            self.troubles.append(f"{runner.id} was struck and did not end")
            runner.program.kill_group()

    def _struck(self, runner: Runner, now: float) -> None:
        if self.way.ends:
            runner.struck_at = now
        else:
            self.endings += 1
            runner.up_at, runner.due_after = now, random.uniform(0.3, 1.0)

    def _bury(self, now: float) -> None:
        for runner in (each for each in self._living() if not each.program.running):
            runner.program.kill_group()  # KillMode=mixed: what the worker left
            runner.gone_at = now
            self._gone(runner, runner.program.ends(), now)

    def _gone(self, runner: Runner, code: int, now: float) -> None:
        if self.cell.ending in DEATHS and runner.struck_at is not None and not runner.retired:
            held = self.broker.held(runner.id)
            known_at = now if held is not None else runner.struck_at
            self.deaths.append(Death(runner=runner.id, at=runner.struck_at, known_at=known_at, held=held))
        elif code and not (runner.retired and code == -signal.SIGTERM):  # which met it at its very end
            self.crashed += 1
        if self.way.ends and runner.up_at is not None and not self._retiring:
            self.endings += 1

    def _lost(self) -> set[str]:
        """Return tasks that a runner has that is gone."""
        gone = {runner.id for runner in self.runners if runner.gone_at is not None}
        return {task for task, entry in self.journal.running.items() if entry.runner in gone}

    # the parent's part on Redis

    def _give_back(self, now: float) -> None:
        """Do what a parent does after each complete listing."""
        if self._salvage is None or now - self._listed_at < LIST_EVERY:
            return
        self._listed_at = now
        living = {runner.id for runner in self._living()}
        with contextlib.suppress(HoldingsError):  # as a parent: the next listing follows
            self._salvage.look(Listing(runner_ids=living, place=PLACE, age=time.time() - now, visible_within=0.0))

    # the broker's restart

    def _restart(self, deadline: float) -> None:
        began = time.time()
        self._turns(lambda: self._all_work_since(began), deadline)
        there = self._living()
        self.broker.restart()
        back = time.time()
        pools.reset()  # which keep connections that look as if they stood
        self.load.client = self._client()
        late = min(deadline, back + BACK_WITHIN)
        self._turns(lambda: all(self._is_back(runner, back) for runner in there), late)
        self.endings += len(there)

    def _all_work_since(self, moment: float) -> bool:
        living = self._living()
        return len(living) >= self.way.runners and all(self._began_after(runner, moment) for runner in living)

    def _is_back(self, runner: Runner, moment: float) -> bool:
        """Tell whether a runner takes tasks again, or came to an end over it and was replaced."""
        return runner.gone_at is not None or self._began_after(runner, moment)

    def _began_after(self, runner: Runner, moment: float) -> bool:
        return self.journal.last_start.get(runner.id, 0.0) > moment

    # the end

    def _settle(self, deadline: float) -> None:
        """Let runners that only idleness ends do what is left, until the broker has nothing more."""
        self._retiring = True
        self._turns(lambda: not self._living(), deadline, load=False, fresh=False)
        while self._left():
            for _ in range(2):
                self._spawn(lambda _: {"limits": {"idle_shutdown_after": 2.0}}, due_after=float("inf"))
            self._turns(lambda: not self._living(), deadline, load=False, fresh=False)
        self.journal.read()

    def _left(self) -> int:
        """Return how many messages the broker has; what a connection held that was just closed may take a moment."""
        self.journal.read()
        left = self.broker.left(self.queue)
        if not left and self.load.sent.keys() - self.journal.ended:
            time.sleep(1.0)
            left = self.broker.left(self.queue)
        return left

    def _client(self) -> Any:
        client = make_app(self._conf)
        if self.cell.broker == "rabbitmq":
            client.conf.broker_transport_options = {"confirm_publish": True}
        return client


def as_fields(result: Result) -> dict[str, Any]:
    """Return a result as plain values."""
    return {**dataclasses.asdict(result), "cell": str(result.cell)}


def from_fields(fields: Mapping[str, Any]) -> Result:
    """Return the result that was written so."""
    broker, ack, ending = fields["cell"].split("/")
    known = {**fields, "cell": Cell(broker=broker, ack=ack, ending=ending), "count": Count(**fields["count"])}
    return Result(**{**known, "troubles": tuple(known["troubles"])})
