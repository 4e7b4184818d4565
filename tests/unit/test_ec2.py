from __future__ import annotations

import dataclasses
import functools
import logging
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber

from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.backends.ec2.clients import Clients, Place
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings
from celery_flame_ec2.errors import BackendError, LaunchError, LaunchUnclear, LeaseError
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Launch, RunnerState
from celery_flame_ec2.testing.clock import Clock

NOW = 1_750_000_000.0
OWNER = "shop@redis/0"
OPTIONS: dict[str, Any] = {
    "app": "shop",
    "s3_bundle_url": "s3://releases/shop.tar.gz",
    "region": "eu-west-1",
    "image_id": "ami-00000001",
    "subnet_id": ("subnet-00000001",),
    "security_group_id": ("sg-00000001",),
    "instance_type": ("c7i.large",),
}
LETTER = Parent(owner=OWNER, pool="video", backend="ec2", queues=("video",), concurrency=2)


@functools.cache
def session() -> boto3.session.Session:
    """Return a session whose loaded models every test shares: reading EC2's takes most of a second."""
    return boto3.session.Session("testing", "testing", region_name="eu-west-1")


class Shelf:
    """S3 with one bundle, whose answer a test may change."""

    def __init__(self) -> None:
        self.head: dict[str, Any] | Exception = {"ETag": '"tag"'}
        self.asked: list[dict[str, Any]] = []

    def head_object(self, **words: Any) -> dict[str, Any]:
        self.asked.append(words)
        if isinstance(self.head, Exception):
            raise self.head
        return self.head


class StubbedClients(Clients):
    """Clients that answer what a test laid down, in its order, and check each request against AWS's model."""

    def __init__(self, region: str | None = "eu-west-1") -> None:
        super().__init__()
        self.places: list[Place] = []
        self._region = region
        self.renewals = 0
        self.shelf = Shelf()
        self.stubs = {name: Stubber(self._stub(name)) for name in ("launching", "ec2", "ssm")}
        for stub in self.stubs.values():
            stub.activate()

    def _stub(self, name: str) -> Any:
        make: Any = session().client
        return make("ssm" if name == "ssm" else "ec2", config=Config(retries={"total_max_attempts": 1}))

    def region(self) -> str | None:
        return self._region

    def renew(self) -> None:
        self.renewals += 1

    def launching(self, place: Place) -> Any:
        self.places.append(place)
        return self.stubs["launching"].client

    def ec2(self, place: Place) -> Any:
        self.places.append(place)
        return self.stubs["ec2"].client

    def s3(self, place: Place) -> Any:
        return self.shelf

    def ssm(self, place: Place) -> Any:
        return self.stubs["ssm"].client


@pytest.fixture
def clients() -> Iterator[StubbedClients]:
    clients = StubbedClients()
    yield clients
    for stub in clients.stubs.values():
        stub.assert_no_pending_responses()


def backend(clients: Clients, ticks: Clock | None = None, **options: Any) -> Ec2Backend:
    pool = PoolSettings(name="video", queues=("video",), ec2=Ec2Options(**{**OPTIONS, **options}))
    settings = Settings(backend="ec2", owner=OWNER, pools=(pool,))
    ticks, environ = ticks or Clock(), {"AWS_EC2_METADATA_DISABLED": "true"}

    def clock() -> float:
        return NOW + ticks.now - Clock().now

    return Ec2Backend(settings, environ=environ, clock=clock, ticks=ticks, jitter=lambda: 0.5, clients=clients)


def instance(number: int, **changes: Any) -> dict[str, Any]:
    tags = {"flame:owner": OWNER, "flame:pool": "video", "flame:deadline": "1750009999", "flame:warm": "false"}
    plain = {
        "InstanceId": f"i-{number:08x}",
        "State": {"Code": 16, "Name": "running"},
        "LaunchTime": datetime.fromtimestamp(NOW, timezone.utc),
        "InstanceType": "c7i.large",
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    return plain | changes


def image_is_known(clients: StubbedClients, image: str = "ami-00000001") -> None:
    answer = {"Images": [{"ImageId": image, "RootDeviceName": "/dev/xvda", "RootDeviceType": "ebs"}]}
    clients.stubs["ec2"].add_response("describe_images", answer, {"ImageIds": [image]})


def ground_is_known(clients: StubbedClients, image: str = "ami-00000001", *subnets: str) -> None:
    """Answer what is looked up for a recipe: the image, and the subnets' zones, eu-west-1a first."""
    image_is_known(clients, image)
    ids = sorted(subnets or OPTIONS["subnet_id"])
    found = [{"SubnetId": one, "AvailabilityZone": f"eu-west-1{'abc'[at]}"} for at, one in enumerate(ids)]
    filters = {"Filters": [{"Name": "subnet-id", "Values": ids}]}
    clients.stubs["ec2"].add_response("describe_subnets", {"Subnets": found}, filters)


class Requests:
    """The RunInstances requests that were sent, in order."""

    def __init__(self, clients: StubbedClients) -> None:
        self.sent: list[dict[str, Any]] = []
        self._stub = clients.stubs["launching"]
        self._stub.client.meta.events.register("provide-client-params.ec2.RunInstances", self._note)

    def _note(self, params: dict[str, Any], **_: Any) -> None:
        self.sent.append(dict(params))

    def give(self, *numbers: int) -> None:
        self._stub.add_response("run_instances", {"Instances": [instance(number) for number in numbers]})

    def refuse(self, code: str, message: str = "no", status: int = 400) -> None:
        self._stub.add_client_error("run_instances", code, message, status)

    def fail(self, exc: Exception, *, times: int = 1) -> None:
        """Have the SDK raise this instead of asking, before any answer that was laid down."""
        left = [exc] * times

        def raise_it(**_: Any) -> None:
            if left:
                raise left.pop()

        self._stub.client.meta.events.register("provide-client-params.ec2.RunInstances", raise_it)


@pytest.fixture
def requests(clients: StubbedClients) -> Requests:
    return Requests(clients)


def test_a_launch_gives_the_runners_with_what_their_tags_will_say(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(1, 2)
    runners = backend(clients).launch(LETTER, 2)
    assert [runner.id for runner in runners] == ["i-00000001", "i-00000002"]
    assert {runner.pool for runner in runners} == {"video"}
    assert {runner.state for runner in runners} == {RunnerState.BOOTING}
    assert all(runner.deadline and runner.deadline > NOW + LETTER.limits.max_lifetime for runner in runners)
    (request,) = requests.sent
    assert (request["MinCount"], request["MaxCount"]) == (1, 2)
    assert request["BlockDeviceMappings"][0]["DeviceName"] == "/dev/xvda"


def test_a_launch_of_none_asks_nothing(clients: StubbedClients, requests: Requests) -> None:
    assert backend(clients).launch(LETTER, 0) == ()
    assert requests.sent == []


def test_a_second_launch_looks_nothing_up_again(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(1)
    requests.give(2)
    one = backend(clients)
    one.launch(LETTER, 1)
    one.launch(LETTER, 1)
    tokens = {request["ClientToken"] for request in requests.sent}
    assert len(tokens) == 2


def test_a_refusal_for_want_of_capacity_goes_to_the_next_rung_with_a_token_of_its_own(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.refuse("MaxSpotInstanceCountExceeded")
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.give(1)
    options = {"market": ("spot", "on-demand"), "instance_type": ("c7i.large", "c6i.large")}
    assert len(backend(clients, **options).launch(LETTER, 1)) == 1
    asked = [("InstanceMarketOptions" in request, request["InstanceType"]) for request in requests.sent]
    assert asked == [(True, "c7i.large"), (True, "c6i.large"), (False, "c7i.large"), (False, "c6i.large")]
    assert len({request["ClientToken"] for request in requests.sent}) == 4


def test_a_partial_answer_asks_the_next_rung_for_the_rest(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(1, 2)
    requests.give(3)
    options = {"instance_type": ("c7i.large", "c6i.large")}
    assert len(backend(clients, **options).launch(LETTER, 3)) == 3
    assert [request["MaxCount"] for request in requests.sent] == [3, 1]


def test_fewer_than_asked_is_told_and_is_no_error(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    ground_is_known(clients)
    requests.give(1)
    requests.refuse("VcpuLimitExceeded", "You have requested more vCPU capacity than your limit")
    options = {"instance_type": ("c7i.large", "c6i.large")}
    assert len(backend(clients, **options).launch(LETTER, 5)) == 1
    assert "pool video: 1 of 5 launched: ec2:RunInstances: VcpuLimitExceeded" in caplog.text


def test_when_every_rung_is_refused_the_error_names_each_and_what_to_do(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InsufficientInstanceCapacity", "no c7i here", 500)
    requests.refuse("VcpuLimitExceeded", "limit of 0")
    with pytest.raises(LaunchError) as failure:
        backend(clients, market=("spot", "on-demand")).launch(LETTER, 1)
    assert str(failure.value) == (
        "ec2:RunInstances: VcpuLimitExceeded: limit of 0; ask AWS for a higher quota, or lower the "
        "pool's 'max' (asked for on-demand c7i.large subnet-00000001); before that spot c7i.large subnet-00000001: "
        "InsufficientInstanceCapacity"
    )
    assert failure.value.kind == "quota"


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("UnauthorizedOperation", 403, "allow ec2:RunInstances"),
        ("InvalidSubnetID.NotFound", 400, "option 'subnet_id'"),
    ],
)
def test_any_other_refusal_ends_the_launch_with_one_line(
    clients: StubbedClients, requests: Requests, code: str, status: int, words: str
) -> None:
    ground_is_known(clients)
    requests.refuse(code, status=status)
    with pytest.raises(LaunchError, match=words) as failure:
        backend(clients, market=("spot", "on-demand")).launch(LETTER, 1)
    assert code in str(failure.value)
    assert failure.value.kind == "refused"
    assert "\n" not in str(failure.value)
    assert len(requests.sent) == 1


def test_an_unclear_answer_is_asked_for_again_with_the_very_same_request(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.give(1)
    assert len(backend(clients).launch(LETTER, 1)) == 1
    first, second = requests.sent
    assert first == second


def unclear(backend: Ec2Backend, count: int) -> LaunchUnclear:
    with pytest.raises(LaunchUnclear, match=f"a launch of up to {count} may have happened") as failure:
        backend.launch(LETTER, count)
    return failure.value


def test_two_unclear_answers_leave_it_unknown_and_stop_the_ladder(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.refuse("Unavailable", status=503)
    failure = unclear(backend(clients, market=("spot", "on-demand")), 3)
    assert failure.tokens == (requests.sent[0]["ClientToken"],)
    assert failure.launched == ()
    assert len(requests.sent) == 2


LOST = [
    ReadTimeoutError(endpoint_url="https://ec2.eu-west-1.amazonaws.com/"),
    ConnectionClosedError(endpoint_url="https://ec2.eu-west-1.amazonaws.com/"),
    ResponseParserError("Unable to parse response, invalid XML received"),
]
NEVER_SENT = [
    ConnectTimeoutError(endpoint_url="https://ec2.eu-west-1.amazonaws.com/"),
    EndpointConnectionError(endpoint_url="https://ec2.eu-west-1.amazonaws.com/"),
]


@pytest.mark.parametrize("exc", LOST, ids=lambda exc: type(exc).__name__)
def test_a_lost_answer_leaves_it_unknown(clients: StubbedClients, requests: Requests, exc: Exception) -> None:
    ground_is_known(clients)
    requests.fail(exc, times=2)
    unclear(backend(clients), 1)
    first, second = requests.sent
    assert first == second


@pytest.mark.parametrize("exc", NEVER_SENT, ids=lambda exc: type(exc).__name__)
def test_a_connection_that_never_was_launched_nothing(
    clients: StubbedClients, requests: Requests, exc: Exception
) -> None:
    ground_is_known(clients)
    requests.fail(exc)
    with pytest.raises(LaunchError, match="no connection") as failure:
        backend(clients, market=("spot", "on-demand")).launch(LETTER, 1)
    assert (failure.value.retry_in, failure.value.kind) == (None, "unreachable")
    assert len(requests.sent) == 1


@pytest.mark.parametrize(
    "second",
    [
        "RequestLimitExceeded",
        "AuthFailure",
        ConnectTimeoutError(endpoint_url="https://ec2.eu-west-1.amazonaws.com/"),
    ],
    ids=str,
)
def test_a_no_that_says_nothing_of_the_first_request_leaves_it_unknown(
    clients: StubbedClients, requests: Requests, second: str | Exception
) -> None:
    ground_is_known(clients)
    if isinstance(second, Exception):
        requests.fail(LOST[0])
        requests.fail(second)
    else:
        requests.refuse("InternalError", status=500)
        requests.refuse(second)
    if second == "AuthFailure":
        requests.refuse(second)
    unclear(backend(clients), 1)


def test_a_refusal_of_the_same_request_means_that_the_first_did_nothing(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.give(1)
    options = {"instance_type": ("c7i.large", "c6i.large")}
    assert len(backend(clients, **options).launch(LETTER, 1)) == 1
    first, again, other = requests.sent
    assert first == again
    assert other["ClientToken"] != first["ClientToken"]


def by_token(clients: StubbedClients, token: Any, *numbers: int) -> None:
    answer = {"Reservations": [{"Instances": [instance(number)]} for number in numbers]}
    filters = [{"Name": "client-token", "Values": [token]}, LISTING["Filters"][1]]
    clients.stubs["ec2"].add_response("describe_instances", answer, {"Filters": filters})


def test_what_was_launched_before_an_unanswered_request_is_known(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(1)
    requests.refuse("InternalError", status=500)
    requests.refuse("InternalError", status=500)
    options = {"instance_type": ("c7i.large", "c6i.large")}
    with pytest.raises(LaunchUnclear, match="up to 2 may") as failure:
        backend(clients, **options).launch(LETTER, 3)
    assert [runner.id for runner in failure.value.launched] == ["i-00000001"]
    assert failure.value.tokens == (requests.sent[-1]["ClientToken"],)


def open_launch(clients: StubbedClients, requests: Requests, ticks: Clock) -> tuple[Ec2Backend, str]:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.refuse("InternalError", status=500)
    one = backend(clients, ticks)
    (token,) = unclear(one, 2).tokens
    return one, token


def test_an_open_launch_is_asked_for_again_unchanged_until_it_is_answered(
    clients: StubbedClients, requests: Requests
) -> None:
    one, token = open_launch(clients, requests, Clock())
    requests.refuse("RequestTimeout", status=503)
    with pytest.raises(LaunchUnclear) as failure:
        one.ask_again(token)
    assert failure.value.tokens == (token,)
    requests.give(1, 2)
    runners = one.ask_again(token)
    assert [(runner.id, runner.launch) for runner in runners] == [("i-00000001", token), ("i-00000002", token)]
    assert all(request == requests.sent[0] for request in requests.sent)
    assert len(requests.sent) == 4
    assert one.ask_again(token) is None


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "VcpuLimitExceeded", "IdempotentInstanceTerminated"])
def test_an_open_launch_that_is_refused_launched_nothing(
    clients: StubbedClients, requests: Requests, code: str
) -> None:
    one, token = open_launch(clients, requests, Clock())
    requests.refuse(code)
    with pytest.raises(LaunchError, match=code):
        one.ask_again(token)
    assert one.ask_again(token) is None


@pytest.mark.parametrize("code", ["IdempotentParameterMismatch", "UnauthorizedOperation"])
def test_a_no_that_need_not_have_looked_at_the_token_is_checked_against_a_listing(
    clients: StubbedClients, requests: Requests, code: str
) -> None:
    one, token = open_launch(clients, requests, Clock())
    requests.refuse(code)
    by_token(clients, token, 7)
    assert [runner.id for runner in one.ask_again(token)] == ["i-00000007"]


def test_a_listing_that_fails_leaves_the_launch_open(clients: StubbedClients, requests: Requests) -> None:
    one, token = open_launch(clients, requests, Clock())
    requests.refuse("IdempotentParameterMismatch")
    clients.stubs["ec2"].add_client_error("describe_instances", "RequestLimitExceeded", http_status_code=503)
    with pytest.raises(LaunchUnclear, match=r"IdempotentParameterMismatch.*DescribeInstances: RequestLimitExceeded"):
        one.ask_again(token)
    requests.refuse("IdempotentParameterMismatch")
    by_token(clients, token)
    with pytest.raises(LaunchError, match="IdempotentParameterMismatch"):
        one.ask_again(token)


def test_asking_again_keeps_ec2s_rate(clients: StubbedClients, requests: Requests) -> None:
    ticks = Clock()
    one, token = open_launch(clients, requests, ticks)
    for _ in range(3):
        requests.refuse("InternalError", status=500)
    for _ in range(10):
        with pytest.raises(LaunchUnclear):
            one.ask_again(token)
    assert len(requests.sent) == 5
    ticks.now += 0.5
    requests.give(1)
    assert len(one.ask_again(token)) == 1


def test_an_unknown_token_is_not_open(clients: StubbedClients, requests: Requests) -> None:
    assert backend(clients).ask_again("0123") is None


@pytest.mark.parametrize("found", [(), (1, 2)])
def test_a_token_that_something_else_has_is_looked_up(
    clients: StubbedClients, requests: Requests, found: tuple[int, ...]
) -> None:
    ground_is_known(clients)
    requests.refuse("IdempotentParameterMismatch")
    one = backend(clients)

    def look_up(**_: Any) -> None:
        by_token(clients, requests.sent[0]["ClientToken"], *found)

    clients.stubs["ec2"].client.meta.events.register("provide-client-params.ec2.DescribeInstances", look_up)
    if found:
        assert len(one.launch(LETTER, 2)) == 2
        return
    with pytest.raises(LaunchError, match="IdempotentParameterMismatch"):
        one.launch(LETTER, 2)


def test_what_is_gone_before_its_answer_came_is_tried_elsewhere_with_another_token(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.refuse("IdempotentInstanceTerminated")
    requests.give(1)
    assert len(backend(clients, market=("spot", "on-demand")).launch(LETTER, 1)) == 1
    assert len({request["ClientToken"] for request in requests.sent}) == 2


def test_each_launch_is_announced_before_it_is_sent_and_one_sent_again_is_not_new(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.give(1)
    seen: list[str | tuple[Launch, int]] = []
    one = backend(clients, market=("spot", "on-demand"))
    one.announce = lambda launch: seen.append((launch, len(requests.sent)))
    one.guard = lambda: seen.append("may I")
    one.launch(LETTER, 3)
    first, _, third = (request["ClientToken"] for request in requests.sent)
    assert seen == [
        (Launch(token=first, pool="video", count=3), 0),
        "may I",
        "may I",
        (Launch(token=third, pool="video", count=3), 2),
        "may I",
    ]


def test_what_could_not_be_announced_is_not_sent(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    one, said = backend(clients), []

    def refuse(launch: Launch) -> None:
        said.append(launch.token)
        raise LeaseError("no store")

    one.announce = refuse
    with pytest.raises(LeaseError):
        one.launch(LETTER, 1)
    assert requests.sent == []
    assert one.ask_again(said[0]) is None


def test_what_was_launched_before_the_store_failed_is_returned(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(1, 2)
    one, said = backend(clients, instance_type=("c7i.large", "c6i.large")), []

    def fail_the_second_time(launch: Launch) -> None:
        said.append(launch.token)
        if len(said) == 2:
            raise LeaseError("no store")

    one.announce = fail_the_second_time
    assert [runner.id for runner in one.launch(LETTER, 4)] == ["i-00000001", "i-00000002"]


def test_a_parent_that_may_not_ask_again_keeps_the_launch_open(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.refuse("InternalError", status=500)
    one, asked = backend(clients), []

    def only_once() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise LeaseError("lost")

    one.guard = only_once
    with pytest.raises(LeaseError):
        one.launch(LETTER, 1)
    requests.give(1)
    assert len(one.ask_again(requests.sent[0]["ClientToken"])) == 1


def test_a_hundred_are_asked_for_at_a_time(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.give(*range(1, 101))
    requests.give(*range(101, 201))
    requests.give(*range(201, 251))
    assert len(backend(clients).launch(LETTER, 250)) == 250
    assert [request["MaxCount"] for request in requests.sent] == [100, 100, 50]
    assert len({request["ClientToken"] for request in requests.sent}) == 3


def test_what_ec2s_rate_does_not_allow_now_is_left_for_later(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    ground_is_known(clients)
    ticks = Clock()
    for start in range(0, 500, 100):
        requests.give(*range(start, start + 100))
    one = backend(clients, ticks)
    assert len(one.launch(LETTER, 1000)) == 500
    assert "500 of 1000 launched: EC2's rate allows the next request in 0.5 s" in caplog.text
    assert one.launch(LETTER, 500) == (), "nothing failed: the next round asks again"
    ticks.now += 0.5
    requests.give(*range(500, 600))
    assert len(one.launch(LETTER, 500)) == 100


def test_only_what_was_launched_counts_against_ec2s_rate(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    ticks, types = Clock(), ("c7i.large", "c6i.large", "m7i.large", "m6i.large", "r7i.large")
    one = backend(clients, ticks, instance_type=types)
    for start in (0, 5, 10):
        for number in range(start, start + 5):
            requests.give(number)
        assert len(one.launch(LETTER, 1000)) == 5
        ticks.now += 2.5
    assert {request["MaxCount"] for request in requests.sent} == {100}


def test_when_ec2_throttles_nothing_failed_and_a_later_round_asks(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    requests.refuse("RequestLimitExceeded", status=503)
    one = backend(clients)
    assert one.launch(LETTER, 1) == ()
    assert one.launch(LETTER, 1) == (), "nothing failed, and nothing is asked for a while"
    assert len(requests.sent) == 1


def test_when_all_was_refused_lately_nothing_is_asked_until_the_first_is_free(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ground_is_known(clients)
    ticks = Clock()
    one = backend(clients, ticks, instance_type=("c7i.large", "g5.xlarge"))
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.refuse("VcpuLimitExceeded")
    with pytest.raises(LaunchError) as first:
        one.launch(LETTER, 1)
    ticks.now += 10
    with pytest.raises(LaunchError) as second:
        one.launch(LETTER, 1)
    assert (first.value.retry_in, second.value.retry_in) == (180, 170)
    assert (first.value.kind, second.value.kind) == ("quota", "capacity")
    assert str(second.value) == (
        "not asked for, as EC2 refused it lately: on-demand c7i.large in eu-west-1a until 15:09:40 UTC "
        "(InsufficientInstanceCapacity), on-demand vCPUs of G and VT types until 15:09:40 UTC (VcpuLimitExceeded)"
    )
    assert len(requests.sent) == 2
    told = [record.message for record in caplog.records if "not asked for until" in record.message]
    assert len(told) == 2
    assert told[0].startswith(
        "pool video: not asked for until 15:09:40 UTC: on-demand c7i.large in eu-west-1a; ec2:Run"
    )
    ticks.now += 170
    requests.give(1)
    assert len(one.launch(LETTER, 1)) == 1


def test_what_was_refused_lately_is_skipped_and_the_others_are_asked(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients, "ami-00000001", "subnet-00000001", "subnet-00000002")
    ticks = Clock()
    one = backend(clients, ticks, subnet_id=("subnet-00000001", "subnet-00000002"))
    requests.refuse("InsufficientInstanceCapacity", status=500)
    requests.give(1)
    requests.give(2)
    one.launch(LETTER, 1)
    one.launch(LETTER, 1)
    assert [request["SubnetId"][-1] for request in requests.sent] == ["1", "2", "2"]
    ticks.now += 180
    requests.give(3)
    one.launch(LETTER, 1)
    assert requests.sent[-1]["SubnetId"] == "subnet-00000001"


def test_what_was_to_be_had_meanwhile_is_refused_as_if_for_the_first_time(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    ticks = Clock()
    one = backend(clients, ticks)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    assert refused(one).retry_in == 180
    ticks.now += 180
    requests.give(1)
    one.launch(LETTER, 1)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    assert refused(one).retry_in == 180


def test_two_subnets_of_one_zone_share_its_want_of_capacity(clients: StubbedClients, requests: Requests) -> None:
    image_is_known(clients)
    ids = ("subnet-00000001", "subnet-00000002")
    answer = {"Subnets": [{"SubnetId": one, "AvailabilityZone": "eu-west-1a"} for one in ids]}
    clients.stubs["ec2"].add_response("describe_subnets", answer)
    requests.refuse("InsufficientInstanceCapacity", status=500)
    with pytest.raises(LaunchError):
        backend(clients, subnet_id=ids).launch(LETTER, 1)
    assert len(requests.sent) == 1


def test_who_may_not_see_subnets_launches_all_the_same_and_is_told_once(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ticks, ids = Clock(), ("subnet-00000001", "subnet-00000002")
    one = backend(clients, ticks, subnet_id=ids)
    for number in (1, 2):
        image_is_known(clients)
        clients.stubs["ec2"].add_client_error("describe_subnets", "UnauthorizedOperation", http_status_code=403)
        requests.refuse("InsufficientInstanceCapacity", status=500)
        requests.give(number)
        assert len(one.launch(LETTER, 1)) == 1
        ticks.now += 301
    assert caplog.text.count("remembered by subnet, not by zone") == 1


def test_a_subnet_that_is_gone_leaves_the_others(clients: StubbedClients, requests: Requests) -> None:
    image_is_known(clients)
    found = [{"SubnetId": "subnet-00000001", "AvailabilityZone": "eu-west-1a"}]
    clients.stubs["ec2"].add_response("describe_subnets", {"Subnets": found})
    requests.give(1)
    assert len(backend(clients, subnet_id=("subnet-00000001", "subnet-00000009")).launch(LETTER, 1)) == 1


def refused(backend: Ec2Backend) -> LaunchError:
    with pytest.raises(LaunchError) as failure:
        backend.launch(LETTER, 1)
    return failure.value


def test_a_lasting_no_stops_the_launches_for_a_minute_and_each_time_twice_as_long(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Clock()
    one = backend(clients, ticks)
    ground_is_known(clients)
    for length in (60, 120, 240):
        requests.refuse("UnauthorizedOperation", status=403)
        assert refused(one).retry_in == length
        ground_is_known(clients)  # looked at again, and unchanged
        ticks.now += length - 1
        assert refused(one).retry_in == 1
        ticks.now += 1
    assert len(requests.sent) == 3
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["launches stop for 60 s, or until a change" in record.message for record in told] == [True]


def test_a_lasting_no_is_looked_at_again_before_its_end_and_says_the_same(
    clients: StubbedClients, requests: Requests
) -> None:
    ticks = Clock()
    one, said = backend(clients, ticks), set()
    for wait in (60, 120, 240, 300):
        ground_is_known(clients)
        requests.refuse("InvalidAMIID.NotFound")
        failure = refused(one)
        said.add(str(failure))
        assert failure.retry_in == wait
        ticks.now += wait
    ground_is_known(clients)
    assert refused(one).retry_in == 180  # of 480
    assert len(said) == 1


def test_a_recipe_that_changed_is_tried_at_once(clients: StubbedClients, requests: Requests) -> None:
    one = backend(clients, image_id="resolve:ssm:/images/shop")
    for image in ("ami-00000001", "ami-00000002"):
        clients.stubs["ssm"].add_response("get_parameter", {"Parameter": {"Value": image}})
        ground_is_known(clients, image)
    requests.refuse("InvalidParameterValue", "not shared with you")
    refused(one)
    requests.give(1)
    assert len(one.launch(LETTER, 1)) == 1


def test_a_lasting_no_to_one_rung_leaves_those_before_it(clients: StubbedClients, requests: Requests) -> None:
    ticks = Clock()
    one = backend(clients, ticks, instance_type=("c7i.large", "c9x.large"))
    ground_is_known(clients)
    requests.give(1)
    requests.refuse("InvalidInstanceType")
    assert len(one.launch(LETTER, 2)) == 1
    ground_is_known(clients)
    for number in (2, 3):
        requests.give(number)
        assert len(one.launch(LETTER, 2)) == 1
    assert [request["InstanceType"][:2] for request in requests.sent] == ["c7", "c9", "c7", "c7"]


def test_a_rung_before_a_lasting_no_is_tried_when_it_is_free_again(clients: StubbedClients, requests: Requests) -> None:
    ticks = Clock()
    one = backend(clients, ticks, instance_type=("c7i.large", "c9x.large"))
    for at, free, wait in ((0, True, 60), (60, False, 120), (180, True, 240), (420, False, 120)):
        ticks.now = 1000 + at
        ground_is_known(clients)
        if free:
            requests.refuse("InsufficientInstanceCapacity", status=500)
        requests.refuse("InvalidInstanceType")
        assert refused(one).retry_in == wait


def test_one_pools_lasting_no_stops_no_other(clients: StubbedClients, requests: Requests) -> None:
    pools = tuple(PoolSettings(name=name, queues=(name,), ec2=Ec2Options(**OPTIONS)) for name in ("video", "audio"))
    settings = Settings(backend="ec2", owner=OWNER, pools=pools)
    one = Ec2Backend(settings, environ={}, ticks=Clock(), clients=clients)
    for _ in pools:
        ground_is_known(clients)
    requests.refuse("InvalidParameterCombination")
    requests.give(1)
    refused(one)
    assert len(one.launch(dataclasses.replace(LETTER, pool="audio"), 1)) == 1


def test_a_lookup_that_is_refused_for_good_is_not_repeated_with_each_try(
    clients: StubbedClients, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = Clock()
    one = backend(clients, ticks, launch_template_id="lt-00000001")
    stub = clients.stubs["ec2"]
    for length in (60, 120, 240, 300, 300):
        stub.add_client_error("describe_launch_template_versions", "InvalidLaunchTemplateId.NotFound")
        failure = refused(one)
        assert "option" in str(failure)
        assert failure.retry_in == length
        ticks.now += length - 1
        assert refused(one).retry_in == 1
        ticks.now += 1
    assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1


@pytest.mark.parametrize(
    ("code", "status", "retry_in"), [("RequestLimitExceeded", 503, 1.5), ("InternalError", 500, None)]
)
def test_a_lookup_that_fails_for_now_is_tried_again_at_once(
    clients: StubbedClients, requests: Requests, code: str, status: int, retry_in: float | None
) -> None:
    one = backend(clients)
    clients.stubs["ec2"].add_client_error("describe_images", code, http_status_code=status)
    assert refused(one).retry_in == retry_in
    ground_is_known(clients)
    requests.give(1)
    assert len(one.launch(LETTER, 1)) == 1


def test_credentials_that_are_refused_are_looked_for_again_once_and_the_same_request_is_sent(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.refuse("ExpiredToken")
    requests.give(1)
    assert len(backend(clients).launch(LETTER, 1)) == 1
    assert clients.renewals == 1
    first, second = requests.sent
    assert first == second


def test_credentials_that_are_refused_twice_stop_the_launches_but_never_for_long(
    clients: StubbedClients, requests: Requests
) -> None:
    ticks = Clock()
    one = backend(clients, ticks, market=("spot", "on-demand"))
    for length in (60, 120, 240, 300, 300):
        ground_is_known(clients)
        requests.refuse("AuthFailure", status=401)
        requests.refuse("AuthFailure", status=401)
        failure = refused(one)
        assert "AWS_ACCESS_KEY_ID" in str(failure)
        assert failure.retry_in == length
        assert refused(one).retry_in == length
        assert (failure.kind, refused(one).kind) == ("credentials", "credentials")
        ticks.now += length
    assert len(requests.sent) == 10


def test_credentials_refused_at_a_lookup_or_a_listing_are_looked_for_again(
    clients: StubbedClients, requests: Requests
) -> None:
    one, stub = backend(clients), clients.stubs["ec2"]
    stub.add_client_error("describe_images", "AuthFailure")
    ground_is_known(clients)
    requests.give(1)
    assert len(one.launch(LETTER, 1)) == 1
    stub.add_client_error("describe_instances", "ExpiredToken")
    stub.add_response("describe_instances", {"Reservations": [{"Instances": [instance(1)]}]})
    assert len(one.runners()) == 1
    assert clients.renewals == 2


def test_without_credentials_the_error_says_so(clients: StubbedClients) -> None:
    def no_credentials(**_: Any) -> None:
        raise NoCredentialsError

    clients.stubs["ec2"].client.meta.events.register("provide-client-params.ec2.DescribeInstances", no_credentials)
    with pytest.raises(BackendError, match=r"no AWS credentials .*; set AWS_ACCESS_KEY_ID"):
        backend(clients).runners()


def test_user_data_that_is_too_large_launches_nothing(clients: StubbedClients, requests: Requests) -> None:
    ground_is_known(clients)
    noise = "".join(chr(0x4E00 + (number * 7919) % 20000) for number in range(20000))
    with pytest.raises(LaunchError, match="option 'env'"):
        backend(clients, env={"NOISE": noise}).launch(LETTER, 1)
    assert requests.sent == []


def test_an_image_that_is_not_there_is_named(clients: StubbedClients, requests: Requests) -> None:
    clients.stubs["ec2"].add_response("describe_images", {"Images": []}, {"ImageIds": ["ami-00000001"]})
    with pytest.raises(LaunchError, match="there is no image ami-00000001 in this region"):
        backend(clients).launch(LETTER, 1)


def test_an_image_by_parameter_is_resolved_with_its_version(clients: StubbedClients, requests: Requests) -> None:
    parameter = {"Parameter": {"Name": "/images/shop", "Value": "ami-00000077"}}
    clients.stubs["ssm"].add_response("get_parameter", parameter, {"Name": "/images/shop:3"})
    ground_is_known(clients, "ami-00000077")
    requests.give(1)
    backend(clients, image_id="resolve:ssm:/images/shop:3").launch(LETTER, 1)
    assert requests.sent[0]["ImageId"] == "ami-00000077"


def test_a_parameter_that_cannot_be_read_is_named(clients: StubbedClients, requests: Requests) -> None:
    clients.stubs["ssm"].add_client_error("get_parameter", "ParameterNotFound", "")
    with pytest.raises(LaunchError, match="ssm:GetParameter: ParameterNotFound; check the parameter's name"):
        backend(clients, image_id="resolve:ssm:/images/shop").launch(LETTER, 1)


def test_a_template_is_described_once_and_its_own_image_is_not_sent(
    clients: StubbedClients, requests: Requests
) -> None:
    data = {"ImageId": "ami-00000002", "InstanceType": "r7i.large", "SecurityGroupIds": ["sg-00000003"]}
    versions = [{"LaunchTemplateId": "lt-00000001", "VersionNumber": 7, "LaunchTemplateData": data}]
    clients.stubs["ec2"].add_response(
        "describe_launch_template_versions",
        {"LaunchTemplateVersions": versions},
        {"LaunchTemplateId": "lt-00000001", "Versions": ["$Default"]},
    )
    image_is_known(clients, "ami-00000002")
    requests.give(1)
    nothing = {"image_id": None, "subnet_id": (), "security_group_id": (), "instance_type": ()}
    backend(clients, launch_template_id="lt-00000001", **nothing).launch(LETTER, 1)
    (request,) = requests.sent
    assert request["LaunchTemplate"] == {"LaunchTemplateId": "lt-00000001", "Version": "7"}
    assert not {"ImageId", "InstanceType", "SubnetId", "SecurityGroupIds"} & request.keys()


def test_metadata_that_does_not_answer_launches_nothing(clients: StubbedClients, requests: Requests) -> None:
    with pytest.raises(LaunchError, match="option 'auto_configure': instance metadata is disabled"):
        backend(clients, auto_configure=True).launch(LETTER, 1)


def test_without_a_region_the_error_says_what_to_set() -> None:
    with pytest.raises(BackendError, match="give option 'region', or set AWS_DEFAULT_REGION"):
        backend(StubbedClients(region=None), region=None).runners()


def test_the_users_region_goes_before_the_environments_and_the_endpoint_goes_with_it(clients: StubbedClients) -> None:
    clients.stubs["ec2"].add_response("describe_instances", {"Reservations": []})
    backend(clients, region="us-east-2", ec2_service_endpoint="http://127.0.0.1:1").runners()
    assert clients.places == [Place(region="us-east-2", endpoint="http://127.0.0.1:1")]


LISTING = {
    "Filters": [
        {"Name": "tag:flame:owner", "Values": [OWNER]},
        {
            "Name": "instance-state-name",
            "Values": ["pending", "running", "shutting-down", "stopping", "stopped"],
        },
    ],
    "MaxResults": 1000,
}


def test_the_listing_is_filtered_by_owner_and_state_and_follows_every_page(clients: StubbedClients) -> None:
    first = {"Reservations": [{"Instances": [instance(1)]}, {"Instances": [instance(2)]}], "NextToken": "more"}
    second = {"Reservations": [{"Instances": [instance(3, State={"Code": 80, "Name": "stopped"})]}]}
    clients.stubs["ec2"].add_response("describe_instances", first, LISTING)
    clients.stubs["ec2"].add_response("describe_instances", second, {**LISTING, "NextToken": "more"})
    runners = backend(clients).runners()
    assert [(runner.id[-1], runner.powered_off) for runner in runners] == [("1", False), ("2", False), ("3", True)]


def test_a_page_that_fails_makes_the_whole_listing_unknown(clients: StubbedClients) -> None:
    first = {"Reservations": [{"Instances": [instance(1)]}], "NextToken": "more"}
    clients.stubs["ec2"].add_response("describe_instances", first, LISTING)
    clients.stubs["ec2"].add_client_error("describe_instances", "RequestLimitExceeded", http_status_code=503)
    with pytest.raises(BackendError, match="ec2:DescribeInstances: RequestLimitExceeded"):
        backend(clients).runners()


def test_what_is_found_by_its_id_alone_is_asked_for_by_it_until_a_listing_shows_it(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.give(1)
    one = backend(clients)
    launched = one.launch(LETTER, 1)
    found: dict[str, Any] = {"Reservations": [{"Instances": [instance(1)]}]}
    by_id = {"Filters": [{"Name": "instance-id", "Values": ["i-00000001"]}]}
    answers = [({}, LISTING), (found, by_id), ({}, LISTING), (found, by_id), (found, LISTING), ({}, LISTING)]
    for answer, asked in answers:
        clients.stubs["ec2"].add_response("describe_instances", answer, asked)
    listings = [[runner.id for runner in one.runners()] for _ in range(4)]
    assert listings == [[launched[0].id]] * 3 + [[]]


def test_an_instance_that_only_a_wildcard_made_ours_is_not_listed(clients: StubbedClients) -> None:
    stranger = instance(1, Tags=[{"Key": "flame:owner", "Value": "shopping@redis/0"}])
    clients.stubs["ec2"].add_response("describe_instances", {"Reservations": [{"Instances": [stranger]}]})
    assert backend(clients).runners() == ()


def test_two_regions_are_listed_and_each_runner_is_ended_where_it_lives(clients: StubbedClients) -> None:
    pools = tuple(
        PoolSettings(name=name, queues=(name,), ec2=Ec2Options(**{**OPTIONS, "region": region}))
        for name, region in (("video", "eu-west-1"), ("audio", "us-east-2"))
    )
    both = Ec2Backend(Settings(backend="ec2", owner=OWNER, pools=pools), environ={}, clients=clients)
    for number in (1, 2):
        clients.stubs["ec2"].add_response("describe_instances", {"Reservations": [{"Instances": [instance(number)]}]})
    assert [runner.id for runner in both.runners()] == ["i-00000001", "i-00000002"]
    for number in (1, 2):
        clients.stubs["ec2"].add_response("terminate_instances", {}, {"InstanceIds": [f"i-0000000{number}"]})
    both.terminate(["i-00000002", "i-00000001"])
    assert [place.region for place in clients.places] == ["eu-west-1", "us-east-2"] * 2


def test_ending_nobody_asks_nothing(clients: StubbedClients) -> None:
    backend(clients).terminate([])


def test_one_bad_id_does_not_keep_the_others_alive(clients: StubbedClients) -> None:
    stub = clients.stubs["ec2"]
    stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-1"]})
    stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound", expected_params={"InstanceIds": ["i-2"]})
    stub.add_client_error("terminate_instances", "OperationNotPermitted", expected_params={"InstanceIds": ["i-3"]})
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-4"]})
    with pytest.raises(
        BackendError, match="i-3 may still run: ec2:TerminateInstances: OperationNotPermitted"
    ) as failure:
        backend(clients).terminate(["i-1", "i-2", "i-3", "i-4"])
    assert "i-2" not in str(failure.value)


def test_who_lost_the_lease_meanwhile_ends_nobody_one_by_one(clients: StubbedClients) -> None:
    stub, one, asked = clients.stubs["ec2"], backend(clients), []
    stub.add_client_error("terminate_instances", "InvalidInstanceID.NotFound")
    stub.add_response("terminate_instances", {}, {"InstanceIds": ["i-1"]})

    def twice() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise LeaseError("lost")

    one.guard = twice
    with pytest.raises(LeaseError):
        one.terminate(["i-1", "i-2"])
    stub.assert_no_pending_responses()


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "AuthFailure"])
def test_a_batch_refused_for_another_reason_is_not_tried_one_by_one(clients: StubbedClients, code: str) -> None:
    clients.stubs["ec2"].add_client_error("terminate_instances", code)
    with pytest.raises(BackendError, match="i-1, i-2 may still run"):
        backend(clients).terminate(["i-1", "i-2"])


def ended(clients: StubbedClients, reason: dict[str, str], **changes: Any) -> None:
    answer = {"Reservations": [{"Instances": [instance(1, StateReason=reason, **changes)]}]}
    clients.stubs["ec2"].add_response("describe_instances", answer, {"InstanceIds": ["i-00000001"]})


def test_last_words_are_the_reason_and_the_console(clients: StubbedClients) -> None:
    ended(clients, {"Code": "Client.InstanceInitiatedShutdown", "Message": "Instance initiated shutdown"})
    output = {"Output": "b25lCnR3byD/Cg=="}  # "one", then "two" and a byte that is no UTF-8
    clients.stubs["ec2"].add_response("get_console_output", output, {"InstanceId": "i-00000001", "Latest": True})
    assert backend(clients).last_words("i-00000001").split("\n") == [
        "EC2: Client.InstanceInitiatedShutdown: Instance initiated shutdown",
        "one",
        "two \ufffd",
    ]


def test_last_words_say_what_to_do_and_the_next_launch_goes_elsewhere(
    clients: StubbedClients, requests: Requests
) -> None:
    ground_is_known(clients)
    requests.give(1)
    requests.give(2)
    one = backend(clients, instance_type=("c7i.large", "c6i.large"))
    one.launch(LETTER, 1)
    reason = {"Code": "Server.InsufficientInstanceCapacity", "Message": "Server.InsufficientInstanceCapacity: too few"}
    ended(clients, reason, Placement={"AvailabilityZone": "eu-west-1a"})
    clients.stubs["ec2"].add_response("get_console_output", {})
    assert one.last_words("i-00000001") == (
        "EC2: Server.InsufficientInstanceCapacity: too few; "
        "give more 'instance_type', 'subnet_id' or 'market' to choose from"
    )
    one.launch(LETTER, 1)
    assert [request["InstanceType"] for request in requests.sent] == ["c7i.large", "c6i.large"]


@pytest.mark.parametrize("code", ["Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown"])
def test_a_normal_end_keeps_nobody_from_asking_again(clients: StubbedClients, requests: Requests, code: str) -> None:
    ground_is_known(clients)
    requests.give(1)
    requests.give(2)
    one = backend(clients)
    one.launch(LETTER, 1)
    ended(clients, {"Code": code, "Message": ""}, Placement={"AvailabilityZone": "eu-west-1a"})
    clients.stubs["ec2"].add_response("get_console_output", {})
    assert one.last_words("i-00000001") == f"EC2: {code}: "
    assert len(one.launch(LETTER, 1)) == 1


def test_last_words_do_without_the_latest_output_where_a_type_has_none(clients: StubbedClients) -> None:
    ended(clients, {})
    clients.stubs["ec2"].add_client_error("get_console_output", "UnsupportedOperation")
    clients.stubs["ec2"].add_response("get_console_output", {"Output": "b25lCg=="}, {"InstanceId": "i-00000001"})
    assert backend(clients).last_words("i-00000001") == "one"


def test_last_words_that_cannot_be_had_are_none_and_logged(
    clients: StubbedClients, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clients.stubs["ec2"].add_client_error("describe_instances", "InvalidInstanceID.NotFound")
    assert backend(clients).last_words("i-00000001") == ""
    assert "no last words of i-00000001" in caplog.text


def types(*counts: int) -> dict[str, Any]:
    return {"InstanceTypes": [{"VCpuInfo": {"DefaultVCpus": count}} for count in counts]}


def test_concurrency_is_the_users_word(clients: StubbedClients) -> None:
    pool = PoolSettings(name="video", queues=("video",), max_concurrency=7)
    assert backend(clients).concurrency(pool) == 7


def test_concurrency_is_else_the_vcpus_of_the_smallest_type_asked_for_once(clients: StubbedClients) -> None:
    ground_is_known(clients)
    names = {"InstanceTypes": ["c6i.xlarge", "c7i.large"]}
    clients.stubs["ec2"].add_response("describe_instance_types", types(4, 2), names)
    options = Ec2Options(**{**OPTIONS, "instance_type": ("c7i.large", "c6i.xlarge")})
    pool = PoolSettings(name="video", queues=("video",), ec2=options)
    one = backend(clients)
    assert (one.concurrency(pool), one.concurrency(pool)) == (2, 2)


def test_a_type_that_ec2_does_not_describe_is_named(clients: StubbedClients) -> None:
    ground_is_known(clients)
    clients.stubs["ec2"].add_response("describe_instance_types", types())
    one = backend(clients)
    pool = PoolSettings(name="video", queues=("video",), ec2=Ec2Options(**OPTIONS))
    with pytest.raises(BackendError, match=r"how many vCPUs c7i\.large have; set 'max_concurrency'"):
        one.concurrency(pool)


def test_run_instances_is_sent_once_and_everything_else_may_be_sent_again() -> None:
    clients, place = Clients(), Place(region="eu-west-1", endpoint="http://127.0.0.1:9")
    launching, other = clients.launching(place).meta.config, clients.ec2(place).meta.config
    assert launching.retries["total_max_attempts"] == 1
    assert other.retries["total_max_attempts"] > 1
    assert launching.read_timeout <= 30
    assert clients.ec2(place) is clients.ec2(place)
    clients.close()


def test_an_endpoint_that_is_none_is_told() -> None:
    with pytest.raises(BackendError, match="no ec2 client for region 'eu-west-1'"):
        Clients().ec2(Place(region="eu-west-1", endpoint="http://:x"))


def test_the_backend_is_imported_and_made_without_boto3() -> None:
    code = (
        "import sys; from celery_flame_ec2.backends.ec2 import Ec2Backend; "
        "from celery_flame_ec2.config import Settings; Ec2Backend(Settings(), environ={}); "
        "sys.exit([name for name in sys.modules if name.startswith(('boto3', 'botocore'))] != [])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
