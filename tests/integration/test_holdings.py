"""Does what a dead runner held of a Redis broker come back at once, each message once, and nothing of a living one?"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Exchange, Queue
from redis import Redis

from celery_flame_ec2.config import read_settings
from celery_flame_ec2.errors import BackendError, HoldingsError
from celery_flame_ec2.holdings import Holdings, claim, keys_of, open_holdings
from celery_flame_ec2.keeper import Keeper, Times
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits, Runner
from celery_flame_ec2.salvage import Listing, Salvage
from celery_flame_ec2.service import Service
from tests.servers import LastingRedisServer, RedisServer
from tests.unit.test_pool import ListBackend
from tests.waiting import wait_until
from tests.workers import Deployment

from .conftest import serve

OWNER = "test"
EARLY = {"task_acks_late": False}
LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}
#: Seconds within which what a runner held must be back after it was killed, on a busy machine: by its silence alone it
#: would take ten minutes.
AT_ONCE = 30.0
LETTER = Parent(owner=OWNER, pool="pool", backend="local", queues=("celery",), concurrency=1)


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def app(redis_url: str) -> Celery:
    return Celery("test", broker=redis_url, set_as_current=False)


def opened(app: Celery) -> Holdings:
    holdings = open_holdings(app, OWNER)
    assert holdings is not None
    return holdings


def send(app: Celery, *numbers: int, queue: str = "celery", **options: Any) -> None:
    for number in numbers:
        app.send_task("number", [number], queue=queue, **options)


def die_holding(app: Celery, runner_id: str, *queues: str, place: str = "here", patience: float = 600.0) -> int:
    """Be a runner that registers, takes all there is, and is cut off; return how much it took."""
    names = queues or ("celery",)
    opened(app).register(runner_id, queues=names, place=place, patience=patience)
    options = {**app.conf.broker_transport_options, **keys_of(OWNER, runner_id)}
    taken = 0
    with Connection(app.conf.broker_url, transport_options=options) as broker:
        channel = broker.default_channel
        channel.do_restore = False
        for name in names:
            queue = app.amqp.queues[name](channel)
            queue.declare()
            while queue.get() is not None:
                taken += 1
    return taken


def waiting(app: Celery, queue: str = "celery") -> list[int]:
    """Take all that waits in a queue, in the order in which workers would; return the tasks' numbers."""
    found = []
    with app.connection_for_read() as broker:
        taken = app.amqp.queues[queue](broker.default_channel)
        while (message := taken.get(no_ack=True)) is not None:
            found.append(message.payload[0][0])
    return found


def listing(*runner_ids: str, age: float = 0.0, visible_within: float = 0.0, place: str = "here") -> Listing:
    return Listing(runner_ids=set(runner_ids), place=place, age=age, visible_within=visible_within)


@dataclasses.dataclass(frozen=True)
class Bench:
    """A deployment whose queue no other test has: a consumer that is being killed may still be handed a message."""

    work: Deployment
    redis: Redis
    queue: str
    released: Path

    def burst(self) -> None:
        """Have a runner of two slots run two tasks, and hold two behind them and one that is not due yet."""
        for number in range(2):
            self.work.send("hold", number, str(self.released), queue=self.queue)
        wait_until(lambda: len(self.work.noted("holding")) == 2, what="two tasks running")
        self.work.send("square", 4, queue=self.queue, countdown=12)
        for number in range(2, 4):
            self.work.send("hold", number, str(self.released), queue=self.queue)

    def kill_runner(self, *, holding: int) -> str:
        """Kill the one runner as soon as it holds so many; return its id."""
        ((name, pid),) = self.work.has_runners(1).items()
        wait_until(lambda: self.held(name) == holding, what=f"{holding} messages held")
        os.killpg(pid, signal.SIGKILL)
        return name

    def held(self, runner_id: str) -> int:
        return sum(self.redis.hlen(key) for key in self.redis.scan_iter(f"*flame:held:*:{runner_id}"))


@pytest.fixture
def bench(redis_url: str, redis: Redis, tmp_path: Path, unique_name: Callable[[str], str]) -> Callable[..., Bench]:
    """Give a bench with this app configuration and these options of its pool, still to be entered."""

    def made(pool: dict[str, Any] | None = None, **conf: Any) -> Bench:
        queue = unique_name("work")
        settings = {
            "queues": [queue], "max": 1, "max_concurrency": 2, "idle_shutdown_after": 3,
            "worker_options": {"prefetch_multiplier": 2},
            **(pool or {}),
        }  # fmt: skip
        work = Deployment(tmp_path, redis_url, flame_pools={"pool": settings}, task_default_queue=queue, **conf)
        work.client.conf.broker_transport_options = conf.get("broker_transport_options", {})
        return Bench(work, redis, queue, tmp_path / "released")

    return made


@pytest.mark.parametrize("prefix", ["", "mine:"])
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_what_a_killed_runner_held_comes_back_within_seconds(
    bench: Callable[..., Bench], late: bool, prefix: str
) -> None:
    made, held = (
        bench(**(LATE if late else EARLY), broker_transport_options={"global_keyprefix": prefix}),
        5 if late else 3,
    )
    with made.work as work:
        parent = work.start("parent", "flame", "serve")
        made.burst()
        name = made.kill_runner(holding=held)
        lost = set(work.numbers("holding")) if not late else set()  # one that is acknowledged and runs is nowhere else
        parent.says(rf"gave back {held} messages that {name} held, which is gone", timeout=AT_ONCE)
        made.released.touch()
        done = sorted({0, 1, 2, 3} - lost)
        wait_until(lambda: work.numbers("held") == done and work.numbers("square") == [4], what="all tasks done")
        work.has_runners(0)  # having found nothing else to do
        assert (work.numbers("held"), work.numbers("square")) == (done, [4])


def test_what_a_runner_held_that_died_while_no_parent_lived_comes_back_with_the_next_parent(
    bench: Callable[..., Bench],
) -> None:
    made = bench(**LATE)
    with made.work as work:
        first = work.start("first", "flame", "serve")
        made.burst()
        work.has_runners(1)
        first.kill()
        name = made.kill_runner(holding=5)
        assert json.loads(work.run("flame", "status", "--json").stdout)["held"] == 5
        made.released.touch()
        work.start("second", "flame", "serve").says(f"gave back 5 messages that {name} held", timeout=AT_ONCE)
        wait_until(lambda: work.numbers("held") == [0, 1, 2, 3], what="all tasks done")


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_runner_that_ends_in_peace_leaves_nothing_behind(bench: Callable[..., Bench], pool: str) -> None:
    made = bench({"idle_shutdown_after": 1, "worker_options": {"pool": pool}}, **LATE)
    with made.work as work:
        parent = work.start("parent", "flame", "serve")
        work.send("hold", 1, str(made.released), queue=made.queue)
        ((name, _),) = work.has_runners(1).items()
        wait_until(lambda: work.noted("holding"), what="the task running")
        assert list(made.redis.scan_iter("flame:runners:*"))
        work.send("square", 2, queue=made.queue, countdown=3600)
        wait_until(lambda: made.held(name) == 2, what="the runner holding also what is not due")
        parent.stop()
        made.released.touch()
        work.has_runners(0)
        assert [key for key in made.redis.scan_iter("flame:*") if b":notes:" not in key] == []
        assert made.redis.llen(made.queue) == 1


def test_a_runner_of_another_machine_is_not_taken_for_dead(app: Celery) -> None:
    send(app, 1)
    assert die_holding(app, "theirs", place="there") == 1
    Salvage(opened(app)).look(listing("ours"))
    assert (waiting(app), opened(app).count()) == ([], 1)


def test_a_runner_that_is_listed_or_may_not_be_listed_yet_keeps_what_it_holds(app: Celery) -> None:
    send(app, 1)
    die_holding(app, "runner")
    salvage = Salvage(opened(app))
    salvage.look(listing(visible_within=60.0))
    salvage.look(listing("runner"))
    salvage.look(listing(age=60.0))
    salvage.look()
    assert waiting(app) == []
    salvage.look(listing())
    assert (waiting(app), opened(app).registered()) == ([1], ())


class ShakyBackend(ListBackend):
    """Its listing fails as long as `trouble` says so."""

    visible_within, listing_ttl, trouble = 0.0, 0.0, True

    def runners(self) -> tuple[Runner, ...]:
        if self.trouble:
            raise BackendError("only some pages came")
        return super().runners()


def test_a_listing_that_failed_says_of_nobody_that_it_is_gone(app: Celery) -> None:
    settings = read_settings(
        {"flame_owner": OWNER, "flame_pools": {"pool": {"queues": "celery", "max_concurrency": 1}}},
        app_name="test", broker_urls=(app.conf.broker_url,), environ={},
    )  # fmt: skip
    send(app, 1)
    die_holding(app, "dead", place="local")
    backend = ShakyBackend()
    parent = Service(app, settings, backend)
    parent.tick()
    assert waiting(app) == []
    backend.trouble = False
    parent.tick()
    assert waiting(app) == [1]
    parent.close()


def test_parents_that_act_at_the_same_time_give_back_each_message_once(app: Celery) -> None:
    numbers = list(range(500))
    send(app, *numbers)
    assert die_holding(app, "dead") == len(numbers)
    parents, together, counts = [opened(app) for _ in range(4)], threading.Barrier(4), []

    def act(holdings: Holdings) -> None:
        holdings.registered()  # connected, so that all begin at once
        together.wait()
        counts.append(holdings.give_back("dead", ["celery"]))
        holdings.forget("dead")

    threads = [threading.Thread(target=act, args=[holdings]) for holdings in parents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(numbers)
    assert waiting(app) == numbers
    assert opened(app).registered() == ()


@pytest.mark.parametrize("prefix", ["", "mine:"])
def test_messages_keep_their_priority_and_their_turn(app: Celery, redis: Redis, prefix: str) -> None:
    app.conf.broker_transport_options = {"global_keyprefix": prefix}
    for priority in (0, 3, 9):
        send(app, priority * 10, priority * 10 + 1, priority=priority)
    before = {key: redis.lrange(key, 0, -1) for key in redis.scan_iter(f"{prefix}celery*")}
    assert len(before) == 3
    assert die_holding(app, "dead") == 6
    send(app, 99)
    Salvage(opened(app)).look(listing())
    assert {key: redis.llen(key) for key in before} == {key: len(all_) + (key == f"{prefix}celery".encode())
                                                        for key, all_ in before.items()}  # fmt: skip
    assert waiting(app) == [0, 1, 99, 30, 31, 90, 91]
    assert [key for key in redis.scan_iter("*") if not key.startswith(prefix.encode()) or b"held" in key] == []


def test_messages_of_a_topic_exchange_come_back_to_the_queue_they_were_taken_from(app: Celery, redis: Redis) -> None:
    topics = Exchange("topics", type="topic")
    keys = {"slow": "work.audio", "fast": "work.video.#", "all": "#"}
    app.conf.task_queues = [Queue(name, topics, routing_key=key) for name, key in keys.items()]
    with app.connection_for_write() as broker:
        for queue in app.amqp.queues.values():
            queue(broker.default_channel).declare()
    app.send_task("number", [1], queue=app.amqp.queues["fast"], exchange="topics", routing_key="work.video.hd")
    assert die_holding(app, "dead", "slow", "fast") == 1
    Salvage(opened(app)).look(listing())
    assert {name: waiting(app, name) for name in keys} == {"slow": [], "fast": [1], "all": [1]}


def test_a_message_that_nothing_leads_to_any_more_comes_back_to_the_runners_queue(app: Celery, redis: Redis) -> None:
    app.conf.task_queues = [Queue("gone", Exchange("topics", type="topic"), routing_key="work.#")]
    with app.connection_for_write() as broker:
        app.amqp.queues["gone"](broker.default_channel).declare()
    app.send_task("number", [1], queue=app.amqp.queues["gone"], exchange="topics", routing_key="work.video")
    assert die_holding(app, "dead", "gone") == 1
    redis.delete("_kombu.binding.topics")
    another = Celery("another", broker=app.conf.broker_url, set_as_current=False)  # knows nothing of that queue
    Salvage(opened(another)).look(listing())
    assert waiting(app, "gone") == [1]


def test_living_runners_give_back_what_a_dead_one_held_where_no_parent_returns(app: Celery) -> None:
    send(app, 1, 2, 3)
    die_holding(app, "dead", patience=0.5)
    times = Times(beat=0.05, look=0.1, patience=0.5)
    living = [
        Keeper(LETTER, f"living{n}", opened(app), Salvage(opened(app), confirm=0.5), place="here", times=times)
        for n in "12"
    ]
    for keeper in living:
        keeper.begin()
    try:
        wait_until(lambda: len(opened(app).registered()) == 2, what="the dead one being struck off")
        assert {each.runner_id for each in opened(app).registered()} == {"living1", "living2"}
        assert waiting(app) == [1, 2, 3]
    finally:
        for keeper in living:
            keeper.stop()
    assert opened(app).registered() == ()


def test_runners_that_could_not_speak_while_redis_was_away_are_not_taken_for_dead(app: Celery) -> None:
    send(app, 1)
    die_holding(app, "runner", patience=0.2)
    now = 0.0
    salvage, runner = Salvage(opened(app), confirm=30.0, clock=lambda: now), opened(app)
    wait_until(lambda: runner.registered()[0].overdue, what="the runner being overdue")
    salvage.look()
    now = 29.0
    salvage.look()
    runner.register("runner", queues=["celery"], place="here", patience=600.0)
    now = 31.0
    salvage.look()
    assert waiting(app) == []


def test_what_redis_did_not_take_back_comes_back_at_the_next_look() -> None:
    for server in serve(RedisServer):
        app = Celery("test", broker=server.url, set_as_current=False)
        send(app, 1)
        die_holding(app, "dead")
        salvage = Salvage(opened(app))
        with server.paused(), pytest.raises(HoldingsError, match="Timeout"):
            salvage.look(listing())
        salvage.look(listing())
        assert waiting(app) == [1]


def test_an_app_whose_broker_keeps_account_itself_is_left_alone(rabbit_url: str, redis_url: str) -> None:
    rabbit = Celery("test", broker=rabbit_url, set_as_current=False)
    plain = Celery("test", broker=redis_url, set_as_current=False)
    plain.conf.broker_transport_options = {"ack_emulation": False}
    assert [claim(each, OWNER, "runner") for each in (rabbit, plain)] == [False, False]
    assert (rabbit.conf.broker_transport_options, open_holdings(rabbit, OWNER)) == ({}, None)
    assert plain.conf.broker_transport_options == {"ack_emulation": False}


def test_a_claim_keeps_the_apps_own_transport_options(app: Celery) -> None:
    app.conf.broker_transport_options = {"global_keyprefix": "mine:", "visibility_timeout": 5}
    assert claim(app, OWNER, "runner")
    options = app.conf.broker_transport_options
    assert options["global_keyprefix"] == "mine:"
    assert options["visibility_timeout"] > 5
    assert options["unacked_key"] == "flame:held:test:runner"


def test_a_task_longer_than_the_visibility_timeout_runs_once_on_a_runner(redis_url: str, tmp_path: Path) -> None:
    sweeping = {"visibility_timeout": 1, "unacked_restore_interval": 0.5, "unacked_restore_throttle": 1}  # kombu 5.7
    letter = dataclasses.replace(LETTER, concurrency=2, limits=Limits(idle_shutdown_after=1))
    with Deployment(tmp_path, redis_url, broker_transport_options=sweeping, **LATE) as work:
        work.send("square", 1, 5)
        runner = work.start("runner", "flame", "child", FLAME_PARENT=letter.encode(), FLAME_RUNNER_ID="runner")
        assert runner.ends() == 0
        assert work.numbers("square") == [1]


def test_what_a_runner_held_when_it_lost_redis_comes_back_when_redis_does(tmp_path: Path) -> None:
    # Celery could not put it back while Redis was away, and no visibility timeout does: the runner itself sees to it.
    released = tmp_path / "released"
    letter = dataclasses.replace(LETTER, worker_options={"prefetch_multiplier": 3}, limits=Limits())
    for server in serve(LastingRedisServer):
        with Deployment(tmp_path, server.url, **LATE) as work, Redis.from_url(server.url) as redis:
            runner = work.start("runner", "flame", "child", FLAME_PARENT=letter.encode(), FLAME_RUNNER_ID="runner")
            for number in range(3):
                work.send("hold", number, str(released))
            wait_until(lambda: redis.hlen("flame:held:test:runner") == 3, what="the runner holding all")
            wait_until(lambda: work.numbers("holding") == [0], what="one task running")
            server.stop()
            runner.says("Cannot connect to redis")
            server.start()
            runner.says("gave back 2 messages of the connection before")  # the third is of a task that runs
            released.touch()
            wait_until(lambda: work.numbers("held") == [0, 1, 2], what="each task done once")


def test_a_dead_machines_tasks_are_redelivered_by_rabbitmq_itself(
    rabbit_url: str, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    released, queue = tmp_path / "released", unique_name("work")
    settings = {"queues": [queue], "max": 1, "max_concurrency": 2}
    with Deployment(tmp_path, rabbit_url, flame_pools={"pool": settings}, task_default_queue=queue, **LATE) as work:
        parent = work.start("parent", "flame", "serve")
        for number in range(4):
            work.send("hold", number, str(released), queue=queue)
        parent.says(" is up, ")
        ((_, pid),) = work.has_runners(1).items()
        wait_until(lambda: len(work.noted("holding")) == 2, what="two tasks running")
        os.killpg(pid, signal.SIGKILL)
        released.touch()
        wait_until(lambda: work.numbers("held") == [0, 1, 2, 3], what="all tasks done")
