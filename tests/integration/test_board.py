"""Do runners say hello, busy and why they end, and obey, where their broker carries no words?"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from celery import Celery

from celery_flame_ec2 import signals
from celery_flame_ec2.board import open_board
from celery_flame_ec2.board.base import Pin
from celery_flame_ec2.board.reader import Reader
from celery_flame_ec2.board.s3 import S3Board
from celery_flame_ec2.board.text import write
from celery_flame_ec2.config import Settings, read_settings
from celery_flame_ec2.errors import BoardError
from celery_flame_ec2.pool import letter
from celery_flame_ec2.presence import Word
from celery_flame_ec2.reaper import LOST_AFTER
from celery_flame_ec2.runner import Runner, RunnerState
from celery_flame_ec2.service import Service
from celery_flame_ec2.watch import Watch
from tests.servers import MotoServer
from tests.unit.test_pool import ListBackend
from tests.waiting import wait_until
from tests.workers import Deployment, Program

from .conftest import serve

REGION = "eu-central-1"
BUCKET = "releases"
OWNER = "shop/eu"
SQS = {"region": REGION, "is_secure": False, "wait_time_seconds": 1}


def bucket(url: str) -> Any:
    """Return a client of this S3, in which there is the bucket now."""
    client = boto3.client("s3", endpoint_url=url, region_name=REGION)
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


def place(url: str, owner: str = OWNER) -> str:
    return f"s3://{BUCKET}/flame/lease/{owner}.board?region={REGION}&endpoint={url}"


def word(name: str, state: RunnerState = RunnerState.UP, **fields: Any) -> Word:
    return Word(runner_id=name, pool="video", owner=OWNER, state=state, **fields)


# what every board does


@pytest.fixture(params=["folder", "s3"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return (tmp_path / "a b?#%.board").as_uri()
    url: str = request.getfixturevalue("aws_url")
    bucket(url)
    return place(url)


def test_of_each_runner_the_last_text_is_up_until_it_is_taken_down(somewhere: str) -> None:
    runners, parent = {name: open_board(somewhere) for name in ("one", "two")}, open_board(somewhere)
    assert parent.pins() == []
    for number in range(3):
        for name, board in runners.items():
            board.pin(Pin(runner_id=name, text=f"{number}.text"))
    assert {(pin.runner_id, pin.text) for pin in parent.pins()} == {("one", "2.text"), ("two", "2.text")}
    parent.take_down([Pin(runner_id="one", text="2.text"), Pin(runner_id="gone", text="1.text")])
    assert [pin.runner_id for pin in parent.pins()] == ["two"]


def test_orders_of_two_that_give_them_at_a_time_are_both_kept(somewhere: str) -> None:
    one, other, runner = (open_board(somewhere) for _ in range(3))
    assert runner.cordoned() == frozenset()

    def meanwhile(before: frozenset[str]) -> frozenset[str]:
        if "theirs" not in before and somewhere.startswith("s3:"):
            other.order(lambda theirs: theirs | {"theirs"})
        return before | {"mine"}

    one.order(meanwhile)
    other.order(lambda before: before | {"theirs"})
    assert runner.cordoned() == {"mine", "theirs"}
    one.order(lambda before: before - {"mine"})
    assert (runner.cordoned(), runner.cordoned(), one.cordoned()) == ({"theirs"},) * 3


def test_what_nobody_of_us_wrote_is_no_order(somewhere: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    board = open_board(somewhere)
    board.order(lambda _: frozenset({"one"}))
    for body in (b"", b"null", b'{"cordoned": 3}', b"[" * 100_000):
        if somewhere.startswith("s3:"):
            client = bucket(request.getfixturevalue("aws_url"))
            client.put_object(Bucket=BUCKET, Key=f"flame/lease/{OWNER}.board/orders", Body=body)
        else:
            next(tmp_path.glob("*.board/orders")).write_bytes(body)
        with pytest.raises(BoardError, match="the orders are not what a parent writes"):
            board.cordoned()


def test_hostile_names_are_left_out_with_one_warning(aws_url: str, caplog: pytest.LogCaptureFixture) -> None:
    client, board = bucket(aws_url), open_board(place(aws_url))
    good = write(word("good", active=2, reason="é\n\0, ok"), 5)
    board.pin(Pin(runner_id="good", text=good))
    prefix = f"flame/lease/{OWNER}.board/words/"
    hostile = ["", "x", "a/b/c", f"good/{good}x!", "good/99999999999.e30", "good/9.##%2F##", "w/7.W10",
               f"a\u202eb/{good}", "n/" + "9" * 30 + ".e30", f"{'a' * 300}/{good}", "é/" + "ü" * 300]  # fmt: skip
    for name in hostile:
        client.put_object(Bucket=BUCKET, Key=prefix + name, Body=b"")
    reader = Reader(board, owner=OWNER, clock=time.monotonic)
    reader.look()
    assert reader.words.keys() == {"good"}
    assert (reader.words["good"].active, reader.words["good"].reason) == (2, "é  , ok")
    reader.look(anew=True)
    assert caplog.text.count("holds what no runner pins") == 1
    reader.keep([])
    reader.tidy()
    listed = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert len(listed) == len(hostile) + 1, "what is not ours stays"


def test_more_words_than_one_answer_holds_are_all_read(aws_url: str) -> None:
    client, board = bucket(aws_url), S3Board(BUCKET, "board", region=REGION, endpoint=aws_url, page=3)
    for number in range(8):
        client.put_object(Bucket=BUCKET, Key=f"board/words/i-{number}/1.text", Body=b"")
    assert len(board.pins()) == 8
    board.take_down(board.pins())
    assert board.pins() == []


def test_an_s3_that_does_not_know_the_bucket_or_does_not_answer_is_an_error_in_words(aws_url: str) -> None:
    for url in (aws_url, "http://127.0.0.1:9"):
        board = open_board(place(url))
        for asked in (board.pins, board.cordoned, lambda board=board: board.pin(Pin(runner_id="r", text="1.a"))):
            with pytest.raises(BoardError, match=r"s3://releases/flame/lease/shop/eu\.board: "):
                asked()


def test_a_word_replaces_the_former_ones_also_after_many_that_s3_did_not_answer(aws_url: str) -> None:
    board = S3Board(BUCKET, "board", region=REGION, endpoint=aws_url)
    for count in range(30):
        with pytest.raises(BoardError):
            board.pin(Pin(runner_id="r", text=f"{count}.a"))
    bucket(aws_url)
    for count in (30, 31):
        board.pin(Pin(runner_id="r", text=f"{count}.a"))
        assert board.pins() == [Pin(runner_id="r", text=f"{count}.a")]


def test_deployments_in_one_bucket_are_apart_whatever_their_owners_are_called(aws_url: str) -> None:
    bucket(aws_url)
    owners = ["a", "a/b", "a.board/words/b"]
    boards = [open_board(place(aws_url, owner)) for owner in owners]
    for number, board in enumerate(boards):
        board.pin(Pin(runner_id=f"i-{number}", text=write(word(f"i-{number}"), 1)))
        board.order(lambda before, number=number: before | {f"i-{number}"})
    for number, (board, owner) in enumerate(zip(boards, owners, strict=True)):
        reader = Reader(board, owner=owner, clock=time.monotonic)
        reader.look()
        assert reader.words.keys() == board.cordoned() == {f"i-{number}"}


# runners and a parent


class Shop:
    """Runners of one pool that the test starts itself, and a parent within it: over SQS, with a board in S3."""

    def __init__(self, work: Deployment, board: str, queue: str, **conf: Any) -> None:
        self.work, self.board, self.queue, self.skipped = work, board, queue, 0.0
        pools = {"video": {"queues": [queue], "max": 2, "max_concurrency": 1}}
        conf = {"flame_pools": pools, "flame_owner": OWNER, "flame_policy": "tests.depth:plan", **conf}
        read = read_settings(conf, app_name="p", broker_urls=("sqs://",), environ={})
        self.settings: Settings = dataclasses.replace(read, board=board)
        self.app = Celery("p", broker=work.conf["broker_url"], set_as_current=False)
        self.app.conf.broker_transport_options = work.conf["broker_transport_options"]
        self.backend = ListBackend()
        self.processes: dict[str, Program] = {}
        self.ended: list[str] = []
        signals.runner_ended.connect(self._on_ended)
        self.service = self.parent()

    def parent(self) -> Service:
        def clock() -> float:
            return time.monotonic() + self.skipped

        watch = Watch(self.app, owner=OWNER, board=self.board, look_every=0.5, clock=clock)
        return Service(self.app, self.settings, self.backend, watch=watch, clock=clock, monotonic=clock)

    def runner(self, name: str, **limits: Any) -> Program:
        """Start a runner's worker as a backend would, and list it from now on."""
        told = letter(self.settings, self.settings.pools[0], warm=False)
        limits = {"idle_shutdown_after": 300.0, **limits}
        text = dataclasses.replace(told, limits=dataclasses.replace(told.limits, **limits)).encode()
        started = self.work.start(name, "flame", "child", FLAME_PARENT=text, FLAME_RUNNER_ID=name)
        self.backend.living.append(Runner(id=name, pool="video", launched_at=time.monotonic() + self.skipped))
        self.processes[name] = started
        return started

    def round(self) -> dict[str, tuple[str, int]]:
        """Do one round; return state and tasks of each runner."""
        over = {name for name, process in self.processes.items() if not process.running}
        self.backend.living = [runner for runner in self.backend.living if runner.id not in over]
        self.service.tick()
        return {runner.id: (runner.state.value, runner.active) for runner in self.service.pools[0].roster.runners}

    def sees(self, **wanted: tuple[str, int]) -> None:
        wait_until(lambda: self.round() == wanted, what=f"a parent that sees {wanted}", timeout=120, poll=0.2)

    def send(self, task: str, *args: Any) -> None:
        self.work.send(task, *args, queue=self.queue)

    @property
    def deaf(self) -> bool:
        return self.service._watch.since is None

    def _on_ended(self, runner: Runner, reason: str, **_: Any) -> None:
        self.ended.append(f"{runner.id}: {reason}")


@contextlib.contextmanager
def opened(url: str, s3: str, directory: Path, queue: str, **conf: Any) -> Iterator[Shop]:
    options: dict[str, Any] = {"broker_transport_options": SQS, "task_default_queue": queue}
    with Deployment(directory, url, **options) as work:
        work.client.conf.broker_transport_options = SQS
        bucket(s3)
        shop = Shop(work, place(s3), queue, **conf)
        yield shop
        signals.runner_ended.disconnect(shop._on_ended)
        shop.service.close()


@pytest.fixture
def shop(sqs_url: str, aws_url: str, tmp_path: Path, unique_name: Callable[[str], str]) -> Iterator[Shop]:
    with opened(sqs_url, aws_url, tmp_path, unique_name("board")) as found:
        yield found


def test_hello_busy_idle_and_the_reason_of_its_end_reach_the_parent(shop: Shop, tmp_path: Path) -> None:
    released = tmp_path / "released"
    runner = shop.runner("one")
    shop.sees(one=("up", 0))
    shop.send("hold", 0, str(released))
    shop.sees(one=("up", 1))
    released.touch()
    shop.sees(one=("up", 0))
    runner.signal(signal.SIGTERM)
    assert runner.ends() == 0
    shop.sees()
    assert shop.ended == ["one: told by SIGTERM"]
    (ended,) = shop.service.pools[0].standing.endings
    assert (ended.runner_id, ended.reason) == ("one", "told by SIGTERM")


def test_a_policy_cordons_and_uncordons_and_an_uncordoned_runner_works(
    sqs_url: str, aws_url: str, tmp_path: Path, unique_name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    monkeypatch.setenv("WORK_TOLD", str(told))
    told.write_text(json.dumps({"cordon": ["one"]}))
    policy = "tests.integration.apps.policies:cordons"
    with opened(sqs_url, aws_url, tmp_path, unique_name("board"), flame_policy=policy) as shop:
        shop.runner("one")
        shop.send("hold", 0, str(tmp_path / "one"))  # cordoned and idle they would end soon
        wait_until(lambda: shop.work.noted("holding"), what="one at work", timeout=60)
        shop.runner("two")
        shop.sees(one=("cordoned", 1), two=("up", 0))
        for number in range(4):
            shop.send("square", number)
        wait_until(lambda: shop.work.numbers("square") == [0, 1, 2, 3], what="four tasks", timeout=60)
        assert {entry["runner"] for entry in shop.work.noted("square")} == {"two"}
        shop.send("hold", 1, str(tmp_path / "two"))
        shop.sees(one=("cordoned", 1), two=("up", 1))
        told.write_text(json.dumps({"cordon": ["two"], "uncordon": ["one"]}))
        shop.sees(one=("up", 1), two=("cordoned", 1))
        (tmp_path / "one").touch()
        shop.send("square", 4)
        wait_until(lambda: len(shop.work.noted("square")) == 5, what="the fifth", timeout=60)
        assert shop.work.noted("square")[-1]["runner"] == "one"


def test_while_s3_does_not_answer_silence_means_nothing_and_work_goes_on(
    sqs_url: str, tmp_path: Path, unique_name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    for s3 in serve(MotoServer):
        with opened(sqs_url, s3.url, tmp_path, unique_name("board")) as shop:
            shop.runner("one")
            ending = shop.runner("two")
            shop.sees(one=("up", 0), two=("up", 0))
            with s3.paused():
                wait_until(lambda: shop.round() and shop.deaf, what="a parent that knows it is deaf", poll=0.2)
                for _ in range(2):
                    shop.skipped += LOST_AFTER + 60
                    assert shop.round().keys() == {"one", "two"}
                shop.send("square", 1)
                wait_until(lambda: shop.work.numbers("square") == [1], what="a task that ran", timeout=60)
                ending.signal(signal.SIGTERM)
                assert ending.ends() == 0
                shop.sees(one=("up", 0))
            shop.skipped += LOST_AFTER
            shop.send("hold", 2, str(tmp_path / "never"))
            shop.sees(one=("up", 1))
    assert len(re.findall("runners are not heard", caplog.text)) == 1


def test_local_runners_speak_and_obey_through_a_directory(tmp_path: Path) -> None:
    pool = {"queues": ["celery"], "min": 2, "max": 2, "max_concurrency": 1, "min_idle_shutdown_after": 300.0}
    with Deployment(tmp_path, f"sqla+sqlite:///{tmp_path}/broker.sqlite", flame_pools={"pool": pool}) as work:
        parent = work.start("parent", "flame", "serve")
        parent.says(" is up, ", times=2)
        runners = work.has_runners(2)
        for number in range(2):  # cordoned and idle it would end soon
            work.send("hold", number, str(tmp_path / f"released-{number}"))
        wait_until(lambda: len(work.noted("holding")) == 2, what="both at work", timeout=60)
        (one, held), (two, free) = ((entry["runner"], entry["number"]) for entry in work.noted("holding"))

        def tell(verb: str) -> str:
            done = work.run("flame", verb, one, "--timeout", "120", timeout=240)
            return done.stdout + done.stderr

        assert tell("cordon") == f"{one} cordoned\n"
        shown = json.loads(work.run("flame", "status", "--json", timeout=180).stdout)["pools"]["pool"]["runners"]
        assert {runner["id"]: runner["state"] for runner in shown} == {one: "cordoned", two: "up"}
        (tmp_path / f"released-{free}").touch()
        for number in range(4):
            work.send("square", number)
        wait_until(lambda: work.numbers("square") == [0, 1, 2, 3], what="four tasks", timeout=60)
        assert {entry["runner"] for entry in work.noted("square")} == {two}
        assert tell("uncordon") == f"{one} up\n"
        (tmp_path / f"released-{held}").touch()
        os.kill(runners[two], signal.SIGTERM)
        parent.says(f"{two} ended: told by SIGTERM")
