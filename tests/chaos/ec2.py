"""What does EC2 answer, inside this process and on a virtual clock?

Requests come through real botocore clients: what they validate and serialise is what is read here. Answers go back as
botocore would have parsed them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

import boto3.session
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError

from celery_flame_ec2.backends.ec2.clients import Clients, Place
from tests.box.conditions import Conditions, Offer
from tests.box.wire import Refusal

CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
RUNS = frozenset({"pending", "running"})  #: what costs money
IMAGE = "ami-00000001"
ENDPOINT = "http://127.0.0.1:9"
READ_TIMEOUT = 20.0  #: seconds a caller waits for an answer that does not come
USER_DATA_LIMIT = 16384  #: bytes before base64


@dataclass(kw_only=True, slots=True)
class Instance:
    """One instance as it is, whatever a listing shows of it."""

    id: str
    state: str
    launched_at: float
    offer: Offer
    tags: Mapping[str, str]
    token: str = ""
    asked: int = 0  #: the MaxCount of its launch
    shutdown_behaviour: str = "stop"
    reason: tuple[str, str] | None = None
    shown_before: str = "running"
    console: str = ""

    @property
    def pool(self) -> str:
        return self.tags.get("flame:pool", "")


@dataclass(kw_only=True, slots=True)
class Launch:
    """What came of the first request with a token in one zone."""

    body: Mapping[str, Any]
    most: int
    ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request as it arrived: who sent it, when, and what came of it."""

    at: float
    caller: str
    action: str
    body: Mapping[str, Any]


class Around(Protocol):
    """What happens to a request on its way to EC2 and to its answer on the way back; may raise anything."""

    def sent(self, action: str, body: Mapping[str, Any]) -> None: ...

    def answered(self, action: str, body: Mapping[str, Any]) -> None: ...


class Lost(Exception):
    """Raised where a request or its answer gets lost."""


@dataclass(kw_only=True, slots=True)
class Answer:
    """The part of an HTTP response that botocore looks at."""

    status_code: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class VirtualEc2:
    """EC2's truth about one region, and its conditions. `around` meets every request first and every answer last."""

    def __init__(
        self, clock: Callable[[], float], *, zones: Mapping[str, str], vcpus: Mapping[str, int], around: Around
    ) -> None:
        self.clock, self.zones, self.vcpus = clock, zones, vcpus
        self.conditions = Conditions(clock)
        self.instances: dict[str, Instance] = {}
        self.launches: dict[tuple[str, str], Launch] = {}
        self.calls: list[Call] = []
        #: Instances in one page of a listing, and the page from which on no listing is answered.
        self.page_size = 3
        self.fails_from_page: int | None = None
        #: What the next calls of an action are refused with.
        self.refusals: dict[str, list[Refusal]] = {}
        #: Called for each instance that came to be, and for each that is told to end.
        self.on_launch: Callable[[Instance], None] = _nothing
        self.on_terminate: Callable[[Instance], None] = _nothing
        self._around = around
        self._count = 0

    def place(self, tags: Mapping[str, str], *, market: str = "on-demand", kind: str = "c7i.large") -> Instance:
        """Have an instance that was not launched by a call here."""
        subnet, zone = next(iter(self.zones.items()))
        offer = Offer(market=market, instance_type=kind, zone=zone, subnet_id=subnet)
        instance = Instance(id=self._id(), state="running", launched_at=self.clock(), offer=offer, tags=tags)
        self.instances[instance.id] = instance
        return instance

    def running(self, owner: str, pool: str) -> list[Instance]:
        """Return what lives and costs money of one pool, listed or not."""
        return [
            each for each in self.instances.values()
            if each.state in RUNS and each.pool == pool and each.tags.get("flame:owner") == owner
        ]  # fmt: skip

    def change(self, instance: Instance, state: str, reason: tuple[str, str] | None = None) -> None:
        """Bring an instance into a state; an end is told to the conditions."""
        if instance.state == "terminated":
            return
        instance.shown_before, instance.state = instance.state, state
        instance.reason = reason or instance.reason
        if state == "terminated":
            self.conditions.ended(instance.id)

    def handle(self, caller: str, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one request.

        Raises:
            Refusal: EC2 says no.
            Lost: there is no answer; the request may have been done.
        """
        self.calls.append(Call(at=self.clock(), caller=caller, action=action, body=body))
        self._around.sent(action, body)
        try:
            return self._done(action, body)
        finally:
            self._around.answered(action, body)

    def _done(self, action: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self._throttle(action, body)
        if refusals := self.refusals.get(action):
            raise refusals.pop(0)
        answer: dict[str, Any] = getattr(self, f"_{action}")(body)
        return answer

    def _throttle(self, action: str, body: Mapping[str, Any]) -> None:
        ids = sum(name.startswith("InstanceId.") for name in body)
        filtered = "MaxResults" in body or any(name.startswith("Filter.") for name in body)
        self.conditions.admit(action, resources=int(body.get("MaxCount", ids or 1)), filtered=filtered)

    # launch

    def _RunInstances(self, body: Mapping[str, Any]) -> dict[str, Any]:
        least, most = int(body["MinCount"]), int(body["MaxCount"])
        offer = self._offer(body)
        _check(body, least, most)
        if body.get("DryRun") == "true":
            raise Refusal("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        key = (body["ClientToken"], offer.zone)
        if key in self.launches:
            return self._again(self.launches[key], body)
        granted = self.conditions.grant(offer, least=least, most=most)
        made = [self._new(body, offer) for _ in range(granted)]
        self.instances.update((each.id, each) for each in made)
        self.conditions.launched([each.id for each in made], offer)
        self.launches[key] = Launch(body=body, most=most, ids=tuple(each.id for each in made))
        for each in made:
            self.on_launch(each)
        return {"Instances": [self._described(each, each.state) for each in made]}

    def _again(self, launch: Launch, body: Mapping[str, Any]) -> dict[str, Any]:
        if launch.body != body:
            raise Refusal("IdempotentParameterMismatch", "The client token was used with other parameters before")
        found = [self.instances[one] for one in launch.ids]
        if all(each.state in {"shutting-down", "terminated"} for each in found):
            raise Refusal("IdempotentInstanceTerminated", "The instance launched with this client token is terminated")
        return {"Instances": [self._described(each, each.state) for each in found]}

    def _offer(self, body: Mapping[str, Any]) -> Offer:
        subnet = body.get("SubnetId") or body.get("NetworkInterface.1.SubnetId") or ""
        if subnet and subnet not in self.zones:
            raise Refusal("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        return Offer(
            market=body.get("InstanceMarketOptions.MarketType", "on-demand"),
            instance_type=body.get("InstanceType", "m1.small"),
            zone=self.zones.get(subnet, body.get("Placement.AvailabilityZone", "")),
            subnet_id=subnet,
        )

    def _new(self, body: Mapping[str, Any], offer: Offer) -> Instance:
        return Instance(
            id=self._id(), state="pending", launched_at=self.clock(), offer=offer, tags=_tags(body),
            token=body["ClientToken"], asked=int(body["MaxCount"]),
            shutdown_behaviour=body.get("InstanceInitiatedShutdownBehavior", "stop"),
        )  # fmt: skip

    def _id(self) -> str:
        self._count += 1
        return f"i-{self._count:017x}"

    # listing

    def _DescribeInstances(self, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted = _numbered(body, "InstanceId.")
        found = [(each, self._shown(each)) for each in self.instances.values() if self.conditions.lists(each.id)]
        if wanted:
            self._must_exist(wanted)
            found = [(each, state) for each, state in found if each.id in wanted]
        filters = _filters(body)
        found = [(each, state) for each, state in found if all(_matches(each, state, *one) for one in filters)]
        return self._page(found, str(body.get("NextToken", "0 ")), paged="MaxResults" in body)

    def _page(self, found: list[tuple[Instance, str]], token: str, *, paged: bool) -> dict[str, Any]:
        # A token says after which instance to go on: one that ends between two pages must hide no other.
        number, last = token.split(" ")
        if self.fails_from_page is not None and int(number) >= self.fails_from_page:
            raise Refusal("RequestLimitExceeded", "Request limit exceeded.", 503)
        left = [(each, state) for each, state in found if each.id > last]
        page = left[: self.page_size] if paged else left
        answer: dict[str, Any] = {"Reservations": [{"Instances": [self._described(*one)]} for one in page]}
        return {**answer, "NextToken": f"{int(number) + 1} {page[-1][0].id}"} if len(page) < len(left) else answer

    def _shown(self, instance: Instance) -> str:
        ended = instance.state == "terminated" and not self.conditions.lists_end(instance.id)
        return instance.shown_before if ended else instance.state

    def _described(self, instance: Instance, state: str) -> dict[str, Any]:
        described: dict[str, Any] = {
            "InstanceId": instance.id,
            "ClientToken": instance.token,
            "InstanceType": instance.offer.instance_type,
            "LaunchTime": datetime.fromtimestamp(instance.launched_at, timezone.utc),
            "Placement": {"AvailabilityZone": instance.offer.zone},
            "SubnetId": instance.offer.subnet_id,
            "State": {"Code": CODES[state], "Name": state},
            "Tags": [{"Key": key, "Value": value} for key, value in instance.tags.items()],
        }
        if instance.offer.market == "spot":
            described["InstanceLifecycle"] = "spot"
        if instance.reason and state == instance.state:
            described["StateReason"] = dict(zip(("Code", "Message"), instance.reason, strict=True))
        return described

    # end

    def _TerminateInstances(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ids = _numbered(body, "InstanceId.")
        self._must_exist(ids)
        for one in ids:
            self.on_terminate(self.instances[one])
        return {"TerminatingInstances": [{"InstanceId": one} for one in ids]}

    def _must_exist(self, ids: list[str]) -> None:
        missing = [one for one in ids if one not in self.instances or not self.conditions.lists(one)]
        if missing:
            raise Refusal("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(missing)}' do not exist")

    # what a launch is made of

    def _DescribeImages(self, body: Mapping[str, Any]) -> dict[str, Any]:
        disk = {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 8}}
        image = {
            "ImageId": IMAGE, "RootDeviceName": "/dev/xvda", "RootDeviceType": "ebs", "State": "available",
            "Architecture": "x86_64", "BlockDeviceMappings": [disk],
        }  # fmt: skip
        return {"Images": [image]}

    def _DescribeInstanceTypes(self, body: Mapping[str, Any]) -> dict[str, Any]:
        kinds = _numbered(body, "InstanceType.")
        return {
            "InstanceTypes": [{"InstanceType": one, "VCpuInfo": {"DefaultVCpus": self.vcpus[one]}} for one in kinds]
        }

    def _DescribeSubnets(self, body: Mapping[str, Any]) -> dict[str, Any]:
        free = self.conditions.addresses
        subnets = [
            {
                "SubnetId": one,
                "AvailabilityZone": zone,
                "AvailableIpAddressCount": free.get(one, 4091),
                "VpcId": "vpc-1",
            }
            for one, zone in self.zones.items()
        ]
        named = [one for name, values in _filters(body) if name == "subnet-id" for one in values]
        wanted = _numbered(body, "SubnetId.") + named
        return {"Subnets": [each for each in subnets if each["SubnetId"] in wanted]}

    def _GetConsoleOutput(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._must_exist([body["InstanceId"]])
        return {"InstanceId": body["InstanceId"], "Output": self.instances[body["InstanceId"]].console}


class Wire:
    """botocore clients, built once, that reach whatever EC2 is behind them now, as whoever calls now."""

    def __init__(self) -> None:
        self.ec2: VirtualEc2 | None = None
        self.callers: list[str] = []
        session = boto3.session.Session("testing", "testing", region_name="eu-central-1")
        # with a name of its own a call need not describe this machine, which takes a third of its time
        config = Config(retries={"total_max_attempts": 1}, user_agent="chaos")
        make: Any = session.client
        self.client: Any = make("ec2", endpoint_url=ENDPOINT, config=config)
        self.client.meta.events.register("before-call.ec2", self._call)

    def _call(self, model: Any, params: Mapping[str, Any], **_: Any) -> tuple[Answer, dict[str, Any]]:
        if self.ec2 is None:
            raise RuntimeError("no EC2 is behind this client")
        try:
            caller = self.callers[-1] if self.callers else ""
            return Answer(), self.ec2.handle(caller, model.name, params["body"])
        except Refusal as refused:
            error = {"Code": refused.refuse.code, "Message": refused.refuse.message}
            status = refused.refuse.status
            return Answer(status_code=status), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}
        except Lost as exc:
            raise ReadTimeoutError(endpoint_url=ENDPOINT) from exc


@functools.cache
def wire() -> Wire:
    """Return the one way to EC2 of this process: reading botocore's model takes most of a second."""
    return Wire()


class Shelf:
    """S3 with one bundle that never changes."""

    def head_object(self, **_: Any) -> dict[str, Any]:
        return {"ETag": '"tag"'}


class VirtualClients(Clients):
    """What the backend asks for clients."""

    def region(self) -> str | None:
        return "eu-central-1"

    def launching(self, place: Place) -> Any:
        return wire().client

    def ec2(self, place: Place) -> Any:
        return wire().client

    def s3(self, place: Place) -> Any:
        return Shelf()

    def renew(self) -> None:
        """There are no other credentials here."""

    def close(self) -> None:
        """Leave the shared client open."""


def _nothing(_: Instance) -> None:
    return


def _check(body: Mapping[str, Any], least: int, most: int) -> None:
    if not 1 <= least <= most:
        raise Refusal("InvalidParameterValue", f"MinCount {least}, MaxCount {most}: not 1 <= MinCount <= MaxCount")
    if body.get("ImageId") != IMAGE:
        raise Refusal("InvalidAMIID.NotFound", f"The image id '[{body.get('ImageId')}]' does not exist")
    if len(body.get("UserData", "")) * 3 // 4 > USER_DATA_LIMIT:
        raise Refusal("InvalidUserData.Malformed", f"User data is limited to {USER_DATA_LIMIT} bytes")


def _numbered(body: Mapping[str, Any], prefix: str) -> list[str]:
    return [value for name, value in body.items() if name.startswith(prefix)]


def _tags(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that instances get, of all that the request tags."""
    found: dict[str, str] = {}
    for number in range(1, 9):
        start = f"TagSpecification.{number}."
        if body.get(f"{start}ResourceType") == "instance":
            keys = [name for name in body if name.startswith(f"{start}Tag.") and name.endswith(".Key")]
            found.update((body[name], body[name.removesuffix("Key") + "Value"]) for name in keys)
    return found


def _filters(body: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    numbers = [name.split(".")[1] for name in body if name.startswith("Filter.") and name.endswith(".Name")]
    return [(body[f"Filter.{one}.Name"], _numbered(body, f"Filter.{one}.Value.")) for one in numbers]


def _matches(instance: Instance, state: str, name: str, values: list[str]) -> bool:
    if name.startswith("tag:"):
        return instance.tags.get(name.removeprefix("tag:")) in values
    known = {"instance-state-name": state, "client-token": instance.token, "instance-id": instance.id}
    if name not in known:
        raise Refusal("InvalidParameterValue", f"The filter '{name}' is invalid")
    return known[name] in values
