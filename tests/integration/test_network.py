"""Do the templates in extras/ make what a first burst needs, and give the rights that `flame iam-policy` prints?"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import hcl2
import pytest
from celery import Celery
from cfnlint.decode import cfn_yaml
from moto.cloudformation import parsing

from celery_flame_ec2.doctor import examine
from celery_flame_ec2.finding import Verdict
from tests.box.cloud import Cloud
from tests.workers import PYTHON, ROOT, WORK

TEMPLATE = ROOT / "extras" / "cloudformation" / "flame.yaml"
TERRAFORM = ROOT / "extras" / "terraform"
BROKERS = {"redis": "redis://broker.internal/0", "rabbitmq": "amqp://broker.internal//", "sqs": "sqs://"}
NAMES = {"parameters": ["/proj/database-url"], "secrets": ["proj/b", "proj/c"]}
ENV = {
    "DATABASE_URL": {"from_ssm": "/proj/database-url"},
    "B": {"from_secretsmanager": "proj/b"},
    "C": {"from_secretsmanager": "proj/c#key"},
}


class Stack:
    """The template, deployed."""

    def __init__(self, cloud: Cloud, broker: str = "redis", **parameters: str) -> None:
        self.cloud, self.broker = cloud, broker
        self.references = parameters.pop("references", "yes") == "yes"
        self._client = cloud.client("cloudformation")
        vpc = cloud.client("ec2").describe_vpcs(VpcIds=[cloud.vpc_id])["Vpcs"][0]
        given = {
            "VpcId": cloud.vpc_id,
            "VpcCidr": vpc["CidrBlock"],
            "Zones": ",".join(f"{cloud.region}{zone}" for zone in "abc"),
            "SubnetCidrs": ",".join(f"172.31.{200 + number}.0/24" for number in range(3)),
            "ImageId": cloud.image_id,
            "Broker": broker,
            "BrokerSecurityGroupId": cloud.security_group_ids[0],
            "ParameterArns": ",".join(self.parameter_arns) or "none",
            "SecretArns": ",".join(self.secret_arns) or "none",
            **parameters,
        }
        self._client.create_stack(
            StackName="proj",
            TemplateBody=TEMPLATE.read_text(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
        )
        (stack,) = self._client.describe_stacks(StackName="proj")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        self.outputs = {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}
        self.ec2 = {**json.loads(self.outputs["FlameEc2"]), "env": ENV if self.references else {}}

    @property
    def parameter_arns(self) -> list[str]:
        return [self._arn("ssm", f"parameter{name}") for name in NAMES["parameters"] if self.references]

    @property
    def secret_arns(self) -> list[str]:
        return [self._arn("secretsmanager", f"secret:{name}-??????") for name in NAMES["secrets"] if self.references]

    def _arn(self, service: str, resource: str) -> str:
        return f"arn:aws:{service}:{self.cloud.region}:{self.cloud.account}:{resource}"

    def settings(self) -> dict[str, Any]:
        """Return an app's configuration with what the stack tells pasted in."""
        return {
            "broker_url": BROKERS[self.broker],
            "flame_backend": "ec2",
            "flame_owner": self.outputs["Owner"],
            "flame_ec2": self.ec2,
            "flame_pools": {"default": {"queues": ["celery"], "max": 20}},
        }

    def granted(self) -> dict[str, Any]:
        """Return the policies that the stack made."""
        iam = self.cloud.client("iam")
        return {
            who: iam.get_policy_version(PolicyArn=self.outputs[f"{who.capitalize()}Policy"], VersionId="v1")[
                "PolicyVersion"
            ]["Document"]
            for who in ("parent", "runner", "deployer")
        }

    @functools.cached_property
    def printed(self) -> dict[str, Any]:
        """Return the policies that the command prints for the same settings."""
        command = ["-A", WORK, "flame", "iam-policy", "--account", self.cloud.account]
        done = subprocess.run(
            [sys.executable, "-m", "celery", *command, "--role", self.outputs["RunnerRole"]],
            env={**os.environ, **PYTHON, "WORK_CONF": json.dumps(self.settings())},
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return dict(json.loads(done.stdout))

    def resources(self, kind: str) -> list[str]:
        found = self._client.list_stack_resources(StackName="proj")["StackResourceSummaries"]
        return [each["PhysicalResourceId"] for each in found if each["ResourceType"] == f"AWS::{kind}"]


def normalised(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return statements by Sid, with lists and single words alike and in no order."""
    return {statement["Sid"]: _sets(statement) for statement in document["Statement"]}


def _sets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sets(each) for key, each in value.items()}
    return frozenset([value] if isinstance(value, str) else value)


@pytest.fixture(scope="module")
def deployed() -> Iterator[Callable[..., Stack]]:
    """Give the template's stack for a broker, with secrets or without: each is made once."""
    with contextlib.ExitStack() as open_, pytest.MonkeyPatch.context() as patch:
        # An AWS::NoValue in a list is left out by CloudFormation; moto leaves a null there.
        clean = parsing.clean_json
        patch.setattr(parsing, "clean_json", lambda *given: _without_nulls(clean(*given)))
        session = boto3.session.Session()

        @functools.cache
        def deploy(broker: str, references: str = "yes") -> Stack:
            cloud = open_.enter_context(Cloud(session=session))
            _let_tables_be_given(cloud)
            return Stack(cloud, broker, references=references)

        yield deploy


def _let_tables_be_given(cloud: Cloud) -> None:
    """Moto notes which route table a stack gives to a subnet, and gives it none."""
    backend = cloud._backend(cloud.region)
    note = backend.create_subnet_association

    def associate(route_table_id: str, subnet_id: str) -> Any:
        backend.associate_route_table(route_table_id=route_table_id, subnet_id=subnet_id)
        return note(route_table_id=route_table_id, subnet_id=subnet_id)

    backend.create_subnet_association = associate


def _without_nulls(value: Any) -> Any:
    return [each for each in value if each is not None] if isinstance(value, list) else value


# CloudFormation

unsupported = pytest.mark.filterwarnings("ignore:Tried to parse AWS.:UserWarning")


def test_the_linter_of_cloudformation_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "cfn-lint", "--non-zero-exit-code", "informational", TEMPLATE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@unsupported
@pytest.mark.parametrize("broker", BROKERS)
def test_the_stack_gives_the_rights_that_the_command_prints(deployed: Callable[..., Stack], broker: str) -> None:
    stack = deployed(broker)
    printed, granted = stack.printed, stack.granted()
    assert printed.keys() == granted.keys()
    for who, document in printed.items():
        assert normalised(granted[who]) == normalised(document), who


@unsupported
def test_a_stack_without_references_gives_no_right_to_secrets(deployed: Callable[..., Stack]) -> None:
    stack = deployed("redis", references="no")
    assert normalised(stack.granted()["runner"]) == normalised(stack.printed["runner"])
    assert not stack.resources("EC2::VPCEndpoint")[1:], "an endpoint that nothing needs"
    assert stack.resources("EC2::SecurityGroup") == [stack.ec2["security_group_id"]], "a group that is nobody's"


@unsupported
def test_the_doctor_finds_nothing_wrong_with_what_the_stack_made(
    deployed: Callable[..., Stack], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = deployed("redis")
    cloud = stack.cloud
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint)  # what has no endpoint option of its own: STS, IAM
    bucket = stack.ec2["s3_bundle_url"].split("/")[2]
    cloud.client("s3").put_object(Bucket=bucket, Key="proj/1.tar.gz", Body=b"release", ChecksumAlgorithm="SHA256")
    app = Celery("proj", set_as_current=False)
    app.conf.update(stack.settings())
    app.conf.update(broker_url=redis_url, task_time_limit=600, worker_autoscaler="celery_flame_ec2:Autoscaler")
    local = {"ec2_service_endpoint": cloud.endpoint, "s3_service_endpoint": cloud.endpoint, "allow_local_broker": True}
    app.conf.flame_ec2 = {**stack.ec2, **local, "instance_type": "t3.micro"}
    found = list(examine(app, os.environ, lambda _: None, pause=lambda _: None))
    assert not [each for each in found if each.verdict is Verdict.FAILED]
    ok = {each.check: each.seen for each in found if each.verdict is Verdict.OK}
    for check in ("route to S3", "route to SSM", "route to secretsmanager"):
        assert "an endpoint in the VPC" in ok[check]
    assert ok.keys() >= {"bundle", "instance profile", "security groups", "addresses", "zones", "launch"}


def test_the_bucket_keeps_versions_and_takes_nothing_in_the_clear() -> None:
    resources = cfn_yaml.load(str(TEMPLATE))["Resources"]
    bucket = resources["Bucket"]["Properties"]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (statement,) = resources["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@unsupported
def test_the_stack_encrypts_releases_and_lets_nobody_in(deployed: Callable[..., Stack]) -> None:
    stack = deployed("redis")
    cloud = stack.cloud
    bucket, s3 = stack.ec2["s3_bundle_url"].split("/")[2], cloud.client("s3")
    assert s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    ec2 = cloud.client("ec2")
    (group,) = ec2.describe_security_groups(GroupIds=[stack.ec2["security_group_id"]])["SecurityGroups"]
    assert not group["IpPermissions"]
    zones = {each["AvailabilityZone"] for each in ec2.describe_subnets(SubnetIds=stack.ec2["subnet_id"])["Subnets"]}
    assert len(zones) == 3
    (broker,) = ec2.describe_security_groups(GroupIds=[cloud.security_group_ids[0]])["SecurityGroups"]
    (rule,) = broker["IpPermissions"]
    assert (rule["FromPort"], rule["ToPort"]) == (6379, 6379)
    assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group["GroupId"]]


# Terraform


def test_every_file_for_terraform_can_be_parsed_and_refers_to_what_there_is() -> None:
    for module in (TERRAFORM, TERRAFORM / "policies"):
        text = "\n".join(path.read_text() for path in sorted(module.glob("*.tf")))
        parsed = [hcl2.loads(path.read_text()) for path in sorted(module.glob("*.tf"))]
        known = set(_defined(parsed))
        code = re.sub(r"#.*", "", text)
        used = re.findall(r"\b((?:var|local|module)\.\w+|data\.\w+\.\w+|(?<![\w.])aws_\w+\.\w+)", code)
        assert used
        assert set(used) <= known, sorted(set(used) - known)
        assert {name for name in known if name.startswith(("var.", "local."))} <= set(used), "defined, and never used"


def _defined(files: list[dict[str, Any]]) -> Iterator[str]:
    def bare(name: str) -> str:
        return name.strip('"')

    for file in files:
        for block in file.get("variable", ()):
            yield from (f"var.{bare(name)}" for name in block)
        for block in file.get("locals", ()):
            yield from (f"local.{name}" for name in block if not name.startswith("__"))
        for block in file.get("module", ()):
            yield from (f"module.{bare(name)}" for name in block)
        for kind, prefix in (("resource", ""), ("data", "data.")):
            for block in file.get(kind, ()):
                yield from (f"{prefix}{bare(each)}.{bare(name)}" for each in block for name in block[each])


@pytest.fixture(scope="module")
def terraform() -> str:
    found = shutil.which("terraform") or shutil.which("tofu")
    if not found:
        pytest.skip("neither terraform nor tofu is installed: its policies are parsed, and not evaluated")
    return found


def test_files_for_terraform_are_formatted(terraform: str) -> None:
    done = subprocess.run([terraform, "fmt", "-check", "-recursive", TERRAFORM], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


@unsupported
@pytest.mark.parametrize("broker", BROKERS)
def test_terraform_gives_the_rights_that_the_command_prints(
    deployed: Callable[..., Stack], broker: str, terraform: str, tmp_path: Path
) -> None:
    stack = deployed(broker)
    cloud = stack.cloud
    bucket = stack.ec2["s3_bundle_url"].split("/")[2]
    iam = f"arn:aws:iam::{cloud.account}"
    variables = {
        "app": "proj", "partition": "aws", "region": cloud.region, "account": cloud.account, "broker": broker,
        "bucket_arn": f"arn:aws:s3:::{bucket}", "image_id": cloud.image_id, "subnet_ids": stack.ec2["subnet_id"],
        "security_group_ids": [stack.ec2["security_group_id"]],
        "runner_role_arn": f"{iam}:role/{stack.outputs['RunnerRole']}",
        "runner_profile_arn": f"{iam}:instance-profile/{stack.ec2['iam_instance_profile']}",
        "parameter_arns": stack.parameter_arns, "secret_arns": stack.secret_arns,
    }  # fmt: skip
    granted = _evaluated(terraform, tmp_path, variables)
    assert granted.keys() == stack.printed.keys()
    for who, document in stack.printed.items():
        assert normalised(granted[who]) == normalised(document), who


def _evaluated(terraform: str, directory: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outputs of the module with the policies, which needs no provider."""
    place = shutil.copytree(TERRAFORM / "policies", directory / "policies", dirs_exist_ok=True)
    (place / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(*words: str) -> str:
        return subprocess.run(
            [terraform, *words], cwd=place, env={**os.environ, "CHECKPOINT_DISABLE": "1"},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    run("init", "-input=false")
    run("apply", "-auto-approve", "-input=false")
    return {name: json.loads(each["value"]) for name, each in json.loads(run("output", "-json")).items()}
