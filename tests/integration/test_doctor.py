"""Does `celery flame doctor` see each single thing that is wrong, and change nothing?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from celery import Celery

from celery_flame_ec2.cli.doctor import exit_code
from celery_flame_ec2.doctor import examine
from celery_flame_ec2.finding import Finding, Verdict
from tests.box.cloud import ROLE, Cloud
from tests.servers import free_port
from tests.workers import Deployment

#: What each AWS action may begin with that the doctor calls, but for RunInstances on a dry run.
READING = ("Describe", "Get", "Head", "List")
OK, WARNING, UNKNOWN, FAILED = Verdict.OK, Verdict.WARNING, Verdict.UNKNOWN, Verdict.FAILED


@dataclass
class Site:
    """A deployment that could work: an account with all that a launch needs, and an app that says so."""

    cloud: Cloud
    broker: str
    table: str
    bundle: str
    ec2: dict[str, Any] = field(default_factory=dict)
    conf: dict[str, Any] = field(default_factory=dict)
    pools: dict[str, Any] = field(default_factory=lambda: {"video": {"queues": ["video"], "max": 20}})

    @property
    def client(self) -> Any:
        return self.cloud.client("ec2")

    def settings(self) -> dict[str, Any]:
        """Return the app's configuration."""
        common = {
            "app": "proj",
            "region": self.cloud.region,
            "ec2_service_endpoint": self.cloud.endpoint,
            "s3_service_endpoint": self.cloud.endpoint,
            "s3_bundle_url": self.bundle,
            "image_id": self.cloud.image_id,
            "subnet_id": list(self.cloud.subnet_ids),
            "security_group_id": list(self.cloud.security_group_ids),
            "iam_instance_profile": ROLE,
            "instance_type": ["t3.medium", "t3.micro"],
            "market": ["spot", "on-demand"],
            "allow_local_broker": True,
        }
        safe = {"task_acks_late": True, "task_reject_on_worker_lost": True, "task_time_limit": 600}
        return {
            "broker_url": self.broker,
            "worker_autoscaler": "celery_flame_ec2:Autoscaler",
            "flame_backend": "ec2",
            "flame_ec2": {name: value for name, value in {**common, **self.ec2}.items() if value is not None},
            "flame_pools": self.pools,
            **safe,
            **self.conf,
        }

    def examined(self, environ: Mapping[str, str] | None = None) -> list[Finding]:
        """Return what the doctor finds, asked in this process."""
        app = Celery("proj", set_as_current=False)
        app.conf.update(self.settings())
        return list(examine(app, environ or os.environ, lambda _: None, pause=lambda _: None))


@pytest.fixture(scope="module")
def session() -> boto3.session.Session:
    return boto3.session.Session()


@pytest.fixture
def site(session: boto3.session.Session, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with Cloud(session=session) as cloud:
        # What has no endpoint option of its own: STS, IAM, SSM.
        monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint)
        client = cloud.client("ec2")
        gateway = client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=cloud.vpc_id)
        table = client.describe_route_tables()["RouteTables"][0]["RouteTableId"]
        client.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        cloud.client("s3").put_object(
            Bucket=cloud.bucket, Key="proj/1.tar.gz", Body=b"release", ChecksumAlgorithm="SHA256"
        )
        cloud.calls.clear()
        yield Site(cloud=cloud, broker=redis_url, table=table, bundle=f"s3://{cloud.bucket}/proj/1.tar.gz")


#: What the good site is told: it runs on this machine, so its broker is near; no parent runs; nobody tries the role.
USUAL = {("parent", WARNING), ("broker for runners", WARNING), ("runner's role", UNKNOWN)}


def unusual(found: list[Finding]) -> dict[str, Finding]:
    """Return by check what is not fine and is not so on the good site."""
    return {each.check: each for each in found if each.verdict is not OK and (each.check, each.verdict) not in USUAL}


def test_a_good_site_has_nothing_that_fails(site: Site) -> None:
    found = site.examined()
    assert not unusual(found)
    assert exit_code(found) == 0
    checks = {each.check for each in found if each.verdict is OK}
    assert checks >= {
        "settings", "broker", "queues", "worker_autoscaler", "prefetch", "acknowledgement", "visibility timeout",
        "lease", "env", "credentials", "image", "instance types", "architecture", "zones", "addresses", "route to S3",
        "security groups", "bundle", "instance profile", "user data", "launch",
    }  # fmt: skip


def test_nothing_is_called_that_changes_anything(site: Site) -> None:
    template = site.client.create_launch_template(
        LaunchTemplateName="one", LaunchTemplateData={"ImageId": site.cloud.image_id, "InstanceType": "t3.micro"}
    )["LaunchTemplate"]["LaunchTemplateId"]
    site.cloud.client("ssm").put_parameter(Name="/image", Value=site.cloud.image_id, Type="String")
    prefix = site.bundle.removesuffix(".tar.gz").removesuffix("1")
    site.pools["audio"] = {
        "queues": ["audio"], "s3_bundle_url": prefix, "image_id": "resolve:ssm:/image", "instance_type": "t3.nano",
    }  # fmt: skip
    site.cloud.calls.clear()
    first = site.examined()
    site.ec2.update(launch_template_id=template, image_id=None)
    site.pools.pop("audio")
    found = [*first, *site.examined()]
    assert not unusual(found)
    calls = list(site.cloud.calls)
    launches = [call for call in calls if call.action == "RunInstances"]
    assert launches
    assert all(call.params["DryRun"] == "true" for call in launches)
    assert all(call.action.startswith(READING) for call in calls if call not in launches)
    assert {"DescribeLaunchTemplateVersions", "GetParameter", "ListObjectsV2", "GetCallerIdentity"} <= {
        call.action for call in calls
    }
    assert not site.client.describe_instances()["Reservations"]


def test_the_request_that_is_tried_is_the_one_a_launch_would_send(site: Site) -> None:
    site.ec2.update(tags={"team": "film"}, key_name=None, root_volume={"size": 30})
    site.examined()
    first = site.cloud.called("RunInstances")[0].params
    assert first["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert first["MetadataOptions.HttpTokens"] == "required"
    assert first["InstanceMarketOptions.MarketType"] == "spot"
    assert first["BlockDeviceMapping.1.Ebs.VolumeSize"] == "30"
    assert first["IamInstanceProfile.Name"] == ROLE
    assert first["UserData"]
    tags = {value for name, value in first.items() if name.startswith("TagSpecification")}
    assert {"flame:owner", "flame:pool", "video", "team", "film", "spot-instances-request"} <= tags
    tried = {
        (call.params.get("InstanceMarketOptions.MarketType"), call.params["InstanceType"], call.params["SubnetId"])
        for call in site.cloud.called("RunInstances")
    }
    assert len(tried) == 2 * 2 * 2


def test_pools_whose_launches_are_alike_are_tried_once(site: Site) -> None:
    site.examined()
    once = len(site.cloud.called("RunInstances"))
    site.cloud.calls.clear()
    site.pools["audio"] = {"queues": ["audio"], "max": 3}
    found = site.examined()
    assert len(site.cloud.called("RunInstances")) == once
    assert all(not each.pools for each in found if each.check != "user data")
    assert len(site.cloud.called("DescribeRouteTables")) == 1


# each single thing that breaks it


def _without_image(site: Site) -> None:
    site.ec2["image_id"] = "ami-00000000"


def _arm(site: Site) -> None:
    _image(site).architecture = "arm64"


def _image(site: Site) -> Any:
    return site.cloud._backend(site.cloud.region).amis[site.cloud.image_id]


def _pending(site: Site) -> None:
    _image(site).state = "pending"


def _unknown_type(site: Site) -> None:
    site.ec2["instance_type"] = ["t3.micro", "zz9.plural"]


def _type_of_another_zone(site: Site) -> None:
    site.ec2["instance_type"] = ["f2.12xlarge", "t3.micro"]


def _own_subnet(site: Site, cidr: str = "172.31.200.0/28") -> str:
    zone = f"{site.cloud.region}a"
    made = site.client.create_subnet(VpcId=site.cloud.vpc_id, CidrBlock=cidr, AvailabilityZone=zone)
    name: str = made["Subnet"]["SubnetId"]
    site.ec2["subnet_id"] = [name]
    return name


def _without_route(site: Site) -> None:
    table = site.client.create_route_table(VpcId=site.cloud.vpc_id)["RouteTable"]["RouteTableId"]
    for name in site.cloud.subnet_ids:
        site.client.associate_route_table(RouteTableId=table, SubnetId=name)


def _without_address(site: Site) -> None:
    for name in site.cloud.subnet_ids:
        site.client.modify_subnet_attribute(SubnetId=name, MapPublicIpOnLaunch={"Value": False})


def _refusing_address(site: Site) -> None:
    site.ec2["associate_public_ip"] = False


def _full(site: Site) -> None:
    name = _own_subnet(site)
    site.client.modify_subnet_attribute(SubnetId=name, MapPublicIpOnLaunch={"Value": True})
    for _ in range(11):  # 16 less the five that EC2 keeps
        site.client.create_network_interface(SubnetId=name)


def _foreign_subnet(site: Site) -> None:
    site.ec2["subnet_id"] = [site.cloud.subnet_id, "subnet-00000000"]


def _foreign_group(site: Site) -> None:
    vpc = site.client.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    made = site.client.create_security_group(GroupName="far", Description="far", VpcId=vpc)
    site.ec2["security_group_id"] = [made["GroupId"]]


def _shut_group(site: Site) -> None:
    group = site.client.describe_security_groups(GroupIds=[site.cloud.security_group_id])["SecurityGroups"][0]
    site.client.revoke_security_group_egress(GroupId=group["GroupId"], IpPermissions=group["IpPermissionsEgress"])
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    site.client.authorize_security_group_egress(GroupId=group["GroupId"], IpPermissions=[https])
    site.ec2["security_group_id"] = [group["GroupId"]]


def _without_bundle(site: Site) -> None:
    site.bundle = site.bundle.replace("1.tar.gz", "2.tar.gz")


def _without_bucket(site: Site) -> None:
    site.bundle = "s3://no-such-bucket/1.tar.gz"


def _another_checksum(site: Site) -> None:
    site.ec2["s3_bundle_sha256"] = "0" * 64


def _without_profile(site: Site) -> None:
    site.ec2["iam_instance_profile"] = None


def _profile_without_role(site: Site) -> None:
    site.cloud.client("iam").create_instance_profile(InstanceProfileName="empty")
    site.ec2["iam_instance_profile"] = "empty"


def _denied(site: Site) -> None:
    message = "You are not authorized to perform this operation. User: x is not authorized to perform: iam:PassRole on "
    message += "resource: arn:aws:iam::1:role/runner. Encoded authorization failure message: abc"
    site.cloud.fail("RunInstances", code="UnauthorizedOperation", message=message, status=403, times=None)


def _denied_spot(site: Site) -> None:
    where = {"InstanceMarketOptions.MarketType": "spot"}
    site.cloud.fail("RunInstances", code="AuthFailure.ServiceLinkedRoleCreationNotPermitted", times=None, where=where)


def _too_much_env(site: Site) -> None:
    site.ec2["env"] = {"NOISE": os.urandom(20000).hex()}


def _prefetch(site: Site) -> None:
    site.conf["worker_prefetch_multiplier"] = 4


def _visibility(site: Site) -> None:
    site.conf["broker_transport_options"] = {"visibility_timeout": 10}


#: What is broken; the checks that then are not fine, the verdict, and words of the remedy.
BROKEN: dict[str, tuple[Callable[[Site], None], set[str], Verdict, str]] = {
    "no such image": (_without_image, {"image", "launch"}, FAILED, "check option 'image_id'"),
    "an image for another architecture": (_arm, {"architecture"}, FAILED, "set 'image_id' to an image for x86_64"),
    "an image that is not ready": (_pending, {"image"}, FAILED, "'image_id'"),
    "no such type": (_unknown_type, {"instance types", "launch"}, FAILED, "take zz9.plural out of 'instance_type'"),
    "a type that a zone lacks": (_type_of_another_zone, {"zones"}, WARNING, "subnets of eu-central-1b, eu"),
    "no route to S3": (_without_route, {"route to S3"}, FAILED, "com.amazonaws.eu-central-1.s3 to rtb-"),
    "an internet gateway and no public address": (
        _without_address, {"route to S3"}, FAILED, "set 'associate_public_ip' to True",
    ),
    "a public address that is refused": (_refusing_address, {"route to S3"}, FAILED, "set 'associate_public_ip'"),
    "a full subnet": (_full, {"addresses"}, FAILED, "add other subnets to 'subnet_id'"),
    "no such subnet": (_foreign_subnet, {"subnets", "launch"}, FAILED, "check options 'subnet_id' and 'region'"),
    "a security group of another network": (_foreign_group, {"security groups"}, FAILED, "'security_group_id'"),
    "a security group that keeps the broker away": (_shut_group, {"security groups"}, FAILED, "(broker)"),
    "no bundle": (_without_bundle, {"bundle"}, FAILED, "flame release push FILE"),
    "no bucket": (_without_bucket, {"bundle"}, FAILED, "'s3_bundle_url'"),
    "another bundle than is meant": (_another_checksum, {"bundle"}, FAILED, "set 's3_bundle_sha256' to"),
    "no profile": (_without_profile, {"instance profile"}, FAILED, "set 'iam_instance_profile'"),
    "a profile without role": (_profile_without_role, {"instance profile"}, FAILED, "add-role-to-instance-profile"),
    "a launch that is denied": (_denied, {"launch"}, FAILED, "allow iam:PassRole on arn:aws:iam::1:role/runner"),
    "spot that is denied": (_denied_spot, {"launch"}, FAILED, "AWSServiceRoleForEC2Spot"),
    "too large an environment": (_too_much_env, {"user data"}, FAILED, "'env'"),
    "prefetch above 1": (_prefetch, {"prefetch"}, WARNING, "worker_prefetch_multiplier = 1"),
    "a short visibility timeout": (_visibility, {"visibility timeout"}, FAILED, "'visibility_timeout'] above 600"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_each_thing_that_is_wrong_is_one_line_with_its_remedy(broken: str, site: Site) -> None:
    break_it, expected, verdict, words = BROKEN[broken]
    break_it(site)
    found = site.examined()
    told = unusual(found)
    assert told.keys() <= expected, told
    (finding,) = (each for each in told.values() if each.verdict is verdict and words in each.remedy)
    assert finding.check in expected
    assert exit_code(found) == (1 if verdict is FAILED else 0)


def test_a_private_subnet_with_an_endpoint_for_s3_is_fine_and_secrets_need_one_too(site: Site) -> None:
    _without_route(site)
    table = site.client.describe_route_tables(
        Filters=[{"Name": "association.subnet-id", "Values": [site.cloud.subnet_id]}]
    )["RouteTables"][0]["RouteTableId"]
    service = f"com.amazonaws.{site.cloud.region}.s3"
    site.client.create_vpc_endpoint(VpcId=site.cloud.vpc_id, ServiceName=service, RouteTableIds=[table])
    assert not unusual(site.examined())
    site.ec2["env"] = {"SECRET": {"from_secretsmanager": "proj"}}
    told = unusual(site.examined())
    assert told.keys() == {"route to secretsmanager"}
    assert "com.amazonaws.eu-central-1.secretsmanager" in told["route to secretsmanager"].remedy


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_one_failure_and_nothing_else_is_called_broken(
    name: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "wrong")
    found = site.examined()
    told = {check: each for check, each in unusual(found).items() if each.verdict is FAILED}
    assert told.keys() == {"credentials"}
    assert "AWS_SECRET_ACCESS_KEY" in told["credentials"].remedy
    assert exit_code(found) == 1
    assert {each.check for each in found} >= {"image", "subnets", "security groups", "bundle", "launch", "broker"}


def test_a_caller_who_may_only_launch_is_told_what_could_not_be_looked_at(site: Site) -> None:
    for action in ("DescribeRouteTables", "DescribeVpcEndpoints", "DescribeSecurityGroups", "GetInstanceProfile"):
        site.cloud.fail(action, code="UnauthorizedOperation", status=403, times=None)
    for action in ("HeadObject", "HeadBucket"):
        site.cloud.fail(action, code="AccessDenied", status=403, times=None)
    found = site.examined()
    told = unusual(found)
    assert {each.verdict for each in told.values()} == {UNKNOWN}
    assert told.keys() == {"route to S3", "security groups", "instance profile", "bundle"}
    assert "allow ec2:DescribeRouteTables" in told["route to S3"].remedy
    assert exit_code(found) == 0


def test_an_ec2_that_does_not_answer_is_waited_for_once(site: Site) -> None:
    site.ec2["ec2_service_endpoint"] = f"http://127.0.0.1:{free_port()}"
    found = site.examined()
    told = unusual(found)
    assert {each.verdict for each in told.values()} == {UNKNOWN}
    assert told.keys() >= {"image", "instance types", "subnets", "launch"}
    assert exit_code(found) == 69


@pytest.mark.parametrize("scheme", ["redis://127.0.0.1:{}/0", "amqp://127.0.0.1:{}//"])
def test_a_broker_that_is_down_is_told_and_hides_nothing_of_aws(site: Site, scheme: str) -> None:
    site.broker = scheme.format(free_port())
    found = site.examined()
    told = unusual(found)
    assert told["broker"].verdict is FAILED
    assert "broker_url" in told["broker"].remedy
    assert told.keys() <= {"broker", "lease"}
    assert any(each.check == "launch" and each.verdict is OK for each in found)
    assert exit_code(found) == 69


def test_a_region_that_nobody_names_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    site.ec2["region"] = None
    told = unusual(site.examined())
    assert told.keys() == {"region"}
    assert "AWS_DEFAULT_REGION" in told["region"].remedy


def test_auto_configure_without_metadata_is_told(site: Site) -> None:
    site.ec2.update(auto_configure=True, subnet_id=None)
    told = unusual(site.examined())
    assert told["auto_configure"].verdict is FAILED
    assert "AWS_EC2_METADATA_DISABLED" in told["auto_configure"].seen
    assert {each.verdict for check, each in told.items() if check != "auto_configure"} <= {UNKNOWN}


@pytest.mark.parametrize("kind", ["redis_url", "rabbit_url", "sqs_url"])
def test_each_broker_is_measured_and_left_as_it_was(
    kind: str, request: pytest.FixtureRequest, unique_name: Callable[[str], str], aws_url: str
) -> None:
    url, queue = request.getfixturevalue(kind), unique_name("video")
    app = Celery("proj", broker=url, set_as_current=False)
    app.conf.flame_pools = {"video": {"queues": [queue]}}
    found = {each.check: each for each in examine(app, os.environ, lambda _: None)}
    assert {found[check].verdict for check in ("broker", "queues", "lease")} == {OK}
    assert f"{queue} 0" in found["queues"].seen
    assert found["parent"].verdict is (UNKNOWN if kind == "sqs_url" else WARNING)
    assert not boto3.client("sqs", endpoint_url=aws_url).list_queues().get("QueueUrls")
    if kind == "redis_url":
        with app.connection_for_read() as connection:  # where Celery's remote control looks for replies
            left = connection.default_channel.client.scan_iter()
            assert [key for key in left if not key.startswith(b"_kombu.binding")] == []


# the command


@pytest.fixture
def work(site: Site, tmp_path: Path) -> Iterator[Deployment]:
    results = {"result_backend": site.broker}
    with Deployment(tmp_path, site.broker, **{**site.settings(), **results}) as deployment:
        yield deployment


def test_the_command_prints_a_line_for_each_check_and_the_remedy_below(site: Site, work: Deployment) -> None:
    ended = work.run("flame", "doctor", PYTHONIOENCODING="utf-8")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert any(line.startswith("✓ launch: EC2 would grant every request") for line in lines)
    assert not any(line.startswith("✗") for line in lines)
    at = next(at for at, line in enumerate(lines) if line.startswith("! parent: "))
    assert lines[at + 1].startswith("    start `celery worker --autoscale=MAX,MIN`")


def test_the_command_speaks_json_and_plain_ascii(site: Site, work: Deployment) -> None:
    site.cloud.client("s3").delete_object(Bucket=site.cloud.bucket, Key="proj/1.tar.gz")
    plain = work.run("flame", "doctor", PYTHONIOENCODING="ascii")
    assert plain.returncode == 1
    assert "\nx bundle: there is no s3://" in plain.stdout
    ended = work.run("flame", "doctor", "--json")
    assert ended.returncode == 1
    found = json.loads(ended.stdout)["findings"]
    (wrong,) = (each for each in found if each["verdict"] == "failed")
    assert wrong["check"] == "bundle"
    assert "flame release push FILE" in wrong["remedy"]


def test_a_worker_with_autoscale_is_the_parent_that_is_asked_for(redis_url: str, tmp_path: Path) -> None:
    pools = {"pool": {"queues": ["celery"], "max": 2, "max_concurrency": 1}}
    with Deployment(tmp_path, redis_url, flame_pools=pools) as work:
        plain = work.worker(name="plain")
        assert "and none has --autoscale" in work.run("flame", "doctor").stdout
        plain.stop()
        work.worker("--autoscale=2,1")
        ended = work.run("flame", "doctor", "--json")
        (parent,) = (each for each in json.loads(ended.stdout)["findings"] if each["check"] == "parent")
        assert (parent["verdict"], parent["seen"].partition("@")[0]) == ("ok", "worker")
        assert ended.returncode == 0
