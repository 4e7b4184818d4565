"""Do the printed policies allow what parent and runner do, and nothing that they do not?"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import tarfile
import urllib.request
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from celery_flame_ec2 import boot
from celery_flame_ec2.backends.ec2 import Ec2Backend, library, lookups
from celery_flame_ec2.backends.ec2.checkup import Checkup
from celery_flame_ec2.backends.ec2.permissions import DEPLOYER, DOCTOR, PARENT, RUNNER, TABLE, Ground, policy
from celery_flame_ec2.backends.ec2.push import push, push_unpacked
from celery_flame_ec2.backends.ec2.store import Store
from celery_flame_ec2.board import Board, open_board
from celery_flame_ec2.board.base import Pin
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings
from celery_flame_ec2.edition import Edition
from celery_flame_ec2.errors import FlameError
from celery_flame_ec2.lease import Lease
from celery_flame_ec2.lease.s3 import S3Store
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.templates import bootstrap
from tests.box.cloud import ROLE, Cloud
from tests.iam import allows, asks
from tests.servers import MotoServer
from tests.unit.test_release_contents import packed

from .conftest import serve

OWNER = "shop@redis/0"
ENV = {
    "A": {"from_ssm": "/shop/a"},
    "B": {"from_secretsmanager": "shop/b"},
    "C": "plain",
    "D": {"from_secretsmanager": "shop/d#key"},
}
#: Asks for many secrets at once. Without it they are asked for one by one.
BATCH = "secretsmanager:BatchGetSecretValue"
IMAGE = "/images/shop"
REGION = "eu-central-1"


class World:
    """An AWS with all that the settings name, and what parent and runner do there with the keys of `environ`."""

    def __init__(self, url: str, edition: Edition, image: str, subnet: str, group: str, template: str) -> None:
        self.url, self.edition, self.image, self.template = url, edition, image, template
        self.bucket = edition.url.split("/")[2]
        self.subnet, self.group = subnet, group
        self.keys = {"AccessKeyId": "testing", "SecretAccessKey": "testing", "Token": ""}

    def settings(self) -> Settings:
        common: dict[str, Any] = {
            "app": "shop",
            "region": REGION,
            "ec2_service_endpoint": self.url,
            "s3_service_endpoint": self.url,
            "s3_bundle_url": f"s3://{self.bucket}/shop/1.tar.gz",
            "iam_instance_profile": ROLE,
            "env": ENV,
        }
        plain = {
            "image_id": f"resolve:ssm:{IMAGE}",
            "subnet_id": (self.subnet,),
            "security_group_id": (self.group,),
            "instance_type": ("t3.micro",),
            "market": ("spot", "on-demand"),
            "key_name": "me",
        }
        prefix = f"s3://{self.bucket}/shop/1/"
        wired = {"launch_template_id": self.template, "security_group_id": (self.group,), "s3_bundle_url": prefix}
        pools = [
            PoolSettings(name=name, queues=(name,), ec2=Ec2Options(**{**common, **options}))
            for name, options in (("plain", plain), ("wired", {**wired, "subnet_id": (self.subnet,)}))
        ]
        return Settings(backend="ec2", owner=OWNER, pools=tuple(pools))

    def policy(self, *who: str, account: str) -> dict[str, Any]:
        settings = self.settings()
        grounds = [
            Ground(
                pool=pool,
                owner=OWNER,
                region=REGION,
                account=account,
                role=ROLE,
                lease=self.lease_url,
                board=f"{self.lease_url}.board",
            )
            for pool in settings.pools
        ]
        return policy(grounds, *who)

    @property
    def lease_url(self) -> str:
        return f"s3://{self.bucket}/flame/lease/{OWNER}"

    def backend(self) -> Ec2Backend:
        return Ec2Backend(self.settings(), environ={})

    # what a parent does

    def launch(self, pool: str = "plain") -> str:
        letter = Parent(owner=OWNER, pool=pool, backend="ec2", queues=(pool,), concurrency=2)
        (runner,) = self.backend().launch(letter, 1)
        return runner.id

    def list(self) -> list[str]:
        return [runner.id for runner in self.backend().runners()]

    def count_cpus(self) -> None:
        self.backend().concurrency(self.settings().pools[0])

    def hear(self) -> None:
        for name in self.list():
            self.backend().last_words(name)

    def end(self) -> None:
        self.backend().terminate(self.list())

    def lead(self) -> Lease:
        lease = Lease(S3Store(self.lease_url, region=REGION, endpoint=self.url))
        lease.renew()
        return lease

    def hand_over(self) -> None:
        self.lead().release()

    def _board(self) -> Board:
        return open_board(f"{self.lease_url}.board?region={REGION}&endpoint={self.url}")

    def read(self) -> None:
        self._board().pins()

    def clear(self) -> None:
        self._board().take_down([Pin(runner_id="i-1", text="2.e30")])

    def cordon(self) -> None:
        self._board().order(lambda before: before | {uuid.uuid4().hex})

    def examine(self) -> str:
        """Let the doctor look; return all that it finds, in words."""
        settings = self.settings()
        letters = {
            pool.name: Parent(owner=OWNER, pool=pool.name, backend="ec2", queues=pool.queues, concurrency=1)
            for pool in settings.pools
        }
        checkup = Checkup(settings, letters=letters, ports={}, services=(), environ={}, pause=lambda _: None)
        findings = [found for _, step in checkup.steps() for pool in settings.pools for found in step(pool)]
        checkup.close()
        return "\n".join(f"{found.verdict.value} {found.check}: {found.seen}" for found in findings)

    # what a runner does

    def fetch(self, directory: Path, pool: int = 0) -> None:
        steps, aws = self._booting(directory, pool)
        steps.install_release(aws)

    def speak(self) -> None:
        board = self._board()
        for count in (1, 2):
            board.pin(Pin(runner_id="i-1", text=f"{count}.e30"))

    def obey(self) -> None:
        self._board().cordoned()

    def resolve(self, *names: str) -> dict[str, str]:
        _, aws = self._booting(Path("/nowhere"), 0)
        return bootstrap.resolved({name: ENV[name] for name in names}, aws)

    def _booting(self, root: Path, pool: int) -> tuple[bootstrap.Boot, bootstrap.Aws]:
        options = self.settings().pools[pool].ec2
        letter = Parent(owner=OWNER, pool="p", backend="ec2", queues=("q",), concurrency=1)
        env = {**ENV, "AWS_ENDPOINT_URL": self.url}
        edition = self.edition if self.edition.url == options.s3_bundle_url else None
        document = json.loads(json.dumps(boot.document(letter, replace(options, env=env), edition)))
        (root / "run/flame").mkdir(parents=True, exist_ok=True) if root != Path("/nowhere") else None
        return bootstrap.Boot(document, root=str(root)), bootstrap.Aws(document, REGION, "", self.keys)


def furnish(client: Callable[[str], Any], bucket: str) -> Edition:
    """Make what the settings name: bundles, an image's parameter, secrets, a key."""
    client("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        program = tarfile.TarInfo("bin/shop")
        program.mode = 0o755
        tar.addfile(program, io.BytesIO())
    put = client("s3").put_object(Bucket=bucket, Key="shop/1.tar.gz", Body=archive.getvalue())
    client("s3").put_object(Bucket=bucket, Key="shop/1/bin/shop", Body=b"#!/bin/sh\n")
    client("ssm").put_parameter(Name="/shop/a", Value="a", Type="SecureString")
    client("secretsmanager").create_secret(Name="shop/b", SecretString="b")
    client("secretsmanager").create_secret(Name="shop/d", SecretString='{"key": "d"}')
    client("ec2").create_key_pair(KeyName="me")
    return Edition(url=f"s3://{bucket}/shop/1.tar.gz", version=put["VersionId"], etag=put["ETag"])


def template(client: Any, image: str) -> str:
    data = {"ImageId": image, "InstanceType": "t3.micro"}
    made = client.create_launch_template(LaunchTemplateName="runner", LaunchTemplateData=data)
    return str(made["LaunchTemplate"]["LaunchTemplateId"])


def whole_life(world: World, directory: Path) -> None:
    """Do everything that a parent does, then everything that a runner does."""
    world.count_cpus()
    world.launch("plain")
    world.launch("wired")
    world.hear()
    world.end()
    world.hand_over()
    world.speak()
    world.read()
    world.clear()
    world.cordon()
    world.obey()
    world.fetch(directory / "file", 0)
    world.fetch(directory / "prefix", 1)
    world.resolve("A")
    world.resolve("B")
    world.resolve("B", "D")


# every call that is made, against resources and conditions


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as opened:
        yield opened


@pytest.fixture
def world(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> World:
    edition = furnish(cloud.client, cloud.bucket)
    cloud.client("ssm").put_parameter(Name=IMAGE, Value=cloud.image_id, Type="String")
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint)
    made = template(cloud.client("ec2"), cloud.image_id)
    cloud.calls.clear()
    return World(cloud.endpoint, edition, cloud.image_id, cloud.subnet_id, cloud.security_group_id, made)


#: What only a runner calls, and what both call: by a key under which the runner finds it.
OF_RUNNER = {"BatchGetSecretValue", "GetParameters", "GetSecretValue", "ListObjectsV2"}


def who_called(call: Any) -> str:
    key, prefix = call.params.get("Key", ""), call.params.get("prefix", "")
    if "/words/" in key + prefix:
        return RUNNER if key else PARENT
    fetches = call.action == "GetObject" and not call.params["Key"].startswith("flame/lease/")
    return RUNNER if call.action in OF_RUNNER or fetches else PARENT


def test_the_policies_allow_every_call_of_a_whole_life(world: World, cloud: Cloud, tmp_path: Path) -> None:
    whole_life(world, tmp_path)
    for call in cloud.calls:
        document = world.policy(who_called(call), account=cloud.account)
        for ask in asks(call, cloud):
            assert allows(document, ask), ask


def test_nothing_in_the_table_is_there_for_a_call_that_is_never_made(
    world: World, cloud: Cloud, tmp_path: Path
) -> None:
    whole_life(world, tmp_path)
    made = {(who_called(call), f"{call.service}:{call.action}") for call in cloud.calls}
    table = {
        (permission.who, f"{permission.action.partition(':')[0]}:{call}")
        for permission in TABLE
        for call in permission.calls
        if permission.who not in (DOCTOR, DEPLOYER)
    }
    assert table == made
    assert {p.action for p in TABLE if not p.calls} == {"ec2:CreateTags", "iam:PassRole", "kms:Decrypt"}


def test_the_parents_policy_allows_every_call_of_the_doctor_and_nothing_for_it_that_it_never_asks(
    world: World, cloud: Cloud
) -> None:
    world.examine()
    document = world.policy(PARENT, DOCTOR, account=cloud.account)
    for call in cloud.calls:
        for ask in asks(call, cloud):
            assert allows(document, ask), ask
    made = {call.action for call in cloud.calls}
    assert {call for permission in TABLE if permission.who == DOCTOR for call in permission.calls} <= made


def test_the_deployers_policy_allows_every_call_about_releases_and_no_other(
    world: World, cloud: Cloud, tmp_path: Path
) -> None:
    world.launch()
    cloud.calls.clear()
    (tmp_path / "2.tar.gz").write_bytes(gzip.compress(packed()))
    store, ec2 = Store(cloud.client("s3"), cloud.bucket), cloud.client("ec2")
    push(store, tmp_path / "2.tar.gz", "shop/2.tar.gz", app="proj", program="bin/proj", progress=lambda _: None)
    push_unpacked(store, tmp_path / "2.tar.gz", "shop/2/", app="proj", program="bin/proj", progress=lambda _: None)
    for each in library.shelved(store, "shop/"):
        library.fetched(store, each.edition, lambda _: None)
    assert [release for _, release in library.runners(ec2)] == [world.edition.tag]
    lookups.architecture(ec2, cloud.image_id)
    library.remove(store, library.shelved(store, "shop/")[0])
    document = world.policy(DEPLOYER, account=cloud.account)
    for call in cloud.calls:
        for ask in asks(call, cloud):
            assert allows(document, ask), ask
    made = {call.action for call in cloud.calls}
    assert {call for permission in TABLE if permission.who == DEPLOYER for call in permission.calls} == made


@pytest.mark.parametrize(
    ("owner", "subnet", "why"),
    [("another@redis/0", None, "another owner's tag"), (OWNER, "subnet-99999999", "a subnet that nobody named")],
)
def test_what_the_settings_do_not_name_is_not_allowed(
    owner: str, subnet: str | None, why: str, world: World, cloud: Cloud
) -> None:
    world.launch("plain")
    (call,) = cloud.called("RunInstances")
    params = {name: value.replace(OWNER, owner) for name, value in call.params.items()}
    other = replace(call, params={**params, **({"SubnetId": subnet} if subnet else {})})
    document = world.policy(PARENT, account=cloud.account)
    assert not all(allows(document, ask) for ask in asks(other, cloud)), why


def test_an_instance_of_another_deployment_may_not_be_ended(world: World, cloud: Cloud) -> None:
    (theirs,) = cloud.client("ec2").run_instances(ImageId=cloud.image_id, MinCount=1, MaxCount=1)["Instances"]
    cloud.client("ec2").terminate_instances(InstanceIds=[theirs["InstanceId"]])
    (call,) = cloud.called("TerminateInstances")
    assert not any(allows(world.policy(PARENT, account=cloud.account), ask) for ask in asks(call, cloud))


# every action, against moto's enforcement


#: What fails where a right is missing.
DEEDS: dict[str, Callable[[World, Path], object]] = {
    "ec2:RunInstances": lambda world, _: world.launch(),
    "ec2:TerminateInstances": lambda world, _: world.end(),
    "ec2:GetConsoleOutput": lambda world, _: world.hear(),
    "ec2:DescribeInstances": lambda world, _: world.list(),
    "ec2:DescribeImages": lambda world, _: world.launch(),
    "ec2:DescribeInstanceTypes": lambda world, _: world.count_cpus(),
    "ec2:DescribeSubnets": lambda world, _: world.launch(),
    "ec2:DescribeLaunchTemplateVersions": lambda world, _: world.launch("wired"),
    "ssm:GetParameter": lambda world, _: world.launch(),
    "s3:PutObject": lambda world, _: world.lead(),
    "s3:DeleteObject": lambda world, _: world.hand_over(),
    "s3:GetObject": lambda world, directory: world.fetch(directory, 1),
    "s3:GetObjectVersion": lambda world, directory: world.fetch(directory),
    "s3:ListBucket": lambda world, directory: world.fetch(directory, 1),
    "ssm:GetParameters": lambda world, _: world.resolve("A"),
    "secretsmanager:GetSecretValue": lambda world, _: world.resolve("B"),
}


#: How the bootstrap's errors, which name what they asked for, stand for an action.
SPOKEN = {"AmazonSSM.": "ssm:", "secretsmanager.": "secretsmanager:"}


class Enforcing:
    """A moto that lets a user do what the user's policy says.

    It looks at actions only: it asks each policy about resource "*" and knows no condition of EC2's, so both are left
    out of what it is given here. It also asks for no right on behalf of another call.
    """

    def __init__(self, server: MotoServer) -> None:
        self.url = server.url
        iam, ec2 = self.client("iam"), self.client("ec2")
        iam.create_user(UserName="flame")
        self.key = iam.create_access_key(UserName="flame")["AccessKey"]
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=ROLE)
        iam.add_role_to_instance_profile(InstanceProfileName=ROLE, RoleName=ROLE)
        self.client("s3").create_bucket(Bucket="releases", CreateBucketConfiguration={"LocationConstraint": REGION})
        edition = furnish(self.client, "releases")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.client("ssm").put_parameter(Name=IMAGE, Value=image, Type="String")
        subnet = ec2.describe_subnets()["Subnets"][0]
        group = ec2.create_security_group(GroupName="g", Description="g", VpcId=subnet["VpcId"])["GroupId"]
        self.world = World(self.url, edition, image, subnet["SubnetId"], group, template(ec2, image))
        self.world.keys = {name: self.key[name] for name in ("AccessKeyId", "SecretAccessKey")}

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)

    def hold_to(self, actions: Collection[str]) -> None:
        """Let the user do only this."""
        self._pass(1_000_000)
        loose = {"Effect": "Allow", "Action": sorted(actions), "Resource": "*"}
        text = json.dumps({"Version": "2012-10-17", "Statement": [loose]})
        self.client("iam").put_user_policy(UserName="flame", PolicyName="printed", PolicyDocument=text)
        self._pass(0)

    def _pass(self, calls: int) -> None:
        """Let so many more calls pass unchecked."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", data=str(calls).encode(), headers={"Content-Type": "text/plain"}
        )
        with urllib.request.urlopen(request, timeout=10):
            pass


@pytest.fixture(scope="module")
def one_enforcing() -> Iterator[Enforcing]:
    """A moto of these tests' own, for enforcement holds for a whole process."""
    for server in serve(MotoServer):
        yield Enforcing(server)


@pytest.fixture
def enforcing(one_enforcing: Enforcing, monkeypatch: pytest.MonkeyPatch) -> Enforcing:
    monkeypatch.setenv("AWS_ENDPOINT_URL", one_enforcing.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", one_enforcing.key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", one_enforcing.key["SecretAccessKey"])
    return one_enforcing


def printed(world: World) -> set[str]:
    """Return the actions of all policies."""
    found: set[str] = set()
    for statement in world.policy(PARENT, DOCTOR, RUNNER, account="123456789012")["Statement"]:
        actions = statement["Action"]
        found.update([actions] if isinstance(actions, str) else actions)
    return found


def test_with_the_printed_policies_everything_works(enforcing: Enforcing, tmp_path: Path) -> None:
    enforcing.hold_to(printed(enforcing.world))
    whole_life(enforcing.world, tmp_path)


def test_every_action_that_is_called_has_a_deed() -> None:
    assert {p.action for p in TABLE if p.calls and p.who not in (DOCTOR, DEPLOYER)} == DEEDS.keys() | {BATCH}


def test_without_the_right_to_ask_for_many_secrets_at_once_they_are_asked_for_one_by_one(enforcing: Enforcing) -> None:
    enforcing.hold_to(printed(enforcing.world) - {BATCH})
    assert enforcing.world.resolve("A", "B", "D") == {"A": "a", "B": "b", "D": "d"}


@pytest.mark.parametrize("action", DEEDS)
def test_without_one_action_the_call_is_refused_and_the_action_named(
    action: str, enforcing: Enforcing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "celery_flame_ec2")
    world = enforcing.world
    enforcing.hold_to(printed(world))
    world.launch()
    enforcing.hold_to(printed(world) - {action})
    try:
        DEEDS[action](world, tmp_path)
        told = caplog.text
    except (FlameError, bootstrap.BootError, bootstrap.Refused) as exc:
        told = str(exc)
    assert re.search("AccessDenied|: 403", told)
    assert action in re.sub(r"AmazonSSM\.|secretsmanager\.", lambda found: SPOKEN[found[0]], told)


def test_with_the_printed_policies_the_doctor_is_refused_nothing(enforcing: Enforcing) -> None:
    enforcing.hold_to(printed(enforcing.world))
    told = enforcing.world.examine()
    assert not re.search("AccessDenied|HTTP 403|may not", told), told


@pytest.mark.parametrize("action", sorted({permission.action for permission in TABLE if permission.who == DOCTOR}))
def test_without_one_action_the_doctor_names_it(action: str, enforcing: Enforcing) -> None:
    enforcing.hold_to(printed(enforcing.world) - {action})
    told = enforcing.world.examine()
    assert re.search("AccessDenied|HTTP 403|may not", told)
    assert action in told or action.startswith("s3:"), told
