"""Does each real broker say how much work waits, and is its silence noticed in time?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from amqp.exceptions import NotFound  # type: ignore[import-untyped]
from celery import Celery
from kombu.entity import Queue
from sqlalchemy import create_engine, text

from celery_flame_ec2.broker import channel, open_connection
from celery_flame_ec2.errors import DemandUnknown
from celery_flame_ec2.queues import Depth, Measurement, measure, published
from tests.integration.conftest import serve
from tests.servers import MotoServer, RabbitServer, RedisServer, SentinelServer, Server, TlsRedisServer
from tests.waiting import wait_until

TIMEOUT = 1.0  #: seconds a silent broker is waited for
ANSWER = 10.0  #: seconds one that speaks may take: a server that just started is slow at first
PATIENCE = 30.0  #: seconds after which a call counts as hung

Name = Callable[[str], str]
App = Callable[..., Celery]


def application(url: str, **transport_options: Any) -> Celery:
    return Celery(broker=url, set_as_current=False, broker_transport_options=transport_options)


@contextmanager
def watched(app: Celery, *, timeout: float = ANSWER) -> Iterator[Any]:
    with closing(open_connection(app, timeout=timeout)) as connection:
        yield connection


def look(app: Celery, *queues: str) -> Measurement:
    with watched(app) as connection:
        return measure(connection, queues)


def waiting(app: Celery, queue: str) -> int:
    return look(app, queue).depths[queue].waiting


def send(app: Celery, queue: str, count: int = 1, **options: Any) -> None:
    for _ in range(count):
        app.send_task("work", queue=queue, **options)


def must_return(call: Callable[[], object]) -> BaseException | None:
    """Run `call` beside us and return what it raised; fail if it does not come back."""
    answer: Future[object] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as exc:  # noqa: BLE001 - handed to the caller
            answer.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    return answer.exception(PATIENCE)


# -- what every broker must do ---------------------------------------------------------------------------------------


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqla+sqlite:///{tmp_path}/broker.sqlite"


@pytest.fixture
def filesystem_options(tmp_path: Path) -> dict[str, str]:
    folders = {name: tmp_path / name for name in ("messages", "control")}
    for folder in folders.values():
        folder.mkdir()
    messages, control = map(str, folders.values())
    return {"data_folder_in": messages, "data_folder_out": messages, "control_folder": control}


@pytest.fixture
def sqs_options() -> dict[str, Any]:
    return {"region": "eu-central-1", "is_secure": False}


@pytest.fixture(params=["redis", "rabbitmq", "sqs", "filesystem", "sqlalchemy"])
def app(request: pytest.FixtureRequest) -> Celery:
    """An application on each broker in turn."""
    get = request.getfixturevalue
    if request.param == "filesystem":
        return application("filesystem://", **get("filesystem_options"))
    if request.param == "sqs":
        return application(get("sqs_url"), **get("sqs_options"))
    return application(get({"redis": "redis_url", "rabbitmq": "rabbit_url", "sqlalchemy": "sqlite_url"}[request.param]))


def test_an_empty_queue_is_zero_and_not_unknown(app: Celery, unique_name: Name) -> None:
    queue = unique_name("emptied")
    send(app, queue)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        wait_until(lambda: channel.basic_get(queue, no_ack=True), what="taking the message")
    wait_until(lambda: waiting(app, queue) == 0, what="the queue being empty")


def test_a_queue_nobody_has_declared_is_zero_beside_one_with_work(app: Celery, unique_name: Name) -> None:
    missing, busy, other = unique_name("missing"), unique_name("busy"), unique_name("other")
    send(app, busy, 3)
    wait_until(lambda: waiting(app, busy) == 3, what="three messages waiting")
    depths = look(app, missing, busy, other).depths
    assert {name: depth.waiting for name, depth in depths.items()} == {missing: 0, busy: 3, other: 0}


def test_one_connection_follows_a_queue_as_it_grows(app: Celery, unique_name: Name) -> None:
    queue = unique_name("growing")
    with watched(app) as connection:
        for expected in (0, 2, 4):
            wait_until(
                lambda: measure(connection, [queue]).depths[queue].waiting == expected,  # noqa: B023
                what=f"{expected} waiting",
            )
            send(app, queue, 2)


# -- nothing is created by looking ------------------------------------------------------------------------------------


def test_looking_creates_no_key_in_redis(redis_url: str) -> None:
    look(application(redis_url), "missing")
    assert redis.Redis.from_url(redis_url).keys("*missing*") == []


def test_looking_creates_no_queue_in_rabbitmq(rabbit_url: str, unique_name: Name) -> None:
    app, queue = application(rabbit_url), unique_name("missing")
    look(app, queue)
    with app.connection_for_read() as connection, pytest.raises(NotFound):
        connection.default_channel.queue_declare(queue, passive=True)


def test_looking_creates_no_queue_in_sqs(sqs_url: str, sqs_options: dict[str, Any], aws_url: str) -> None:
    look(application(sqs_url, **sqs_options), "missing")
    assert "QueueUrls" not in boto3.client("sqs", region_name="eu-central-1", endpoint_url=aws_url).list_queues()


def test_looking_creates_no_row_in_a_database(sqlite_url: str) -> None:
    look(application(sqlite_url), "missing")
    with create_engine(sqlite_url.removeprefix("sqla+")).connect() as database:
        assert database.execute(text("select count(*) from kombu_queue")).scalar() == 0


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_every_priority_of_a_redis_queue_is_counted(redis_url: str) -> None:
    app = application(redis_url)
    for priority in (0, 3, 6, 9):
        send(app, "urgent", priority=priority)
    assert waiting(app, "urgent") == 4


def test_own_separator_and_priority_steps_are_honoured(redis_url: str) -> None:
    app = application(redis_url, sep=":", priority_steps=list(range(10)), queue_order_strategy="priority")
    for priority in range(10):
        send(app, "urgent", priority=priority)
    assert redis.Redis.from_url(redis_url).llen("urgent:7") == 1
    assert waiting(app, "urgent") == 10


def test_only_keys_under_the_global_prefix_are_counted(redis_url: str) -> None:
    ours, theirs = application(redis_url, global_keyprefix="ours:"), application(redis_url)
    send(ours, "shared", 2)
    send(theirs, "shared", 5)
    assert (waiting(ours, "shared"), waiting(theirs, "shared")) == (2, 5)


@pytest.mark.parametrize("prefix", ["", "ours:"])
def test_taken_but_unacknowledged_messages_are_counted_for_the_whole_database(redis_url: str, prefix: str) -> None:
    app = application(redis_url, global_keyprefix=prefix)
    send(app, "left", 2)
    send(app, "right", 2)
    with app.connection_for_read() as connection:
        for queue in ("left", "right"):
            connection.default_channel.basic_get(queue)
        measured = look(app, "left")
        assert (measured.depths["left"], measured.unacked) == (Depth(waiting=1, held=None), 2)


def test_a_key_of_another_type_is_unknown_and_not_zero(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).set("clobbered", "text")
    with pytest.raises(DemandUnknown, match="WRONGTYPE"):
        look(application(redis_url), "clobbered")


def test_redis_is_read_over_tls() -> None:
    for server in serve(TlsRedisServer):
        app = application(server.url)
        send(app, "busy", 2)
        assert waiting(app, "busy") == 2


def test_redis_is_found_through_its_sentinel(redis_server: RedisServer, redis_url: str) -> None:
    for sentinel in serve(lambda: SentinelServer(redis_server)):
        send(application(redis_url), "busy", 2)
        app = application(sentinel.url, master_name="mymaster", sentinel_kwargs={"password": None})
        assert waiting(app, "busy") == 2


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declared",
    [
        {"queue_arguments": {"x-queue-type": "quorum"}},
        {"queue_arguments": {"x-max-priority": 10, "x-message-ttl": 600_000}},
        {"durable": False, "auto_delete": True},
    ],
    ids=["quorum", "other arguments", "not durable"],
)
def test_a_rabbitmq_queue_is_read_however_it_was_declared(
    rabbit_url: str, unique_name: Name, declared: dict[str, Any]
) -> None:
    queue = unique_name("declared")
    publisher = application(rabbit_url)
    publisher.conf.task_queues = [Queue(queue, routing_key=queue, **declared)]
    send(publisher, queue, 3)
    reader = application(rabbit_url)
    wait_until(lambda: waiting(reader, queue) == 3, what="three messages waiting")


def test_messages_a_rabbitmq_consumer_holds_no_longer_wait(rabbit_url: str, unique_name: Name) -> None:
    app, queue = application(rabbit_url), unique_name("held")
    send(app, queue, 3)
    wait_until(lambda: waiting(app, queue) == 3, what="three messages waiting")
    with app.connection_for_read() as connection:
        connection.default_channel.basic_get(queue)
        assert look(app, queue) == Measurement(depths={queue: Depth(waiting=2, held=None)}, unacked=None)


def test_a_queue_another_connection_owns_alone_is_unknown(rabbit_url: str, unique_name: Name) -> None:
    app, queue = application(rabbit_url), unique_name("exclusive")
    with app.connection_for_read() as connection:
        connection.default_channel.queue_declare(queue, exclusive=True)
        with pytest.raises(DemandUnknown, match="ResourceLocked"):
            look(app, queue)


# -- SQS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sqs(aws_url: str) -> Any:
    return boto3.client("sqs", region_name="eu-central-1", endpoint_url=aws_url)


def test_visible_in_flight_and_delayed_are_told_apart(sqs_url: str, sqs_options: dict[str, Any], sqs: Any) -> None:
    url = sqs.create_queue(QueueName="mixed")["QueueUrl"]
    for delay in (0, 0, 0, 600):
        sqs.send_message(QueueUrl=url, MessageBody="{}", DelaySeconds=delay)
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)
    depth = look(application(sqs_url, **sqs_options), "mixed").depths["mixed"]
    assert depth == Depth(waiting=2, held=1, delayed=1)


def test_each_sqs_queue_costs_one_request(sqs_url: str, sqs_options: dict[str, Any]) -> None:
    app, requests = application(sqs_url, **sqs_options), []
    for queue in ("left", "right"):
        send(app, queue)
    with watched(app) as connection:
        measure(connection, ["left", "right"])
        events = connection.default_channel.sqs().meta.events
        events.register("before-call.sqs", lambda model, **_: requests.append(model.name))
        measure(connection, ["left", "right"])
    assert requests == ["GetQueueAttributes", "GetQueueAttributes"]


def test_the_queue_name_prefix_and_forbidden_characters_are_mapped(
    sqs_url: str, sqs_options: dict[str, Any], sqs: Any
) -> None:
    app = application(sqs_url, queue_name_prefix="prod-", **sqs_options)
    send(app, "video.high", 2)
    assert [url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]] == ["prod-video-high"]
    assert waiting(app, "video.high") == 2


def test_predefined_queues_are_read_and_an_undefined_one_is_named(
    sqs_url: str, sqs_options: dict[str, Any], sqs: Any
) -> None:
    url = sqs.create_queue(QueueName="elsewhere")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="{}")
    app = application(sqs_url, predefined_queues={"defined": {"url": url}}, **sqs_options)
    assert waiting(app, "defined") == 1
    with pytest.raises(DemandUnknown, match="'undefined' must be defined in 'predefined_queues'"):
        look(app, "undefined")


def test_an_sqs_queue_deleted_and_made_again_is_followed(sqs_url: str, sqs_options: dict[str, Any], sqs: Any) -> None:
    app = application(sqs_url, **sqs_options)
    send(app, "short-lived")
    with watched(app) as connection:
        assert measure(connection, ["short-lived"]).depths["short-lived"].waiting == 1
        sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName="short-lived")["QueueUrl"])
        assert measure(connection, ["short-lived"]).depths["short-lived"].waiting == 0
        url = sqs.create_queue(QueueName="short-lived")["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="{}")
        assert measure(connection, ["short-lived"]).depths["short-lived"].waiting == 1


# -- files and databases ----------------------------------------------------------------------------------------------


def test_a_filesystem_queue_is_not_confused_with_one_that_ends_alike(filesystem_options: dict[str, str]) -> None:
    app = application("filesystem://", **filesystem_options)
    for queue in ("video", "big.video", "big.video", "video.big"):
        send(app, queue)
    depths = look(app, "video", "big.video").depths
    assert {name: depth.waiting for name, depth in depths.items()} == {"video": 1, "big.video": 2}


def test_a_message_folder_that_is_gone_is_unknown_and_not_zero(filesystem_options: dict[str, str]) -> None:
    Path(filesystem_options["data_folder_in"]).rmdir()
    with pytest.raises(DemandUnknown, match="No such file or directory"):
        look(application("filesystem://", **filesystem_options), "any")


def test_own_table_names_are_honoured(sqlite_url: str) -> None:
    # kombu keeps its tables' classes for the whole process, so the names are those every test here uses
    app = application(sqlite_url, queue_tablename="kombu_queue", message_tablename="kombu_message")
    send(app, "busy", 2)
    assert waiting(app, "busy") == 2


# -- silence, refusal, return -----------------------------------------------------------------------------------------


@pytest.fixture(params=["redis_server", "rabbit_server", "moto_server"])
def server(request: pytest.FixtureRequest) -> Server:
    """A server that may be paused, stopped and started again."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def on(server: Server) -> Celery:
    if isinstance(server, MotoServer):
        return application(server.sqs_broker_url, region="eu-central-1", is_secure=False)
    return application(server.url)


def test_a_broker_that_falls_silent_is_unknown_in_bounded_time_and_read_again_once_it_answers(
    server: Server, unique_name: Name
) -> None:
    app, queue = on(server), unique_name("busy")
    send(app, queue, 2)
    with watched(app, timeout=TIMEOUT) as connection:
        wait_until(lambda: measure(connection, [queue]).depths[queue].waiting == 2, what="two messages waiting")
        with server.paused():
            for _ in ("while connected", "while it cannot connect"):
                assert isinstance(must_return(lambda: measure(connection, [queue])), DemandUnknown)
        assert measure(connection, [queue]).depths[queue].waiting == 2


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_question(server: Server, unique_name: Name) -> None:
    app, full, empty = on(server), unique_name("full"), unique_name("empty")
    send(app, full, 2)
    with watched(app, timeout=TIMEOUT) as connection:
        wait_until(lambda: measure(connection, [full]).depths[full].waiting == 2, what="two messages waiting")
        with server.paused():
            assert isinstance(must_return(lambda: measure(connection, [full])), DemandUnknown)
        assert measure(connection, [empty]).depths[empty].waiting == 0


def test_a_broker_silent_from_the_start_is_unknown_in_bounded_time(server: Server) -> None:
    with watched(on(server), timeout=TIMEOUT) as connection, server.paused():
        assert isinstance(must_return(lambda: measure(connection, ["any"])), DemandUnknown)


def test_a_silent_broker_does_not_keep_the_connection_from_closing(server: Server) -> None:
    connection: Any = open_connection(on(server), timeout=TIMEOUT)
    measure(connection, ["any"])
    with server.paused():
        assert must_return(connection.close) is None


def test_a_broker_that_refuses_is_unknown_and_read_again_once_it_is_back(server: Server, unique_name: Name) -> None:
    app, queue = on(server), unique_name("reborn")
    with watched(app) as connection:
        measure(connection, [queue])
        server.stop()
        try:
            for _ in ("the open socket", "a new one"):
                assert isinstance(must_return(lambda: measure(connection, [queue])), DemandUnknown)
        finally:
            server.start()
        assert measure(connection, [queue]).depths[queue].waiting == 0


def test_a_broker_restarted_between_two_looks_costs_at_most_one_of_them(server: Server, unique_name: Name) -> None:
    app, queue = on(server), unique_name("restarted")
    with watched(app) as connection:
        measure(connection, [queue])
        server.restart()
        assert isinstance(must_return(lambda: measure(connection, [queue])), DemandUnknown | None)
        assert measure(connection, [queue]).depths[queue].waiting == 0


def test_the_second_broker_of_a_failover_list_is_asked_when_the_first_refuses(redis_url: str) -> None:
    app = application(f"redis://127.0.0.1:1/0;{redis_url}")
    send(application(redis_url), "busy", 2)
    assert waiting(app, "busy") == 2


def test_the_oldest_message_tells_when_it_was_published_where_its_publisher_wrote_it_down(redis_url: str) -> None:
    app = application(redis_url)
    with watched(app) as connection:
        for queue, priority, at in [("a", 0, 50.0), ("a", 0, 60.0), ("a", 9, 40.0), ("b", 0, None), ("b", 0, 7.0)]:
            told = {} if at is None else {"published_at": at}
            app.send_task("any", queue=queue, priority=priority, **told)
        assert published(connection, ["a", "b", "missing"]) == {"a": 40.0}
        assert measure(connection, ["a"]).depths["a"].waiting == 3


@pytest.mark.parametrize(
    "message", [b'{"properties": {"published_at": 1' + b"0" * 400 + b"}}", b"[" * 200_000, b"[]", b"\xff"]
)
def test_a_message_of_nobody_knows_whom_tells_no_moment_and_hides_no_other(redis_url: str, message: bytes) -> None:
    app = application(redis_url)
    with watched(app) as connection:
        app.send_task("any", queue="a", published_at=50.0)
        channel(connection).client.lpush("b", message)
        assert published(connection, ["a", "b"]) == {"a": 50.0}


def test_who_may_not_look_at_messages_keeps_the_connection(redis_url: str) -> None:
    app = application(redis_url)
    send(app, "a", 1)
    with watched(app) as connection:
        client = channel(connection).client
        client.acl_setuser(
            "blind", enabled=True, passwords=["+word"], categories=["+@all"], commands=["-lindex"], keys=["*"]
        )
        with watched(application(redis_url.replace("redis://", "redis://blind:word@"))) as theirs:
            assert measure(theirs, ["a"]).depths["a"].waiting == 1
            before = channel(theirs)
            with pytest.raises(DemandUnknown, match="lindex"):
                published(theirs, ["a"])
            assert channel(theirs) is before
            assert measure(theirs, ["a"]).depths["a"].waiting == 1


def test_a_broker_that_shows_no_message_tells_no_moment(rabbit_url: str, unique_name: Callable[[str], str]) -> None:
    queue = unique_name("oldest")
    app = application(rabbit_url)
    app.send_task("any", queue=queue, published_at=1.0)
    with watched(app) as connection:
        assert published(connection, [queue]) == {}


def test_a_wrong_password_is_unknown_and_never_printed() -> None:
    for locked in serve(lambda: RedisServer(password="right")):
        with pytest.raises(DemandUnknown) as caught:
            look(application(f"redis://:wr0ng-s3cret@127.0.0.1:{locked.port}/0"), "any")
        assert str(caught.value).startswith(f"redis://:**@127.0.0.1:{locked.port}/0: AuthenticationError")
        assert "wr0ng" not in str(caught.value)
        assert look(application(locked.url), "any").depths == {"any": Depth(waiting=0)}


def test_a_user_rabbitmq_refuses_is_unknown_and_the_password_never_printed(rabbit_server: RabbitServer) -> None:
    with pytest.raises(DemandUnknown) as caught:
        look(application(f"amqp://guest:wr0ng-s3cret@127.0.0.1:{rabbit_server.port}//"), "any")
    assert str(caught.value).startswith(f"amqp://guest:**@127.0.0.1:{rabbit_server.port}//: AccessRefused")
    assert "wr0ng" not in str(caught.value)
