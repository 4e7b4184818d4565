"""Is a task lost, doubled or left waiting that is published at the very moment a runner decides to end?

RACE_ROUNDS=1000 makes it a thousand rounds on each broker, with -s a table; without it there are 12.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from celery_flame_ec2.terminator import LOOK_AGAIN, TICK
from tests.nursery import Nursery
from tests.servers import Server
from tests.slow_link import SlowLink
from tests.waiting import PATIENCE, wait_until
from tests.workers import Deployment, Program

from .test_child import letter

ROUNDS = int(os.environ.get("RACE_ROUNDS", "12"))
INFINITE = float("inf")
#: Seconds a runner may be idle, longer with its server far away: a busy machine's answers take long, and one that ends
#: before the first does no work; a task takes, so that each look at a runner that has one finds it; a byte is under way
#: to a server far away; a slow log takes for a line; and between two looks of ours at a log.
IDLE, IDLE_FAR, TASK, FAR, SLOW, POLL = 0.3, 1.5, 0.8, 0.02, 0.04, 0.002
#: Seconds it may take from the decision until the worker is gone, on an idle machine.
SHUTDOWN = 3.0
#: What is aimed at, as seconds from the decision: just before it; until consuming stops, the log or the server being
#: slow; until the second look; until the worker is told; until it is gone.
WINDOWS = (
    (-0.15, 0.0),
    (0.0, SLOW),
    (-0.01, 2 * FAR),
    (0.0, 2 * FAR + 0.01),
    (2 * FAR, LOOK_AGAIN),
    (LOOK_AGAIN, LOOK_AGAIN + 2 * TICK),
    (LOOK_AGAIN + TICK, SHUTDOWN),
)
#: Which words of a runner's log tell what it does, and what for.
STORY = re.compile(r"^\[(\S+ [\d:,]+): .*(flame: ending: idle|flame: going on|Task work\.mark\S+ received|is up$)")
GOLDEN = 0.6180339887
#: Between which offsets the table counts.
EDGES = (-INFINITE, -0.05, -0.005, 0.0, 0.005, 0.02, 2 * FAR, LOOK_AGAIN, LOOK_AGAIN + 2 * TICK, INFINITE)
APP = "tests.integration.apps.race:app"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """How one of several rows of runners differs from the others, each with a queue of its own.

    `far` is a broker at the end of a slow link, `slow` is the runner's log, with a `neighbour` another worker takes of
    the same queue all the time.
    """

    name: str
    far: bool = False
    slow: bool = False
    late: bool = False
    neighbour: bool = False


LANES = (
    Lane(name="far", far=True),
    Lane(name="slow", slow=True),
    Lane(name="far-late", far=True, late=True),
    Lane(name="slow-late", slow=True, late=True),
    Lane(name="far-neighbour", far=True, neighbour=True),
    Lane(name="near-neighbour", neighbour=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """One task: when it was sent and when the broker had it; when it began, with whom, and when that one was free.

    `decided_at` is when the runner that was raced decided to end, infinite where the task was before that.
    """

    raced: str
    sent_at: float
    published_at: float
    decided_at: float
    began_at: float
    ran_on: str | None
    free_at: float

    @property
    def offset(self) -> float:
        return self.published_at - self.decided_at

    @property
    def delay(self) -> float:
        return self.began_at - max(self.sent_at, self.free_at)


class Runner:
    """One runner as its log shows it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.story: list[str] = []
        self.up_at = 0.0
        self.decided: list[float] = []
        self._seen = 0

    def look(self) -> None:
        """Read what it said since the last look."""
        if not self.program.log.exists() or self.program.log.stat().st_size == self._seen:
            return
        with self.program.log.open("rb") as log:
            log.seek(self._seen)
            said = log.read()
        whole = said[: said.rfind(b"\n") + 1]
        self._seen += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if match := STORY.match(line):
                self._hear(match[2], datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp())

    def _hear(self, word: str, at: float) -> None:
        if word == "is up":
            self.up_at = at
        elif word.endswith("idle"):
            self.decided.append(at)
        self.story.append(word.split()[-1])

    @property
    def ending(self) -> bool:
        return "idle" in self.story and "on" not in self.story[_last(self.story, "idle") :]

    def left_work_behind(self) -> bool:
        """Tell whether it ended although it had received a task after the decision."""
        since = self.story[_last(self.story, "idle") :] if "idle" in self.story else []
        return "received" in since and "on" not in since


def _last(words: Sequence[str], word: str) -> int:
    return len(words) - 1 - words[::-1].index(word)


class Course:
    """One lane, round by round."""

    def __init__(self, work: Deployment, lane: Lane, *, queue: str, far_url: str) -> None:
        self.work, self.lane = work, lane
        self.runners: list[Runner] = []
        self.rounds: list[Round] = []
        self._queue = queue
        self._conf = {**work.conf, "broker_url": far_url if lane.far else work.conf["broker_url"]}
        self._idle = IDLE_FAR if lane.far else IDLE
        self._quiet_at, self._gap = 0.0, self._idle + 1.2 * TICK

    def run(self, aims: Sequence[float]) -> None:
        """Send one task for each aim, seconds from the runner's next decision."""
        if self.lane.neighbour:
            words = f"worker -l WARNING -n {self._queue}@%h -c 4 -P threads -Q {self._queue}"
            quick = "--without-gossip --without-mingle --prefetch-multiplier 1"
            self.work.start("neighbour", *words.split(), *quick.split())
        for number, aim in enumerate(aims):
            self.rounds.append(self._round(number, aim))
        assert self._runner.program.ends() == 0
        for runner in self.runners:
            runner.look()

    @property
    def _runner(self) -> Runner:
        return self.runners[-1]

    def _start(self) -> None:
        name = f"{self._queue}-{len(self.runners)}"
        environ = {"FLAME_PARENT": letter(self._queue, idle_shutdown_after=self._idle), "FLAME_RUNNER_ID": name}
        environ |= {"WORK_CONF": json.dumps(self._conf), "WORK_SLOW": str(SLOW if self.lane.slow else 0)}
        started = self.work.start(name, "flame", "child", **environ)
        self.runners.append(Runner(started))

    def _look(self) -> Runner:
        """Look at the runner; where it ended the next one comes."""
        if not self.runners or not self._runner.program.running:
            self._start()
        self._runner.look()
        return self._runner

    def _round(self, number: int, aim: float) -> Round:
        runner = wait_until(self._working, what="a runner at work", timeout=PATIENCE, poll=POLL)
        self._quiet_at = max(self._quiet_at, runner.up_at)
        before = len(runner.decided)
        self._take_aim(runner, before, aim)
        sent_at = time.time()
        self.work.send("mark", number, TASK, queue=self._queue)
        published_at = time.time()
        began_at, ran_on = wait_until(lambda: self._began(number), what=f"task {number}", timeout=2 * PATIENCE)
        runner.look()
        decided_at = runner.decided[before] if len(runner.decided) > before else INFINITE
        self._learn(began_at, ran_on, decided_at)
        free_at = next((each.up_at for each in self.runners if each.program.name == ran_on), 0.0)
        return Round(
            raced=runner.program.name, sent_at=sent_at, published_at=published_at, decided_at=decided_at,
            began_at=began_at, ran_on=ran_on, free_at=free_at,
        )  # fmt: skip

    def _working(self) -> Runner | None:
        runner = self._look()
        return runner if runner.up_at and runner.program.running and not runner.ending else None

    def _take_aim(self, runner: Runner, before: int, aim: float) -> None:
        """Wait until so long after its next decision, or before that is to be expected."""

        def decided() -> bool:
            runner.look()
            early = aim < 0 and time.time() >= self._quiet_at + self._gap + aim
            return early or len(runner.decided) > before

        wait_until(decided, what="the decision", timeout=PATIENCE, poll=POLL)
        while aim > 0 and time.time() < runner.decided[before] + aim:
            time.sleep(POLL / 2)

    def _began(self, number: int) -> tuple[float, str | None] | None:
        self._look()
        return next(((e["at"], e["runner"]) for e in self.work.noted("mark") if e["number"] == number), None)

    def _learn(self, began_at: float, ran_on: str | None, decided_at: float) -> None:
        """See how long after it was quiet a runner decides."""
        if decided_at < INFINITE:
            self._gap += 0.3 * (decided_at - self._quiet_at - self._gap)
        if ran_on is not None:
            self._quiet_at = began_at + TASK

    def problems(self) -> list[str]:
        """Return what went wrong, in words."""
        numbers = self.work.numbers("mark")
        wrong = [f"task {n} ran {numbers.count(n)} times" for n in range(len(self.rounds)) if numbers.count(n) != 1]
        wrong += [f"{r.program.name} ended with a task in its hands" for r in self.runners if r.left_work_behind()]
        if left := self._left_over():
            wrong.append(f"{left} messages are left, which will run a second time")
        # A broker with acknowledgements delivers before it confirms a cancel. Of Redis, what was asked for and comes
        # after the cancel goes back to the queue; only a slow log gives it time.
        if not self.lane.neighbour and (self.lane.slow or "amqp" in str(self.work.conf["broker_url"])):
            late = [each for each in self.rounds if each.published_at < each.decided_at and each.ran_on != each.raced]
            wrong += [f"{each.raced} did not take a task published before it decided" for each in late]
        return [f"{self.lane.name}: {each}" for each in wrong]

    def _left_over(self) -> int:
        """Count what the broker has still, of tasks that all ran."""
        with self.work.client.connection_for_read() as connection:
            channel = connection.default_channel
            redis = getattr(channel, "client", None)
            if redis is None:
                return int(channel.queue_declare(self._queue, passive=True).message_count)
            held = [redis.hlen(key) for key in redis.keys(f"flame:held:*:{self._queue}-*")]
            return int(redis.llen(self._queue)) + sum(held)


def aims(count: int) -> list[float]:
    """Return so many moments, spread evenly over each window; any stretch of them holds all windows."""
    edges = [WINDOWS[number % len(WINDOWS)] for number in range(count)]
    return [low + (high - low) * (number * GOLDEN % 1.0) for number, (low, high) in enumerate(edges)]


@pytest.fixture(params=["redis", "rabbitmq"])
def server(request: pytest.FixtureRequest) -> Server:
    request.getfixturevalue({"redis": "redis_url", "rabbitmq": "rabbit_url"}[request.param])
    found: Server = request.getfixturevalue(f"{request.param.removesuffix('mq')}_server")
    return found


def by_way_of(link: SlowLink, server: Server) -> str:
    return server.url.replace(f":{server.port}", f":{link.port}")


def test_every_task_published_around_the_decision_to_end_runs_once_and_soon(
    server: Server, nursery: Nursery, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(SlowLink(server.port, delay=FAR))
        far_url = by_way_of(link, server)
        courses = []
        for lane in LANES:
            late = {"task_acks_late": lane.late, "task_reject_on_worker_lost": lane.late, "task_ignore_result": True}
            (tmp_path / lane.name).mkdir()
            work = stack.enter_context(
                Deployment(tmp_path / lane.name, server.url, app=APP, program=nursery.program, **late)
            )
            work.client.conf.broker_transport_options = {"confirm_publish": True}
            courses.append(Course(work, lane, queue=unique_name(lane.name), far_url=far_url))
        all_aims = aims(ROUNDS)
        with ThreadPoolExecutor(len(courses)) as threads:
            started = [threads.submit(each.run, all_aims[n :: len(LANES)]) for n, each in enumerate(courses)]
        report(courses)
        for course in started:
            course.result()
        assert [problem for course in courses for problem in course.problems()] == []


def test_a_task_that_arrives_between_decision_and_cancel_keeps_the_runner_which_takes_more_afterwards(
    server: Server, nursery: Nursery, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue, hold = unique_name("held"), tmp_path / "hold"
    with Deployment(tmp_path, server.url, app=APP, program=nursery.program) as work:
        hold.touch()
        environ = {"FLAME_PARENT": letter(queue, idle_shutdown_after=IDLE), "FLAME_RUNNER_ID": "one"}
        runner = work.start("one", "flame", "child", **environ, WORK_HOLD=str(hold))
        runner.says("flame: ending: idle")
        work.send("mark", 0, 2 * TASK, queue=queue)
        runner.says(r"Task work\.mark\S+ received")
        hold.unlink()
        runner.says("flame: going on: a task slipped in")
        work.send("mark", 1, queue=queue)  # while the first runs
        wait_until(lambda: work.numbers("mark") == [0, 1], what="both tasks")
        assert runner.ends() == 0
        assert [entry["runner"] for entry in work.noted("mark")] == ["one", "one"]
        assert len(re.findall("flame: ending: idle", runner.output)) == 2


def test_a_single_use_runner_takes_one_task_for_each_slot_while_more_are_on_their_way(
    server: Server, nursery: Nursery, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue = unique_name("flood")
    with (
        SlowLink(server.port, delay=FAR) as link,
        Deployment(tmp_path, server.url, app=APP, program=nursery.program, task_acks_late=False) as work,
    ):
        conf = json.dumps({**work.conf, "broker_url": by_way_of(link, server)})
        text = letter(queue, concurrency=2, single_use=True, idle_shutdown_after=PATIENCE)
        runner = work.start("one", "flame", "child", FLAME_PARENT=text, FLAME_RUNNER_ID="one", WORK_CONF=conf)
        work.send("mark", 0, queue=queue)
        wait_until(lambda: work.numbers("mark") == [0], what="a task that is over", timeout=PATIENCE)
        for number in range(1, 30):
            work.send("mark", number, queue=queue)
        runner.says("ending: single use: 2 tasks taken by 2 slots")
        assert runner.ends() == 0
        assert len(work.numbers("mark")) == 2
        text = letter(queue, idle_shutdown_after=IDLE)
        rest = work.start("rest", "flame", "child", FLAME_PARENT=text, FLAME_RUNNER_ID="rest")
        assert rest.ends() == 0
        assert work.numbers("mark") == list(range(30))


def report(courses: Sequence[Course]) -> None:
    """Print what was hit, for whoever runs many rounds."""
    for kind, neighbour in (("alone", False), ("with a neighbour", True)):
        rounds = [each for course in courses if course.lane.neighbour is neighbour for each in course.rounds]
        print(f"\n{kind}: seconds from decision to publishing, rounds, on the raced runner, elsewhere, longest wait")
        for low, high in itertools.pairwise(EDGES):
            hit = [each for each in rounds if low <= each.offset < high]
            raced = sum(each.ran_on == each.raced for each in hit)
            longest = max((each.delay for each in hit), default=0.0)
            print(f"{low:7.3f} to {high:6.3f}: {len(hit):5d} {raced:5d} {len(hit) - raced:5d} {longest:8.3f}")
    went_on = sum(runner.story.count("on") for course in courses for runner in course.runners)
    print(f"{sum(len(each.runners) for each in courses)} runners, which went on {went_on} times")
