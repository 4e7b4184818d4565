from __future__ import annotations

import base64
import dataclasses
import gzip
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moto.ec2.models.instances import StateReason

from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.backends.ec2.clients import Clients, Place
from celery_flame_ec2.config import Ec2Options, PoolSettings, RootVolume, Settings
from celery_flame_ec2.errors import BackendError, LaunchError, LaunchUnclear
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import RunnerState
from tests.box.cloud import Cloud
from tests.box.metadata import Identity, Metadata
from tests.waiting import wait_until

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

OWNER = "shop@redis/0"
LETTER = Parent(owner=OWNER, pool="video", backend="ec2", queues=("video",), concurrency=2)


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(one_cloud: Cloud) -> Iterator[Cloud]:
    """A cloud without instances and faults."""
    one_cloud.calls.clear()
    yield one_cloud
    one_cloud.heal()
    for instance in instances(one_cloud):
        one_cloud.client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])


class Clock:
    """Seconds that pass when a test says so, beside those that pass anyway."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.skipped


def backend(
    cloud: Cloud, clients: Clients | None = None, ticks: Callable[[], float] = time.monotonic, **options: Any
) -> Ec2Backend:
    plain = {
        "app": "shop",
        "s3_bundle_url": cloud.bundle_url,
        "s3_service_endpoint": cloud.endpoint,
        "region": cloud.region,
        "ec2_service_endpoint": cloud.endpoint,
        "image_id": cloud.image_id,
        "subnet_id": (cloud.subnet_id,),
        "security_group_id": (cloud.security_group_id,),
        "instance_type": ("t3.micro",),
    }
    pool = PoolSettings(name="video", queues=("video",), ec2=Ec2Options(**{**plain, **options}))
    settings = Settings(backend="ec2", owner=OWNER, pools=(pool,))
    return Ec2Backend(settings, environ=cloud.environment(), clients=clients, ticks=ticks)


def instances(cloud: Cloud) -> list[dict[str, Any]]:
    living = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    reservations = cloud.client("ec2").describe_instances(Filters=[living])["Reservations"]
    return [instance for reservation in reservations for instance in reservation["Instances"]]


def test_a_launch_whose_answer_is_lost_is_not_doubled(cloud: Cloud) -> None:
    cloud.lose_answer("RunInstances")
    runners = backend(cloud).launch(LETTER, 3)
    assert {runner.id for runner in runners} == {instance["InstanceId"] for instance in instances(cloud)}
    first, second = cloud.called("RunInstances")
    assert first.params == second.params


def open_launch(one: Ec2Backend, count: int) -> str:
    with pytest.raises(LaunchUnclear, match="may have happened") as failure:
        one.launch(LETTER, count)
    (token,) = failure.value.tokens
    return token


def test_when_both_answers_are_lost_the_launch_is_open_and_asking_again_finds_it_undoubled(cloud: Cloud) -> None:
    one = backend(cloud)
    cloud.lose_answer("RunInstances", times=3)
    token = open_launch(one, 2)
    with pytest.raises(LaunchUnclear):
        one.ask_again(token)
    runners = one.ask_again(token)
    assert len(runners) == 2
    assert {runner.launch for runner in runners} == {token}
    assert {runner.id for runner in runners} == {instance["InstanceId"] for instance in instances(cloud)}
    assert len({str(sorted(call.params.items())) for call in cloud.called("RunInstances")}) == 1


def test_an_open_launch_is_in_the_next_listing_too(cloud: Cloud) -> None:
    one = backend(cloud)
    cloud.lose_answer("RunInstances", times=2)
    token = open_launch(one, 2)
    assert [runner.launch for runner in one.runners()] == [token, token]


def test_an_open_launch_whose_instances_are_gone_is_settled(cloud: Cloud) -> None:
    one = backend(cloud)
    cloud.lose_answer("RunInstances", times=2)
    token = open_launch(one, 2)
    one.terminate([runner.id for runner in one.runners()])
    with pytest.raises(LaunchError, match="IdempotentInstanceTerminated"):
        one.ask_again(token)
    assert instances(cloud) == []


def test_a_token_that_something_else_has_gives_what_that_launched(cloud: Cloud) -> None:
    one = backend(cloud)
    cloud.lose_answer("RunInstances", times=2)
    token = open_launch(one, 2)
    cloud.fail("RunInstances", code="IdempotentParameterMismatch")
    assert {runner.id for runner in one.ask_again(token)} == {each["InstanceId"] for each in instances(cloud)}


class Elsewhere(Clients):
    """Clients whose launches go to another endpoint."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint

    def launching(self, place: Place) -> EC2Client:
        return super().launching(dataclasses.replace(place, endpoint=self._endpoint))


class Truncating(BaseHTTPRequestHandler):
    """Says 200, and breaks off in the middle of the answer."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4000")
        self.end_headers()
        self.wfile.write(b"<RunInstancesResponse><instancesSet><item><instanceId>i-0")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def truncating() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Truncating)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_answer_that_breaks_off_leaves_the_launch_open(cloud: Cloud, truncating: str) -> None:
    assert open_launch(backend(cloud, Elsewhere(truncating)), 2)


def test_a_launch_that_finds_no_connection_was_never_sent(cloud: Cloud) -> None:
    with pytest.raises(LaunchError, match="no connection"):
        backend(cloud, Elsewhere("http://127.0.0.1:9")).launch(LETTER, 2)


def test_what_was_refused_is_not_asked_for_again_until_it_ran_out(cloud: Cloud) -> None:
    ticks = Clock()
    short = {"InstanceType": "t3.micro", "SubnetId": cloud.subnet_ids[0]}
    cloud.fail("RunInstances", code="InsufficientInstanceCapacity", status=500, times=1, where=short)
    one = backend(cloud, ticks=ticks, subnet_id=cloud.subnet_ids)
    zones = [one.launch(LETTER, 1)[0].zone for _ in range(2)]
    assert len(set(zones)) == 1
    assert len(cloud.called("RunInstances")) == 3
    assert len(cloud.called("DescribeSubnets")) == 1
    ticks.skipped += 181
    assert one.launch(LETTER, 1)[0].zone not in zones


def test_when_all_is_refused_no_request_is_sent_and_the_next_try_is_told(cloud: Cloud) -> None:
    cloud.fail("RunInstances", code="InsufficientFreeAddressesInSubnet", times=None)
    one = backend(cloud, instance_type=("t3.micro", "t3.small"))
    for _ in range(2):
        with pytest.raises(LaunchError, match="InsufficientFreeAddressesInSubnet") as failure:
            one.launch(LETTER, 1)
        assert 170 < (failure.value.retry_in or 0) <= 180
    assert len(cloud.called("RunInstances")) == 1


def test_who_may_not_see_subnets_launches_all_the_same(cloud: Cloud) -> None:
    cloud.fail("DescribeSubnets", code="UnauthorizedOperation", status=403, times=None)
    assert len(backend(cloud).launch(LETTER, 1)) == 1


def test_a_lasting_no_is_not_asked_for_again_and_other_pools_go_on(cloud: Cloud) -> None:
    one = backend(cloud, instance_type=("t9.none",))
    for _ in range(3):
        with pytest.raises(LaunchError, match="option 'instance_type'") as failure:
            one.launch(LETTER, 1)
        assert 50 < (failure.value.retry_in or 0) <= 60
    assert len(cloud.called("RunInstances")) == 1
    assert len(backend(cloud).launch(LETTER, 1)) == 1


def test_credentials_that_others_renewed_are_found_without_a_restart(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, right = tmp_path / "credentials", cloud.credentials.secret_access_key
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def write(secret: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = testing\naws_secret_access_key = {secret}\n")

    write("old")
    one = backend(cloud)
    with pytest.raises(BackendError, match="AuthFailure"):
        one.runners()
    write(right)
    assert one.runners() == ()
    assert len(one.launch(LETTER, 1)) == 1


def test_a_launch_with_credentials_that_ran_out_meanwhile_is_sent_with_others(cloud: Cloud) -> None:
    cloud.fail("RunInstances", code="ExpiredToken")
    assert len(backend(cloud).launch(LETTER, 1)) == 1
    first, second = cloud.called("RunInstances")
    assert first.params == second.params


def test_an_instance_that_ended_for_want_of_capacity_says_so_and_the_next_is_another(cloud: Cloud) -> None:
    one = backend(cloud, instance_type=("t3.micro", "t3.small"))
    (runner,) = one.launch(LETTER, 1)
    machine = cloud.ec2.instance(runner.id)
    cloud.ec2.mark(runner.id, "terminated", "no room")
    code = "Server.InsufficientInstanceCapacity"
    machine.state_reason = StateReason(f"{code}: no room left", code)
    assert one.last_words(runner.id).splitlines()[0].startswith(f"EC2: {code}: no room left; give more")
    (other,) = one.launch(LETTER, 1)
    assert other.instance_type == "t3.small"


def test_an_instance_that_ended_before_any_listing_showed_it_is_seen_to_end(cloud: Cloud) -> None:
    one = backend(cloud)
    (runner,) = one.launch(LETTER, 1)
    cloud.ec2.mark(runner.id, "terminated", "no room")
    (ended,) = one.runners()
    assert (ended.id, ended.state, ended.shutting_down) == (runner.id, RunnerState.ENDING, True)
    assert one.runners() == ()


def test_what_no_listing_showed_yet_is_asked_for_by_its_id_for_a_minute(cloud: Cloud) -> None:
    cloud.conditions.launch_lag = lambda: 3600.0
    ticks = Clock()
    one = backend(cloud, ticks=ticks)
    (runner,) = one.launch(LETTER, 1)
    assert one.runners() == ()
    by_tag, by_id = cloud.called("DescribeInstances")[-2:]
    assert (by_tag.params["Filter.1.Name"], by_id.params["Filter.1.Value.1"]) == ("tag:flame:owner", runner.id)
    ticks.skipped += 60
    assert one.runners() == ()
    assert cloud.called("DescribeInstances")[-2] is by_id


def test_every_call_is_sent_once_when_capacity_is_short(cloud: Cloud) -> None:
    cloud.fail("RunInstances", code="InsufficientInstanceCapacity", status=500, times=None)
    one = backend(cloud, market=("spot", "on-demand"), instance_type=("t3.micro", "t3.small"))
    with pytest.raises(LaunchError, match="InsufficientInstanceCapacity"):
        one.launch(LETTER, 1)
    asked = [(call.params.get("InstanceMarketOptions.MarketType"), call.params["InstanceType"]) for call in
             cloud.called("RunInstances")]  # fmt: skip
    assert asked == [("spot", "t3.micro"), ("spot", "t3.small"), (None, "t3.micro"), (None, "t3.small")]


def test_a_type_that_is_short_leaves_the_next_one(cloud: Cloud) -> None:
    short = {"InstanceType": "t3.micro"}
    cloud.fail("RunInstances", code="InsufficientInstanceCapacity", status=500, times=None, where=short)
    (runner,) = backend(cloud, instance_type=("t3.micro", "t3.small")).launch(LETTER, 1)
    assert runner.instance_type == "t3.small"


def test_a_listing_survives_one_server_fault(cloud: Cloud) -> None:
    one = backend(cloud)
    one.launch(LETTER, 1)
    cloud.fail("DescribeInstances", code="InternalError", status=500)
    assert len(one.runners()) == 1


def test_wrong_keys_are_told_in_one_line(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(BackendError, match=r"AuthFailure.*AWS_SECRET_ACCESS_KEY") as failure:
        backend(cloud).runners()
    assert "\n" not in str(failure.value)
    with pytest.raises(LaunchError, match="AuthFailure"):
        backend(cloud).launch(LETTER, 1)
    assert cloud.called("RunInstances") == []


def test_no_keys_are_told_in_one_line(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(BackendError, match="no AWS credentials"):
        backend(cloud).runners()


def test_the_region_of_the_environment_is_taken_where_the_user_gives_none(cloud: Cloud) -> None:
    (runner,) = backend(cloud, region=None).launch(LETTER, 1)
    assert (runner.zone or "").startswith(cloud.region)


def test_the_instance_is_what_was_asked_for(cloud: Cloud) -> None:
    options = {
        "security_group_id": cloud.security_group_ids,
        "iam_instance_profile": cloud.instance_profile_arn,
        "root_volume": RootVolume(size=20, type="gp3"),
        "tags": {"team": "media"},
    }
    backend(cloud, **options).launch(LETTER, 1)
    (instance,) = instances(cloud)
    client = cloud.client("ec2")
    (disk,) = instance["BlockDeviceMappings"]
    (volume,) = client.describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])["Volumes"]
    assert {group["GroupId"] for group in instance["SecurityGroups"]} == set(cloud.security_group_ids)
    assert instance["IamInstanceProfile"]["Arn"] == cloud.instance_profile_arn
    assert instance["SubnetId"] == cloud.subnet_id
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    assert (volume["Size"], volume["VolumeType"], volume["Encrypted"]) == (20, "gp3", True)
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags["team"] == "media"
    assert tags["flame:owner"] == OWNER
    assert tags["flame:launch"] == instance["ClientToken"]
    assert {tag["Key"]: tag["Value"] for tag in volume["Tags"]}["flame:owner"] == OWNER


def attribute(cloud: Cloud, name: str) -> str:
    (instance,) = instances(cloud)
    found = cloud.client("ec2").describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute=name)
    return str(found[name[0].upper() + name[1:]]["Value"])


def test_a_power_off_terminates_and_the_user_data_arrives_as_it_was_built(cloud: Cloud) -> None:
    backend(cloud).launch(LETTER, 1)
    assert attribute(cloud, "instanceInitiatedShutdownBehavior") == "terminate"
    assert b"flame" in gzip.decompress(base64.b64decode(attribute(cloud, "userData")))


def test_a_public_address_is_asked_for_without_ec2_refusing_the_combination(cloud: Cloud) -> None:
    (runner,) = backend(cloud, associate_public_ip=True).launch(LETTER, 1)
    assert runner.id


NOTHING: dict[str, Any] = {"image_id": None, "subnet_id": (), "security_group_id": (), "instance_type": ()}


def template(cloud: Cloud, **data: Any) -> str:
    client = cloud.client("ec2")
    name = f"shop-{uuid.uuid4().hex}"
    made = client.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)["LaunchTemplate"]
    return str(made["LaunchTemplateId"])


def test_a_template_with_network_interfaces_is_used_as_it_is(cloud: Cloud) -> None:
    interface = {"DeviceIndex": 0, "SubnetId": cloud.subnet_ids[1], "Groups": [cloud.security_group_ids[1]]}
    theirs = base64.b64encode(b"#!/bin/sh\n").decode()
    of_template = template(
        cloud, ImageId=cloud.image_id, InstanceType="t3.large", NetworkInterfaces=[interface], UserData=theirs
    )
    (runner,) = backend(cloud, launch_template_id=of_template, **NOTHING).launch(LETTER, 1)
    assert runner.instance_type == "t3.large"
    (instance,) = instances(cloud)
    assert instance["SubnetId"] == cloud.subnet_ids[1]
    assert attribute(cloud, "instanceInitiatedShutdownBehavior") == "terminate"


def test_a_subnet_of_the_users_beside_a_templates_interfaces_is_not_refused(cloud: Cloud) -> None:
    interface = {"DeviceIndex": 0, "Groups": [cloud.security_group_ids[1]]}
    of_template = template(cloud, ImageId=cloud.image_id, NetworkInterfaces=[interface])
    options = {**NOTHING, "subnet_id": (cloud.subnet_ids[1],)}
    backend(cloud, launch_template_id=of_template, **options).launch(LETTER, 1)
    (instance,) = instances(cloud)
    assert instance["SubnetId"] == cloud.subnet_ids[1]


def test_a_template_that_is_not_there_is_named(cloud: Cloud) -> None:
    with pytest.raises(LaunchError, match="launch_template_id"):
        backend(cloud, launch_template_id="lt-0123456789abcdef0", **NOTHING).launch(LETTER, 1)


@pytest.fixture
def metadata(cloud: Cloud) -> Iterator[Metadata]:
    here = Identity(
        instance_id="i-0123456789abcdef0",
        image_id=cloud.image_id,
        instance_type="t3.large",
        account=cloud.account,
        region=cloud.region,
        zone=f"{cloud.region}b",
        mac="0e:49:61:0f:c3:11",
        subnet_id=cloud.subnet_ids[1],
        vpc_id=cloud.vpc_id,
        security_group_ids=cloud.security_group_ids,
        local_ipv4="127.0.0.1",
        profile_arn=cloud.instance_profile_arn,
    )
    metadata = Metadata()
    metadata.open(lambda: here)
    yield metadata
    metadata.close()


def test_auto_configure_launches_more_of_what_this_instance_is(
    cloud: Cloud, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    url = f"http://127.0.0.1:{metadata.port}/latest"
    options = {
        **NOTHING,
        "auto_configure": True,
        "region": None,
        "instance_metadata_url": f"{url}/meta-data/",
        "instance_metadata_token_url": f"{url}/api/token",
    }
    one = backend(cloud, **options)
    (runner,) = one.launch(LETTER, 1)
    (instance,) = instances(cloud)
    assert runner.instance_type == "t3.large"
    assert instance["ImageId"] == cloud.image_id
    assert instance["SubnetId"] == cloud.subnet_ids[1]
    assert {group["GroupId"] for group in instance["SecurityGroups"]} == set(cloud.security_group_ids)
    assert instance["IamInstanceProfile"]["Arn"] == cloud.instance_profile_arn
    assert [listed.id for listed in one.runners()] == [runner.id]


def test_concurrency_is_the_vcpus_of_the_smallest_type(cloud: Cloud) -> None:
    one = backend(cloud, instance_type=("c5.2xlarge", "c5.xlarge"))
    options = Ec2Options(
        region=cloud.region,
        ec2_service_endpoint=cloud.endpoint,
        image_id=cloud.image_id,
        instance_type=("c5.2xlarge", "c5.xlarge"),
    )
    assert one.concurrency(PoolSettings(name="video", queues=("video",), ec2=options)) == 4


def test_a_fleet_larger_than_a_page_is_listed_whole(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_flame_ec2.backends.ec2.backend.PAGE", 5)
    ticks, launched = Clock(), set()
    one = backend(cloud, ticks=ticks)
    for _ in range(7):  # pages are of launches here, not of instances
        launched.add(one.launch(LETTER, 1)[0].id)
        ticks.skipped += 1
    assert {runner.id for runner in one.runners()} == launched
    assert len(cloud.called("DescribeInstances")) == 2


def test_an_endpoint_that_is_closed_is_told_and_does_not_hang(cloud: Cloud) -> None:
    with pytest.raises(BackendError, match="no connection"):
        backend(cloud, ec2_service_endpoint="http://127.0.0.1:9").runners()


def test_an_answer_that_is_too_late_leaves_it_unknown_and_the_next_listing_has_it_once(cloud: Cloud) -> None:
    one = backend(cloud, Clients(launch_timeout=0.2))
    cloud.delay("RunInstances", 1.0)
    open_launch(one, 2)
    wait_until(one.runners, what="the launch that timed out is listed")
    assert len(one.runners()) == 2
