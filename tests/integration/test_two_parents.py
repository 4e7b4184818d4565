"""Two real parents on a real Redis, against a cloud without machines: what happens when the one that acts is cut off?

TWO_PARENTS_ROUNDS=10 makes it twenty rounds, of about twenty seconds each; without it there are eight.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from celery_flame_ec2.notes import LAUNCH
from celery_flame_ec2.presence import Word, say
from celery_flame_ec2.runner import RunnerState
from tests.box.cloud import Cloud
from tests.box.ec2 import BY_GUEST
from tests.box.faults import Call
from tests.box.metadata import Credentials
from tests.waiting import wait_until
from tests.workers import Deployment, Program

ROUNDS = int(os.environ.get("TWO_PARENTS_ROUNDS", "4"))
#: Runners at most; that end in the burst in which a leader is cut off; and that end right after, so that others are
#: wanted whatever became of that burst.
MOST, BURST, LATER = 12, 6, 3
#: Seconds from launch to a runner's first word. A parent lists again every two seconds until all have spoken.
BOOT = 4.0
#: Seconds within which launches must go on, and in which a machine with two busy cores does anything at all.
WITHIN, PATIENCE = 15.0, 60.0
ACTS, STANDS_BY, LOST = "this parent acts: ", "standing by: ", "this parent acts no more"
MUTATING = frozenset({"RunInstances", "TerminateInstances", "StopInstances", "CreateTags"})
OWNER = "two@parents"


class Crew:
    """Speaks for the instances as if a worker ran on each, busy and taking tasks, until it is told to leave."""

    def __init__(self, cloud: Cloud, broker: str) -> None:
        self._cloud = cloud
        self._app = Celery("crew", broker=broker, set_as_current=False)
        self._taken = itertools.count(1)
        self._over = threading.Event()
        self._speaking = threading.Lock()
        self._thread = threading.Thread(target=self._speak)

    def __enter__(self) -> Crew:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def alive(self, *, age: float = 0.0) -> list[str]:
        """Return the runners that are at least so old, the oldest first."""
        last = self._cloud.history.states().items()
        return [one for one, event in last if event.state == "running" and time.time() - event.time >= age]

    def leave(self, count: int) -> None:
        """End so many runners, the oldest ones, as they end themselves: with a word, then power-off."""
        with self._speaking, self._app.connection_for_write() as connection:
            dispatcher = self._app.events.Dispatcher(connection)
            for runner_id in self.alive()[:count]:
                say(dispatcher, self._word(runner_id, RunnerState.ENDING, "idle"))
                self._cloud.ec2.mark(runner_id, "terminated", BY_GUEST)

    def _speak(self) -> None:
        with self._app.connection_for_write() as connection:
            dispatcher = self._app.events.Dispatcher(connection)
            while not self._over.wait(0.5):
                with self._speaking:
                    for runner_id in self.alive(age=BOOT):
                        say(dispatcher, self._word(runner_id, RunnerState.UP, ""))

    def _word(self, runner_id: str, state: RunnerState, reason: str) -> Word:
        taken = next(self._taken)
        return Word(runner_id=runner_id, pool="pool", owner=OWNER, state=state, active=1, taken=taken, reason=reason)


class Parents:
    """Parents with an access key each, so that the cloud tells their calls apart."""

    def __init__(self, work: Deployment, cloud: Cloud, crew: Crew) -> None:
        self._work, self._cloud, self.crew = work, cloud, crew
        self._redis = redis.Redis.from_url(work.conf["broker_url"])
        self._numbers = itertools.count(1)
        #: Seconds from each cut to the first launch of the other.
        self.gaps: list[float] = []

    def start(self) -> Program:
        name = f"parent{next(self._numbers)}"
        self._cloud.keys.add(Credentials(access_key_id=name, secret_access_key=name, token=""))
        keys = {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": name}
        return self._work.start(name, "flame", "serve", **keys)

    def calls(self, parent: Program, *, since: float = 0.0) -> list[Call]:
        """Return what changes something and this parent asked for."""
        found = [call for call in list(self._cloud.calls) if call.key == parent.name and call.time >= since]
        return [call for call in found if call.action in MUTATING]

    def launches(self, parent: Program, *, since: float) -> Call | None:
        return next((call for call in self.calls(parent, since=since) if call.action == "RunInstances"), None)

    def full(self) -> None:
        """Wait until there are as many runners as there may be, and the leader has seen them all listed.

        What was launched and never seen would hold its place for a minute: it may be about to be listed.
        """
        wait_until(lambda: len(self.crew.alive()) == MOST, what=f"{MOST} runners", timeout=PATIENCE)
        wait_until(lambda: not self._in_flight(), what="every launch listed", timeout=PATIENCE)

    def _in_flight(self) -> list[bytes]:
        names: list[bytes] = self._redis.hkeys(f"flame:notes:{OWNER}")  # type: ignore[assignment]
        return [name for name in names if name.startswith(LAUNCH.encode())]

    def cut(self, leader: Program, other: Program, how: Callable[[Program], None]) -> float:
        """Cut the leader off in the middle of a launch; wait until the other launches; return when it was cut off."""
        self.full()
        began = time.time()
        self.crew.leave(random.randint(1, BURST))
        wait_until(
            lambda: self.launches(leader, since=began), what=f"{leader.name} launching", timeout=PATIENCE, poll=0.01
        )
        how(leader)
        cut = time.time()
        self.crew.leave(LATER)
        call = wait_until(lambda: self.launches(other, since=cut), what=f"{other.name} launching", timeout=PATIENCE)
        self.gaps.append(call.time - cut)
        return cut


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as opened:
        opened.conditions.end_lag = lambda: random.uniform(0, 2)
        yield opened


@pytest.fixture
def parents(cloud: Cloud, redis_url: str, tmp_path: Path) -> Iterator[Parents]:
    ec2 = {
        "app": "proj", "s3_bundle_url": cloud.bundle_url, "allow_local_broker": True, "region": cloud.region,
        "ec2_service_endpoint": cloud.endpoint, "s3_service_endpoint": cloud.endpoint,
        "image_id": cloud.image_id, "subnet_id": list(cloud.subnet_ids),
        "security_group_id": cloud.security_group_id, "instance_type": "t3.micro", "boot_timeout": 3600,
    }  # fmt: skip
    conf = {
        "flame_pools": {"pool": {"queues": ["celery"], "max": MOST, "max_concurrency": 1}},
        "flame_backend": "ec2", "flame_ec2": ec2, "flame_owner": OWNER, "flame_interval": 0.5,
    }  # fmt: skip
    with Deployment(tmp_path, redis_url, **conf) as work, Crew(cloud, redis_url) as crew:
        for number in range(500):
            work.send("square", number)
        yield Parents(work, cloud, crew)


def listed_within(seconds: float) -> Callable[[Cloud], None]:
    def set_lag(cloud: Cloud) -> None:
        cloud.conditions.launch_lag = lambda: random.uniform(seconds / 2, seconds)

    return set_lag


#: What else goes wrong with the launch in which a leader is cut off. In the last the other takes over before anything
#: of it is listed, and knows of it by its note alone.
TROUBLES: tuple[Callable[[Cloud], None], ...] = (
    lambda cloud: cloud.delay("RunInstances", 0.5, times=1),
    lambda cloud: cloud.lose_answer("RunInstances"),
    lambda _: None,
    listed_within(20.0),
)


def troubles(cloud: Cloud) -> Iterator[None]:
    """Yield for each round, with its trouble in place."""
    for trouble in itertools.islice(itertools.cycle(TROUBLES), ROUNDS):
        listed_within(2.0)(cloud)
        trouble(cloud)
        yield


def test_launches_go_on_and_never_above_max_when_the_leader_is_killed(parents: Parents, cloud: Cloud) -> None:
    leader = parents.start()
    leader.says(ACTS)
    other = parents.start()
    other.says(STANDS_BY)
    for _ in troubles(cloud):
        parents.cut(leader, other, Program.kill)
        leader, other = other, parents.start()
        other.says(STANDS_BY)
        assert cloud.history.peak <= MOST
    parents.full()
    told(parents, cloud, "kill -9")


def test_a_leader_that_was_stopped_does_nothing_when_it_wakes(parents: Parents, cloud: Cloud) -> None:
    leader = parents.start()
    leader.says(ACTS)
    other = parents.start()
    other.says(STANDS_BY)
    for number, _ in enumerate(troubles(cloud)):
        cut = parents.cut(leader, other, lambda parent: parent.signal(signal.SIGSTOP))
        leader.signal(signal.SIGCONT)
        leader.says(LOST, times=number // 2 + 1)  # they take turns
        woken = time.time()
        parents.crew.leave(LATER)
        wait_until(lambda: parents.launches(other, since=woken), what="launches that go on", timeout=PATIENCE)  # noqa: B023
        # What it had sent before it was stopped may have been read a moment later.
        assert parents.calls(leader, since=cut + 1.0) == []
        assert cloud.history.peak <= MOST
        leader, other = other, leader
    parents.full()
    told(parents, cloud, "SIGSTOP")


def told(parents: Parents, cloud: Cloud, how: str) -> None:
    """Print what was measured, and hold it to what is promised."""
    gaps = ", ".join(f"{gap:.1f}" for gap in parents.gaps)
    print(f"\n{how}: launches went on after {gaps} s; at most {cloud.history.peak} of {MOST} runners at once")
    assert cloud.history.peak == MOST
    assert len(parents.gaps) == ROUNDS
    assert max(parents.gaps) <= WITHIN
