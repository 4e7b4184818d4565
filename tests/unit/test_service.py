"""What one round makes of queues, runners and the parent's own processes, on a broker in memory."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Sequence
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from celery_flame_ec2 import signals
from celery_flame_ec2.config import Settings, read_settings
from celery_flame_ec2.errors import BackendError, DemandUnknown, ListingPartial
from celery_flame_ec2.experience import FIRST_BOOT, Experience
from celery_flame_ec2.lease import Lease
from celery_flame_ec2.lease.base import TTL
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown
from celery_flame_ec2.presence import Word
from celery_flame_ec2.queues import Depth, Measurement
from celery_flame_ec2.reaper import LOST_AFTER, SECOND_LOOK
from celery_flame_ec2.runner import Launch, Runner, RunnerState
from celery_flame_ec2.service import WAITS_TTL, Local, Service
from tests.depth import plan
from tests.unit.test_lease import Cell, Clock, parent
from tests.unit.test_pool import ListBackend


def deployment(pools: dict[str, Any], **flat: Any) -> Settings:
    flat = {"policy": "tests.depth:plan", **flat}
    conf = {"flame_pools": pools, **{f"flame_{name}": value for name, value in flat.items()}}
    return read_settings(conf, app_name="p", broker_urls=("memory://",), environ={})


def service(settings: Settings, *, waiting: dict[str, int], local: Local | None = None) -> Service:
    app = Celery("p", broker="memory://", set_as_current=False)
    with Connection("memory://") as connection:
        for queue, count in waiting.items():
            for _ in range(count):
                connection.SimpleQueue(queue).put("task")
    return Service(app, settings, ListBackend(), local=lambda: local or Local())


def counted(demand: Demand | Unknown) -> Demand:
    """Return what was measured, without what was learned."""
    assert isinstance(demand, Demand)
    return dataclasses.replace(demand, past=Experience())


def name() -> str:
    return f"q-{uuid.uuid4().hex}"


@pytest.mark.parametrize(("consumes", "free"), [(True, 2), (False, 0)])
def test_a_parents_processes_count_only_for_queues_it_consumes(consumes: bool, free: int) -> None:
    queue = name()
    local = Local(free=2, queues=frozenset({queue} if consumes else {"another"}))
    settings = deployment({"video": {"queues": queue, "max_concurrency": 1}})
    looking = service(settings, waiting={queue: 5}, local=local)
    assert counted(looking.look()["video"]) == Demand(waiting=5, running=0, local_free=free)
    looking.close()


def test_what_a_parent_takes_from_one_pool_it_cannot_take_from_the_next() -> None:
    first, second = name(), name()
    local = Local(free=4, queues=frozenset({first, second}))
    settings = deployment({"a": {"queues": first}, "b": {"queues": second}})
    looking = service(settings, waiting={first: 3, second: 9}, local=local)
    demands = looking.look()
    looking.close()
    assert [demands[pool].local_free for pool in ("a", "b")] == [3, 1]  # type: ignore[union-attr]


def breaks_for_a(settings: Any, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    if settings.name == "a":
        raise ZeroDivisionError("a bug of the user's own")
    return plan(settings, demand, fleet, now)


def test_a_policy_that_raises_for_one_pool_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    pools = {"a": {"queues": name(), "max_concurrency": 1}, "b": {"queues": name(), "min": 1, "max_concurrency": 1}}
    acting = service(deployment(pools, policy=f"{__name__}:breaks_for_a"), waiting={})
    acting.tick()
    acting.tick()
    acting.close()
    assert [len(pool.roster.runners) for pool in acting.pools] == [0, 1]
    assert caplog.text.count("ZeroDivisionError: a bug of the user's own") == 1


class Watching:
    """What a parent sees and hears at a broker, as the test says it."""

    def __init__(self, now: float) -> None:
        self.since: float | None = now
        self.words: dict[str, Word] = {}
        self.waiting = 0
        self.held: int | None = None
        self.approximate = self.silent = False
        self.published_at, self.looks = now, 0
        self.recalled: list[Collection[str]] = []

    def measure(self, queues: Sequence[str]) -> Measurement:
        if self.silent:
            raise DemandUnknown("no answer")
        depths = {queue: Depth(waiting=self.waiting, held=self.held) for queue in queues}
        return Measurement(depths=depths, approximate=self.approximate)

    def published(self, queues: Sequence[str]) -> dict[str, float]:
        self.looks += 1
        return dict.fromkeys(queues, self.published_at)

    def recall(self, runner_ids: Collection[str]) -> Collection[str]:
        self.recalled.append(set(runner_ids))
        return runner_ids

    def listen(self, seconds: float) -> bool:
        return False

    def wait(self, seconds: float) -> None: ...

    def catch_up(self, *, anew: bool = False) -> None: ...

    def hears(self, pool: str) -> bool:
        return True

    def attends(self, runners: Collection[Runner]) -> dict[str, float | None]:
        return dict.fromkeys((runner.id for runner in runners), self.since)

    def tidy(self) -> None: ...

    def keep(self, runner_ids: Collection[str]) -> None: ...

    def close(self) -> None: ...


class Deployed:
    """One deployment over a backend that is a list, by a clock of its own."""

    def __init__(self, *, policy: str = "tests.depth:plan", **pool: Any) -> None:
        self.settings = deployment({"video": {"queues": "q", "max_concurrency": 1, **pool}}, policy=policy)
        self.clock, self.backend = Clock(), ListBackend()
        self.cell = Cell(self.clock)
        self.backend.living = []

    def parent(self) -> tuple[Service, Watching, Lease]:
        lease, _ = parent(self.cell)
        watching: Any = Watching(self.clock())
        app = Celery("p", broker="memory://", set_as_current=False)
        service = Service(
            app, self.settings, self.backend, lease=lease, watch=watching, clock=self.clock, monotonic=self.clock
        )
        return service, watching, lease

    def runner(self, name: str, **fields: Any) -> Runner:
        runner = Runner(id=name, **{"pool": "video", "launched_at": self.clock(), **fields})
        self.backend.living.append(runner)
        return runner

    def rounds(self, service: Service, seconds: float, lease: Lease) -> None:
        """Do a round every five seconds."""
        end = self.clock() + seconds
        while self.clock() < end:
            lease.renew()
            service.tick()
            self.clock.now += 5

    @property
    def living(self) -> set[str]:
        return {runner.id for runner in self.backend.living}


def up(runner: Runner, now: float, **fields: Any) -> dict[str, Word]:
    fields = {"state": RunnerState.UP, "heard_at": now, **fields}
    return {runner.id: Word(runner_id=runner.id, pool="video", owner="o", **fields)}


def test_a_runner_of_a_pool_that_is_no_more_is_ended_when_its_time_is_over() -> None:
    work = Deployed()
    service, _, lease = work.parent()
    work.runner("old", pool="renamed", deadline=work.clock() + 100)
    work.rounds(service, 155, lease)
    assert work.living == {"old"}
    work.rounds(service, 20, lease)
    assert work.living == set()


def test_a_runner_that_another_parent_launched_gets_a_second_look() -> None:
    work = Deployed()
    service, _, lease = work.parent()
    work.runner("silent", launched_at=work.clock() - 3600)
    work.rounds(service, 175, lease)
    assert work.living == {"silent"}, "boot_timeout after this parent began to listen, and a minute more"
    work.rounds(service, 20, lease)
    assert work.living == set()


def test_a_runner_that_said_hello_and_takes_no_work_is_replaced() -> None:
    work = Deployed(max=1)
    service, watching, lease = work.parent()
    deaf = work.runner("deaf")
    watching.waiting = 5
    for _ in range(16):
        watching.words = up(deaf, work.clock())
        work.rounds(service, 5, lease)
    assert "deaf" not in work.living
    assert len(work.living) == 1


def test_runners_of_the_release_before_go_on_beside_those_that_a_new_deploys_parent_launches() -> None:
    work = Deployed(max=2)
    service, watching, lease = work.parent()
    old = work.runner("old", release="s3://releases/proj/1.tar.gz")
    watching.waiting = 5
    for taken in range(16):
        watching.words = up(old, work.clock(), active=1, taken=taken)
        work.rounds(service, 5, lease)
    assert "old" in work.living
    assert len(work.living) == 2


class Burst:
    """Two runners that were launched for two tasks, which a third runner did meanwhile; `come_up` lets it be heard."""

    def __init__(self) -> None:
        self.work = Deployed(policy="tests.depth:hasty", max=3)
        self.service, self.watching, self.lease = self.work.parent()
        self.first = self.work.runner("first")
        self.watching.waiting = 3
        self.work.rounds(self.service, 10, self.lease)
        self.boots = self.work.living - {"first"}
        self.watching.waiting = 0

    def come_up(self) -> None:
        self.watching.words = up(self.first, self.work.clock(), recallable=True)
        self.work.rounds(self.service, 5, self.lease)


def test_boots_are_recalled_and_ended() -> None:
    burst = Burst()
    burst.come_up()
    assert len(burst.boots) == 2
    assert burst.watching.recalled == [burst.boots]
    assert burst.work.living == {"first"}


def test_no_boot_is_recalled_that_may_have_come_up_while_nobody_was_heard() -> None:
    burst = Burst()
    burst.watching.silent, burst.watching.since = True, None
    burst.work.rounds(burst.service, 5, burst.lease)
    burst.watching.silent, burst.watching.since = False, burst.work.clock()
    burst.come_up()
    assert burst.watching.recalled == []
    assert burst.boots < burst.work.living


def test_a_parent_that_lost_the_lease_since_it_looked_recalls_nobody() -> None:
    burst = Burst()

    def lose(**_: Any) -> None:
        burst.lease.release()

    signals.runner_up.connect(lose)
    try:
        burst.come_up()
    finally:
        signals.runner_up.disconnect(lose)
    assert burst.watching.recalled == []
    assert burst.boots < burst.work.living


def test_where_counts_are_approximate_nobody_is_replaced_for_taking_no_work() -> None:
    work = Deployed(max=1)
    service, watching, lease = work.parent()
    fifo = work.runner("fifo")
    watching.waiting, watching.approximate = 5, True
    for _ in range(16):
        watching.words = up(fifo, work.clock())
        work.rounds(service, 5, lease)
    assert work.living == {"fifo"}


@pytest.mark.parametrize(("held", "running"), [(None, 2), (3, 2), (0, 0)])
def test_what_runs_is_of_the_answer_that_told_what_waits_where_that_tells_it(held: int | None, running: int) -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    service._local = lambda: Local(held=1)
    watching.words = up(work.runner("one"), work.clock(), active=2)
    watching.held = held
    service.look()
    assert counted(service.look()["video"]) == Demand(waiting=0, running=running, local_free=0)


def test_without_a_complete_listing_nobody_is_ended() -> None:
    work = Deployed()
    service, _, lease = work.parent()
    work.runner("late", deadline=work.clock() - 500)

    def fail() -> tuple[Runner, ...]:
        raise BackendError("the second page did not come")

    work.backend.runners = fail  # type: ignore[method-assign]
    work.rounds(service, 300, lease)
    assert work.living == {"late"}


def test_a_runner_that_cannot_be_ended_stops_no_launch_and_is_tried_again() -> None:
    work = Deployed()
    service, watching, lease = work.parent()
    work.runner("late", deadline=work.clock() - 500)
    tried: list[float] = []

    def refuse(ids: Collection[str]) -> None:
        tried.append(work.clock())
        raise BackendError("UnauthorizedOperation")

    work.backend.terminate = refuse  # type: ignore[method-assign]
    watching.waiting = 2
    work.rounds(service, 60, lease)
    assert len(tried) == 2
    assert len(work.living) == 2


def test_a_parent_that_does_not_act_ends_nobody() -> None:
    work = Deployed()
    service, _, _ = work.parent()
    work.runner("late", deadline=work.clock() - 500)
    service.tick()
    assert work.living == {"late"}


def test_the_next_leader_counts_what_the_one_before_launched_and_nobody_sees() -> None:
    work = Deployed(max=3)
    (first, _, lease), (second, seeing, other) = work.parent(), work.parent()
    lease.renew()
    first.tick()
    first._announce(Launch(token="t1", pool="video", count=3))
    work.clock.now += 15
    seeing.waiting = 9
    work.rounds(second, 55, other)
    assert work.living == set(), "three may exist"
    work.rounds(second, 15, other)
    assert len(work.living) == 3


def test_a_parent_that_lost_the_lease_while_it_read_what_was_left_reads_it_again() -> None:
    work = Deployed(max=3)
    (first, _, lease), (second, seeing, other) = work.parent(), work.parent()
    seeing.waiting = 9
    store: Any = other._store

    def stand_still() -> None:
        store.read = lambda: None
        work.clock.now += TTL
        lease.renew()
        first.tick()
        first._announce(Launch(token="t1", pool="video", count=3))
        lease.release()
        other.renew()

    store.read = stand_still
    other.renew()
    for _ in range(2):
        second.tick()
        assert work.living == set(), "three may exist"


def test_a_parent_that_cannot_read_what_was_left_does_not_act() -> None:
    work = Deployed(min=1)
    service, _, lease = work.parent()
    lease.renew()
    notes, work.cell.notes = work.cell.notes, None  # type: ignore[assignment]
    service.tick()
    assert work.living == set()
    work.cell.notes = notes
    service.tick()
    assert len(work.living) == 1


@pytest.mark.parametrize("words_arrive", [True, False])
def test_a_runners_silence_means_something_only_while_words_arrive(words_arrive: bool) -> None:
    work = Deployed(shutdown_timeout=30)
    service, watching, lease = work.parent()
    watching.words = up(work.runner("lost"), work.clock())
    watching.since = work.clock() if words_arrive else None
    work.rounds(service, LOST_AFTER + 30 + SECOND_LOOK + 30, lease)
    assert work.living == (set() if words_arrive else {"lost"})


@pytest.mark.parametrize(("backend", "living"), [("ec2", {"program"}), ("local", set())])
def test_a_program_that_knows_no_words_is_not_ended_for_its_silence_but_at_its_deadline(
    backend: str, living: set[str]
) -> None:
    work = Deployed(hello="start", boot_timeout=10)
    work.settings = dataclasses.replace(
        work.settings, backend=backend
    )  # local runners are workers, whatever is started
    service, _, lease = work.parent()
    work.runner("program", deadline=work.clock() + 1000)
    work.rounds(service, 900, lease)
    assert work.living == living
    assert [runner.state for runner in service.pools[0].roster.runners] == [RunnerState.UP] * len(living)
    work.rounds(service, 200, lease)
    assert work.living == set()


def test_a_parent_looks_now_and_then_for_how_long_tasks_wait_and_only_where_some_do() -> None:
    work = Deployed(max=0)
    service, watching, _ = work.parent()

    def shown() -> tuple[float | None, int]:
        service.tick()
        (queue,) = service.overview().pools[0].queues
        return queue.oldest_wait, watching.looks

    watching.published_at = work.clock() - 40
    assert shown() == (None, 1)
    watching.waiting = 7
    work.clock.now += WAITS_TTL - 1
    assert shown() == (None, 1)
    work.clock.now += 1
    assert shown() == (40 + WAITS_TTL, 2)
    work.clock.now += 2
    assert shown() == (42 + WAITS_TTL, 2)
    watching.waiting = 0
    assert shown() == (None, 2)
    watching.waiting, watching.silent = 7, True
    work.clock.now += WAITS_TTL
    assert shown() == (None, 2)  # a broker that does not answer is not waited for twice


@pytest.mark.parametrize("pool", ["video", "gone"])
def test_a_program_that_knows_no_words_is_left_alone_whatever_the_settings_say_now(pool: str) -> None:
    work = Deployed(boot_timeout=10)
    service, _, lease = work.parent()
    work.runner("program", pool=pool, deadline=work.clock() + 9000, speaks=False)
    work.rounds(service, 8000, lease)
    assert work.living == {"program"}
    work.rounds(service, 1200, lease)
    assert work.living == set()


@pytest.mark.parametrize(("booting", "listings"), [(1, 10), (200, 10), (500, 4), (5000, 1)])
def test_while_runners_come_a_listing_is_trusted_for_longer_the_more_there_are(booting: int, listings: int) -> None:
    work = Deployed()
    service, _, lease = work.parent()
    work.backend.living = [Runner(id=f"r{n}", pool="video", launched_at=work.clock()) for n in range(booting)]
    looked: list[float] = []

    def listed() -> tuple[Runner, ...]:
        looked.append(work.clock())
        return tuple(work.backend.living)

    work.backend.runners = listed  # type: ignore[method-assign]
    for _ in range(20):
        lease.renew()
        service.tick()
        work.clock.now += 1
    assert len(looked) == listings


def test_a_place_that_cannot_be_listed_stops_its_own_pools_alone() -> None:
    work = Deployed(min=1)
    pools = {"video": {"queues": "v", "min": 1}, "audio": {"queues": "a", "min": 1}}
    work.settings = deployment({name: {**pool, "max_concurrency": 1} for name, pool in pools.items()})
    service, _, lease = work.parent()
    work.runner("late", deadline=work.clock() - 500)

    def partial() -> tuple[Runner, ...]:
        found = tuple(work.backend.living)
        raise ListingPartial(runners=found, unknown={"audio": "no region eu-centrall-1"})

    work.backend.runners = partial  # type: ignore[method-assign]
    work.rounds(service, 200, lease)
    assert [runner.pool for runner in work.backend.living] == ["video"], "one more than min needs is not launched"
    assert "late" in work.living, "an incomplete listing ends nobody"
    assert service.unlisted("audio") == Unknown(why="the runners cannot be listed: no region eu-centrall-1")
    assert service.unlisted("video") is None


def test_a_listing_that_took_long_shows_what_there_was_when_it_began() -> None:
    work = Deployed(max=1)
    service, watching, lease = work.parent()
    watching.waiting = 1
    work.rounds(service, 5, lease)
    launched, work.backend.living = tuple(work.backend.living), []
    work.clock.now += work.backend.visible_within - 10

    def runners() -> tuple[Runner, ...]:
        work.clock.now += 8
        return ()

    work.backend.runners = runners  # type: ignore[method-assign]
    lease.renew()
    service.look()
    assert [runner.id for runner in service.pools[0].roster.runners] == [runner.id for runner in launched]
    service.look()
    assert service.pools[0].roster.runners == ()


def past(service: Service) -> Experience:
    return service.pools[0].past


def test_a_parent_learns_in_every_round_and_tells_the_policy() -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    service.look()
    watching.waiting, work.clock.now = 4, work.clock.now + 1
    demand = service.look()["video"]
    assert isinstance(demand, Demand)
    assert demand.past is past(service)
    assert past(service).arrivals.span == 4


@pytest.mark.parametrize("state", [RunnerState.UP, RunnerState.CORDONED, RunnerState.ENDING])
def test_tasks_of_all_runners_run_but_of_those_that_end(state: RunnerState) -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    watching.words = up(work.runner("one"), work.clock(), state=state, active=2)
    demand = service.look()["video"]
    assert isinstance(demand, Demand)
    assert demand.running == (0 if state is RunnerState.ENDING else 2)
    assert past(service).last is not None
    assert past(service).last.running == demand.running  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("queues", "alone"), [({"q"}, True), ({"q", "celery"}, False), ({"celery"}, False), (set(), False)]
)
@pytest.mark.parametrize("held", [None, 6])
def test_a_parents_own_tasks_teach_where_it_takes_no_others(queues: set[str], alone: bool, held: int | None) -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    service._local = lambda: Local(held=5, queues=frozenset(queues), processes=4, active=3, taken=70)
    watching.held = held
    demand = service.look()["video"]
    assert isinstance(demand, Demand)
    on_runners = 0 if held is None else 1
    assert (demand.local, demand.running) == (4 if alone else 0, on_runners)
    assert past(service).last is not None
    seen = (past(service).last.running, past(service).last.taken)  # type: ignore[union-attr]
    assert seen == ((on_runners + 3, 70) if alone else (on_runners, 0))


def test_a_boot_teaches_though_a_parent_did_not_hear_itself_yet_but_not_one_it_was_deaf_in() -> None:
    work = Deployed()
    service, watching, lease = work.parent()
    watching.since, watching.waiting = None, 1
    work.rounds(service, 10, lease)
    (first,) = work.backend.living
    watching.words = up(first, work.clock())
    service.look()
    watching.since = work.clock()
    service.look()
    learned = past(service).boot
    assert learned < FIRST_BOOT
    watching.waiting = 2
    work.rounds(service, 5, lease)
    watching.since = None
    work.rounds(service, 30, lease)
    (_, second) = work.backend.living
    watching.since = work.clock()
    watching.words = {**up(first, work.clock()), **up(second, work.clock())}
    assert learns(service)
    assert past(service).boot == learned


def learns(service: Service) -> bool:
    service.look()
    return past(service).last is not None


def test_while_depths_are_unknown_nothing_is_learned() -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    assert learns(service)
    measure = watching.measure

    def fail(queues: Sequence[str]) -> Measurement:
        raise DemandUnknown("no answer")

    watching.measure = fail  # type: ignore[method-assign]
    assert not learns(service)
    watching.measure = measure  # type: ignore[method-assign]
    assert learns(service)


def test_while_runners_are_not_heard_nothing_is_learned() -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    watching.since = None
    assert learns(service), "nobody is there to be heard"
    one = work.runner("one")
    service._listed_at = float("-inf")
    assert learns(service), "it boots, and takes nothing"
    watching.words = up(one, work.clock())
    assert not learns(service)


@pytest.mark.parametrize("hears", [True, False])
def test_where_runners_cannot_be_heard_nothing_is_learned_of_those_that_are_up(hears: bool) -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    watching.hears = lambda pool: hears  # type: ignore[method-assign]
    work.runner("silent")
    assert learns(service), "it boots, and takes nothing"
    work.clock.now += 200
    watching.since = work.clock()
    service._listed_at = float("-inf")
    assert learns(service) == hears


def test_what_runners_said_before_they_could_not_be_heard_teaches_nothing() -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    one = work.runner("one")
    watching.words = up(one, work.clock(), active=1, taken=1)
    assert learns(service)
    watching.since = None
    work.clock.now += 60
    assert not learns(service)
    watching.since = work.clock()
    assert not learns(service)
    work.clock.now += 5
    watching.words = up(one, work.clock(), active=1, taken=200)
    assert learns(service)
    assert (past(service).ended, past(service).arrivals.span) == (0, 0)


def test_what_runners_said_before_a_parent_first_heard_itself_counts() -> None:
    work = Deployed()
    service, watching, _ = work.parent()
    watching.since = None
    watching.words = up(work.runner("one"), work.clock(), active=1, taken=1)
    assert not learns(service)
    work.clock.now += 5
    watching.since = work.clock()
    assert learns(service)
