"""Does exactly one of several parents act: on a real Redis, a real file, and S3 as moto knows it?"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3.session
import pytest
import redis
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from celery import Celery

from celery_flame_ec2.config import read_settings
from celery_flame_ec2.errors import LeaseDenied, LeaseError
from celery_flame_ec2.lease import Lease, open_lease
from celery_flame_ec2.lease.base import TTL
from celery_flame_ec2.lease.file import FileStore
from celery_flame_ec2.lease.s3 import S3Store
from celery_flame_ec2.notes import read_overrides, write_overrides
from celery_flame_ec2.override import Request, pause, scale
from celery_flame_ec2.testing.clock import Clock
from tests.servers import RedisServer, SentinelServer, TlsRedisServer, free_port
from tests.waiting import wait_until
from tests.workers import ROOT, Deployment, Program

from .conftest import serve

ACTS, STANDS_BY, LOST = "this parent acts: ", "standing by: ", "this parent acts no more"
LAUNCHED = r"pool pool: launched "


@contextlib.contextmanager
def deployment(directory: Path, broker: str, **conf: Any) -> Iterator[Deployment]:
    pool = {"queues": ["celery"], "max": 2, "max_concurrency": 1, "idle_shutdown_after": 60}
    with Deployment(directory, broker, flame_pools={"pool": pool}, **{"flame_lease": broker, **conf}) as work:
        yield work
        (directory / "released").touch()


def two_parents(work: Deployment, **environ: str) -> tuple[Program, Program]:
    """Start the one that acts, then the one that stands by."""
    first = work.worker("--autoscale=1,1", name="first", **environ)
    first.says(ACTS)
    second = work.worker("--autoscale=1,1", name="second")
    second.says(STANDS_BY)
    return first, second


def hold(work: Deployment, count: int = 30) -> None:
    for number in range(count):
        work.send("hold", number, str(work.directory / "released"))


# --- two real parents


def test_when_the_acting_parent_is_killed_the_other_acts_within_15_seconds(redis_url: str, tmp_path: Path) -> None:
    with deployment(tmp_path, redis_url) as work, work.watched() as watch:
        first, second = two_parents(work)
        hold(work)
        (one, *_) = work.has_runners(2).values()
        first.kill()
        os.killpg(one, signal.SIGKILL)
        second.says(LAUNCHED, timeout=15)
        wait_until(lambda: len(watch.seen) == 3, what="a third runner")
    assert watch.most == 2
    assert first.output.count(ACTS) == second.output.count(ACTS) == 1


@pytest.mark.parametrize("other_stays", [True, False])
def test_a_parent_that_was_stopped_between_decision_and_act_does_nothing_when_it_wakes(
    other_stays: bool, redis_url: str, tmp_path: Path
) -> None:
    """Also when the lease is its own again by then, because the other has gone."""
    stop = tmp_path / "stop"
    with deployment(tmp_path, redis_url, flame_policy="tests.integration.apps.stopping:once") as work:
        first, second = two_parents(work, WORK_STOP=str(stop))
        stop.touch()
        with work.watched() as watch:
            hold(work)
            second.says(ACTS)
            work.has_runners(2)
            if not other_stays:
                second.kill()
                client = redis.Redis.from_url(redis_url)
                wait_until(lambda: not list(client.scan_iter("flame:lease:*")), what="the lease running out")
            first.signal(signal.SIGCONT)
            first.says("lost the lease since it looked")
            if not other_stays:
                first.says(ACTS, times=2)
    assert not stop.exists()
    assert LAUNCHED not in first.output
    assert watch.most == 2
    assert len(watch.seen) == 2


def test_a_parent_that_stops_hands_over_at_once(redis_url: str, tmp_path: Path) -> None:
    with deployment(tmp_path, redis_url) as work:
        first = work.start("first", "flame", "serve")
        first.says(ACTS)
        second = work.worker("--autoscale=1,1", name="second")
        second.says(STANDS_BY)
        first.stop()
        assert not list(redis.Redis.from_url(redis_url).scan_iter("flame:lease:*")) or ACTS in second.output
        second.says(ACTS, timeout=TTL / 2)
        third = work.start("third", "flame", "serve")
        third.says(STANDS_BY)
        second.stop()
        third.says(ACTS, timeout=TTL / 2)


@pytest.mark.parametrize("lease", ["redis", "file"])
@pytest.mark.parametrize("attempt", range(10))
def test_parents_started_together_launch_no_more_than_max(
    lease: str, attempt: int, redis_url: str, tmp_path: Path
) -> None:
    conf = {"flame_lease": redis_url if lease == "redis" else None}
    with deployment(tmp_path, redis_url, **conf) as work, work.watched() as watch:
        hold(work)
        parents = [work.start(name, "flame", "serve") for name in ("one", "two")]
        for parent in parents:
            parent.says(f"{ACTS}|{STANDS_BY}")
        wait_until(lambda: sum(parent.output.count(" is up, ") for parent in parents) >= 2, what="two runners up")
        assert sum(ACTS in parent.output for parent in parents) == 1
        assert sum(LAUNCHED in parent.output for parent in parents) == 1
    assert watch.most == len(watch.seen) == 2


# --- Redis


def lease_in(url: str, **conf: Any) -> Lease:
    app = Celery("proj", broker=url, set_as_current=False)
    app.conf.update(conf)
    ec2 = {
        "s3_bundle_url": "s3://releases/proj.tar.gz", "app": "proj", "launch_template_id": "lt-0abc12345",
        "allow_local_broker": True,
    }  # fmt: skip
    settings = read_settings(
        {"flame_pools": {"pool": {"queues": "q"}}, "flame_backend": "ec2", "flame_ec2": ec2},
        app_name="proj", broker_urls=(url,), environ={},
    )  # fmt: skip
    return open_lease(app, settings)


def notes_must_pass_between(holder: Lease, other: Lease) -> None:
    """And a parent that holds the lease no more, though it thinks so, writes none."""
    holder.note({"launch:t1": "1", "pool:video": "ü"})
    assert other.notes() == {"launch:t1": "1", "pool:video": "ü"}
    holder.note({"launch:t1": None, "launch:t2": "2"})
    holder.release()
    assert other.renew()
    assert other.notes() == {"pool:video": "ü", "launch:t2": "2"}
    other.note({"leader": "the other"})  # as every parent does that takes over
    holder._good_until = float("inf")
    with pytest.raises(LeaseError, match="nothing is noted"):
        holder.note({"launch:t2": None})
    holder._good_until = float("-inf")
    other.note({"pool:video": None, "launch:t2": None, "leader": None})
    assert holder.notes() == {}
    other.release()
    assert holder.renew()


def overrides_must_pass_between(holder: Lease, stranger: Lease) -> None:
    """And whoever looks sees that somebody holds the lease."""
    stranger.override({"video": "ü", "audio": "2"})
    assert holder.overrides() == {"video": "ü", "audio": "2"}
    holder.override({"video": None})
    assert stranger.overrides() == {"audio": "2"}
    stranger.override({"audio": None})
    assert holder.overrides() == {}
    stranger.ask()
    assert stranger.left is not None
    assert 0 < stranger.left <= TTL


def must_pass_between(first: Lease, second: Lease) -> None:
    second.ask()
    assert second.left == 0
    assert first.renew()
    overrides_must_pass_between(first, second)
    assert not second.renew()
    assert first.renew()
    first.release()
    assert second.renew()
    assert not first.renew()
    notes_must_pass_between(second, first)
    second.release()


def test_a_lease_lies_in_the_brokers_redis(redis_url: str) -> None:
    must_pass_between(lease_in(redis_url), lease_in(redis_url))


def test_a_lease_respects_the_brokers_key_prefix(redis_url: str) -> None:
    conf = {"broker_transport_options": {"global_keyprefix": "proj-"}}
    lease = lease_in(redis_url, **conf)
    must_pass_between(lease, lease_in(redis_url, **conf))
    lease.renew()
    (key,) = redis.Redis.from_url(redis_url).scan_iter("*lease*")
    assert key.startswith(b"proj-flame:lease:proj@")
    assert 0 < redis.Redis.from_url(redis_url).pttl(key) <= TTL * 1000  # type: ignore[operator]


def test_a_lease_lies_in_the_result_backends_redis_where_the_broker_is_another(redis_url: str, rabbit_url: str) -> None:
    must_pass_between(lease_in(rabbit_url, result_backend=redis_url), lease_in(rabbit_url, result_backend=redis_url))
    assert "flame:lease" in lease_in(rabbit_url, result_backend=redis_url).place


def test_a_lease_goes_through_tls_and_sentinels() -> None:
    for server in serve(TlsRedisServer):
        must_pass_between(lease_in(server.url), lease_in(server.url))
        conf = {"broker_transport_options": {"master_name": "mymaster"}}
        for sentinel in serve(functools.partial(SentinelServer, server)):
            must_pass_between(lease_in(sentinel.url, **conf), lease_in(sentinel.url, **conf))


def test_a_redis_that_stands_still_or_is_gone_is_trouble_and_then_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    for server in serve(lambda: RedisServer(password="secret")):
        lease, other = lease_in(server.url), lease_in(server.url)
        assert lease.renew()
        with server.paused():
            assert lease.renew()  # still good
            assert not other.renew()
        server.stop()
        assert not other.renew()
        server.start()
        assert lease.renew()
        assert not other.renew()
    told = [record.message for record in caplog.records]
    assert told
    assert not any("secret" in line for line in told)


# --- a file of this machine


HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from celery_flame_ec2.lease.file import FileStore
assert FileStore(Path(sys.argv[1])).take() is (sys.argv[2] == "True")
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(60)
"""


def test_a_killed_process_leaves_a_file_free_though_its_forks_live(tmp_path: Path) -> None:
    path = tmp_path / "directory" / "proj.lease"
    holder = subprocess.Popen([sys.executable, "-c", HOLD_AND_FORK, path, "True"], cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    fork = int(holder.stdout.readline())
    try:
        store = FileStore(path)
        assert not store.take()
        holder.kill()
        holder.wait()
        os.kill(fork, 0)
        assert store.take()
        assert store.take()
    finally:
        os.kill(fork, signal.SIGKILL)
        holder.stdout.close()


def test_a_file_passes_between_parents_with_its_notes(tmp_path: Path) -> None:
    # record locks are of a process: two leases in one would both be granted
    lease = Lease(FileStore(tmp_path / "owner.lease"))
    assert lease.renew()
    lease.note({"a": "1", "b": "ü"})
    lease.note({"a": None})
    lease.release()
    lease.override({"video": "1", "audio": "ü"})
    lease.override({"video": None})
    other = Lease(FileStore(tmp_path / "owner.lease"))
    other.ask()
    assert (other.overrides(), other.left) == ({"audio": "ü"}, 0)
    assert Lease(FileStore(tmp_path / "owner.lease")).notes() == {"b": "ü"}
    (tmp_path / "owner.lease.notes").write_text("no json")
    with pytest.raises(LeaseError, match=r"owner\.lease\.notes"):
        lease.notes()


def test_a_file_somebody_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "proj.lease"
    store = FileStore(path)
    assert store.take()
    path.unlink()
    assert store.take()
    assert path.exists()


def test_a_link_in_place_of_the_file_is_trouble(tmp_path: Path) -> None:
    path = tmp_path / "proj.lease"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LeaseError, match=r"proj\.lease: "):
        FileStore(path).take()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '"ab"', "\xff"])
def test_notes_in_a_file_that_no_parent_wrote_are_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "proj.lease.notes").write_bytes(text.encode("latin-1"))
    with pytest.raises(LeaseError, match=r"proj\.lease\.notes is not what a parent writes: "):
        FileStore(tmp_path / "proj.lease").notes()


# --- S3


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def s3(aws_url: str) -> Any:
    make: Any = boto3.session.Session().client
    client = make("s3", region_name="us-east-1", endpoint_url=aws_url)
    client.create_bucket(Bucket="releases")
    return client


@pytest.fixture
def new_store(s3: Any, aws_url: str, clock: Clock) -> Callable[[], S3Store]:
    return lambda: S3Store("s3://releases/flame/lease/proj", region="us-east-1", endpoint=aws_url, clock=clock)


@pytest.fixture
def pair(new_store: Callable[[], S3Store]) -> tuple[S3Store, S3Store]:
    return new_store(), new_store()


class Granted:
    """An S3 client that refuses these actions, and refuses to read what is missing, as S3 does without ListBucket."""

    def __init__(self, client: Any, refused: Collection[str]) -> None:
        self._client, self._refused = client, refused

    def __getattr__(self, action: str) -> Any:
        def ask(**words: Any) -> Any:
            denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, action)
            if action in self._refused:
                raise denied
            try:
                return getattr(self._client, action)(**words)
            except ClientError as exc:
                raise denied if exc.response["Error"]["Code"] == "NoSuchKey" else exc from exc

        return ask


@pytest.mark.parametrize(
    ("refused", "decided", "known"),
    [
        pytest.param((), False, True, id="nothing is decided, and the bucket may not be listed"),
        pytest.param((), True, True, id="all rights"),
        pytest.param(("put_object",), True, True, id="may read, and something is decided"),
        pytest.param(("put_object",), False, False, id="may read, and nothing is there: it looks the same"),
        pytest.param(("get_object",), True, False, id="may not read what is there"),
        pytest.param(("get_object", "put_object"), True, False, id="may do nothing"),
    ],
)
def test_what_may_not_be_read_in_s3_is_never_taken_for_nothing_decided(
    pair: tuple[S3Store, S3Store], refused: Collection[str], decided: bool, known: bool
) -> None:
    store, other = pair
    if decided:
        other.override({"paused:video": "yes"})
    store._client = Granted(store._client, refused)
    for _ in range(2):
        if known:
            assert store.overrides() == ({"paused:video": "yes"} if decided else {})
        else:
            with pytest.raises(LeaseDenied, match=r"^s3://releases/flame/lease/proj.overrides: the parent needs s3:"):
                store.overrides()
    assert other.overrides() == ({"paused:video": "yes"} if decided else {})


@pytest.mark.parametrize("place", ["redis", "s3", "file"])
def test_of_two_operators_at_once_neither_loses_what_it_decides(
    place: str, redis_url: str, new_store: Callable[[], S3Store], tmp_path: Path
) -> None:
    pools = {"video": {"queues": "video"}}
    settings = read_settings({"flame_pools": pools}, app_name="proj", broker_urls=("memory://",), environ={})
    ways: dict[str, Callable[[], Lease]] = {
        "redis": lambda: lease_in(redis_url),
        "s3": lambda: Lease(new_store()),
        "file": lambda: Lease(FileStore(tmp_path / "proj.lease")),
    }
    ann, bob, looks = (ways[place]() for _ in range(3))
    for number in range(10):
        both = threading.Barrier(2)

        def decide(lease: Lease, request: Request, both: threading.Barrier = both, at: float = number) -> None:
            both.wait(30)
            write_overrides(lease, request, at)

        with ThreadPoolExecutor(2) as pool:
            pauses = number % 2 == 0
            one = pool.submit(decide, ann, pause(settings, "video", by="ann", paused=pauses))
            two = pool.submit(decide, bob, scale(settings, "video", str(number), by="bob"))
            one.result(60)
            two.result(60)
        found = read_overrides(looks).by_pool["video"]
        assert (found.paused, found.wanted) == (pauses, number)


def test_an_object_passes_between_parents(pair: tuple[S3Store, S3Store], s3: Any) -> None:
    must_pass_between(Lease(pair[0]), Lease(pair[1]))
    left = {each["Key"]: each["Size"] for each in s3.list_objects_v2(Bucket="releases")["Contents"]}
    assert left == {f"flame/lease/proj.{beside}": len("{}") for beside in ("notes", "overrides")}


def test_an_object_unchanged_for_the_time_to_live_is_taken_over(pair: tuple[S3Store, S3Store], clock: Clock) -> None:
    first, second = pair
    assert first.take()
    assert not second.take()
    clock.now += TTL - 0.1
    assert not second.take()
    clock.now += 0.1
    assert second.take()
    assert not first.take()


def test_giving_up_an_object_takes_nothing_from_another(pair: tuple[S3Store, S3Store], clock: Clock) -> None:
    first, second = pair
    assert first.take()
    assert not second.take()
    clock.now += TTL
    assert second.take()
    first.give_up()
    assert not first.take()
    assert second.take()


def test_an_object_that_is_renewed_is_never_taken_over(pair: tuple[S3Store, S3Store], clock: Clock) -> None:
    first, second = pair
    for _ in range(10):
        assert first.take()
        assert not second.take()
        clock.now += TTL - 0.1


def test_a_write_whose_answer_was_lost_is_recognised_as_ours(pair: tuple[S3Store, S3Store], s3: Any) -> None:
    first, second = pair
    assert first.take()
    place = {"Bucket": "releases", "Key": "flame/lease/proj"}
    s3.put_object(**place, Body=s3.get_object(**place)["Body"].read() + b" ")  # as our own, later nonce
    assert first.take()
    assert not second.take()


def test_a_conflict_is_tried_again(pair: tuple[S3Store, S3Store]) -> None:
    first, second = pair
    conflicts = [409, 409]

    def conflict(request: Any, **_: Any) -> AWSResponse | None:
        if not conflicts:
            return None
        body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
        raw = type("Raw", (), {"stream": lambda *_, **__: iter([body])})()
        return AWSResponse(request.url, conflicts.pop(), {}, raw)

    first._client.meta.events.register_first("before-send.s3.PutObject", conflict)
    assert first.take()
    assert not conflicts
    assert not second.take()


def test_a_deleted_object_is_written_anew(pair: tuple[S3Store, S3Store], s3: Any) -> None:
    first, second = pair
    assert first.take()
    s3.delete_object(Bucket="releases", Key="flame/lease/proj")
    assert first.take()
    assert not second.take()


def test_a_missing_bucket_and_a_closed_port_are_trouble(aws_url: str) -> None:
    closed = f"http://127.0.0.1:{free_port()}"
    for store in (
        S3Store("s3://nowhere/proj", region="us-east-1", endpoint=aws_url),
        S3Store("s3://releases/proj", region="us-east-1", endpoint=closed),
    ):
        with pytest.raises(LeaseError, match=r"^s3://\w+/proj: "):
            store.take()


def test_of_many_parents_that_ask_at_once_exactly_one_wins(aws_url: str, s3: Any) -> None:
    stores = [S3Store("s3://releases/proj", region="us-east-1", endpoint=aws_url) for _ in range(8)]
    barrier = threading.Barrier(len(stores))

    def ask(store: S3Store) -> bool:
        barrier.wait()
        return store.take()

    with ThreadPoolExecutor(len(stores)) as pool:
        for _ in range(60):
            (winner,) = itertools.compress(stores, pool.map(ask, stores))
            winner.give_up()
