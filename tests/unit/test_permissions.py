from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

import celery_flame_ec2
from celery_flame_ec2.backends.ec2 import permissions
from celery_flame_ec2.backends.ec2.clients import Clients
from celery_flame_ec2.backends.ec2.permissions import (
    DEPLOYER,
    DOCTOR,
    PARENT,
    RUNNER,
    TABLE,
    Ground,
    policy,
    size,
    unknowns,
)
from celery_flame_ec2.backends.ec2.recipe import Recipe, Rung
from celery_flame_ec2.backends.ec2.request import run_instances_request
from celery_flame_ec2.config import Ec2Options, PoolSettings

OWNER = "shop@redis/0"
ROOT = Path(__file__).parent.parent.parent
PACKAGE = Path(celery_flame_ec2.__file__).parent
PLAIN = {
    "app": "shop",
    "s3_bundle_url": "s3://releases/shop/1.4.2.tar.gz",
    "image_id": "ami-11111111",
    "subnet_id": ("subnet-11111111", "subnet-22222222"),
    "security_group_id": ("sg-11111111",),
}
#: What makes each right needed that not every deployment needs.
NEEDED = {
    "iam:PassRole": {"iam_instance_profile": "runner"},
    "ec2:DescribeLaunchTemplateVersions": {"launch_template_id": "lt-11111111", "image_id": None},
    "ssm:GetParameter": {"image_id": "resolve:ssm:/images/shop"},
    "s3:ListBucket": {"s3_bundle_url": "s3://releases/shop/1.4.2/"},
    "ssm:GetParameters": {"env": {"A": {"from_ssm": "/shop/a"}}},
    "secretsmanager:GetSecretValue": {"env": {"A": {"from_secretsmanager": "shop/a"}}},
    "secretsmanager:BatchGetSecretValue": {"env": {name: {"from_secretsmanager": f"shop/{name}"} for name in "AB"}},
    "kms:Decrypt": {"env": {"A": {"from_secretsmanager": "shop/a"}}},
}


def ground(*, max_concurrency: int | None = 4, name: str = "video", **options: Any) -> Ground:
    ours = {
        key: options.pop(key) for key in ("region", "partition", "account", "role", "lease", "board") if key in options
    }
    pool = PoolSettings(
        name=name, queues=(name,), max_concurrency=max_concurrency, ec2=Ec2Options(**{**PLAIN, **options})
    )
    known = {"region": "eu-central-1", "account": "123456789012", "role": "runner", **ours}
    return Ground(pool=pool, owner=OWNER, **known)


def everything() -> list[Ground]:
    """All that may be needed, in two regions."""
    references = {"A": {"from_ssm": "/shop/a"}, "B": {"from_secretsmanager": "shop/b"}, "C": "plain"}
    references["D"] = {"from_secretsmanager": "shop/d#key"}
    lease = "s3://releases/flame/lease/shop"
    template = {"launch_template_id": "lt-11111111", "image_id": None, "subnet_id": (), "security_group_id": ()}
    return [
        ground(
            market=("spot", "on-demand"),
            iam_instance_profile="runner",
            env=references,
            lease=lease,
            key_name="me",
            board=f"{lease}.board?region=eu-central-1",
        ),
        ground(image_id="resolve:ssm:/images/shop", s3_bundle_url="s3://other/shop/1/", max_concurrency=None),
        ground(region="us-east-1", name="audio", **template),
    ]


def statements(*grounds: Ground, who: str = PARENT) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = policy(grounds, who)["Statement"]
    return found


def of(action: str, *grounds: Ground, who: str = PARENT) -> list[dict[str, Any]]:
    return [one for one in statements(*grounds, who=who) if action in listed(one["Action"])]


def on(action: str, *grounds: Ground, who: str = PARENT) -> set[str]:
    return {arn for one in of(action, *grounds, who=who) for arn in listed(one["Resource"])}


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# what no statement may be


@pytest.mark.parametrize("who", [PARENT, DOCTOR, RUNNER])
def test_only_what_describes_is_allowed_on_everything(who: str) -> None:
    for statement in statements(*everything(), who=who):
        if "*" in listed(statement["Resource"]):
            beside = {"secretsmanager:BatchGetSecretValue"}  # which gives nothing that GetSecretValue does not allow
            assert all(action.startswith("ec2:Describe") for action in {*listed(statement["Action"])} - beside)


def test_what_creates_tags_and_ends_is_bound_to_the_owners_tag() -> None:
    bound = {"ec2:CreateTags": "Request", "ec2:TerminateInstances": "Resource", "ec2:GetConsoleOutput": "Resource"}
    for action, tag in bound.items():
        for statement in of(action, *everything()):
            assert statement["Condition"]["StringEquals"][f"aws:{tag}Tag/flame:owner"] == OWNER
    for statement in of("ec2:RunInstances", *everything()):
        creates = any(":instance/" in arn for arn in statement["Resource"])
        assert creates == ("Condition" in statement)
        if creates:
            assert statement["Condition"] == {"StringEquals": {"aws:RequestTag/flame:owner": OWNER}}


def test_the_parent_changes_nothing_else() -> None:
    changing = {action for p in TABLE if p.who in (PARENT, DOCTOR) for action in [p.action] if not reads(action)}
    bound = {"ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances", "iam:PassRole"}
    assert changing == bound | {"s3:PutObject", "s3:DeleteObject"}
    assert {p.sid for p in TABLE if p.who == RUNNER and not reads(p.action)} == {"PinWords"}


def reads(action: str) -> bool:
    return action.partition(":")[2].startswith(("BatchGet", "Describe", "Get", "List", "Decrypt"))


def test_tags_are_given_in_a_launch_only() -> None:
    (statement,) = of("ec2:CreateTags", ground())
    assert statement["Condition"]["StringEquals"]["ec2:CreateAction"] == "RunInstances"


@pytest.mark.parametrize("market", ["spot", "on-demand"])
def test_all_that_a_launch_tags_may_be_created_and_tagged_and_nothing_else(market: str) -> None:
    made = Recipe(image="ami-1", image_id="ami-1", subnet_ids=("subnet-1",))
    rung = Rung(market=market, instance_type="t3.nano", subnet_id="subnet-1")
    tags = {"flame:owner": OWNER, "flame:pool": "p"}
    request = run_instances_request(made, rung, count=1, token="t", tags=tags, user_data=b"")
    kinds = {f"arn:aws:ec2:eu-central-1:123456789012:{one['ResourceType']}/*" for one in request["TagSpecifications"]}
    here = ground(market=(market,))
    assert on("ec2:CreateTags", here) == kinds
    assert kinds <= on("ec2:RunInstances", here)
    assert ("spot-instances-request" in str(kinds)) == (market == "spot")


def test_only_the_runners_role_is_passed_and_only_to_ec2() -> None:
    (statement,) = of("iam:PassRole", ground(iam_instance_profile="shop-profile", role="shop/runner"))
    assert statement["Resource"] == "arn:aws:iam::123456789012:role/shop/runner"
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    given = ground(iam_instance_profile="shop-profile", role="arn:aws:iam::999999999999:role/other")
    assert on("iam:PassRole", given) == {"arn:aws:iam::999999999999:role/other"}


def test_a_role_that_nobody_named_is_never_any_role() -> None:
    assert on("iam:PassRole", ground(iam_instance_profile="p", role=permissions.NO_ROLE)) == {
        "arn:aws:iam::123456789012:role/RUNNER-ROLE"
    }


# what a launch runs on


def test_a_launch_runs_on_what_the_settings_name() -> None:
    here = "arn:aws:ec2:eu-central-1:123456789012:"
    assert set(of("ec2:RunInstances", ground(key_name="me"))[0]["Resource"]) == {
        "arn:aws:ec2:eu-central-1::image/ami-11111111", "arn:aws:ec2:eu-central-1::snapshot/*",
        f"{here}subnet/subnet-11111111", f"{here}subnet/subnet-22222222", f"{here}security-group/sg-11111111",
        f"{here}key-pair/me",
    }  # fmt: skip


def test_what_a_template_names_may_be_any_but_the_template_may_not() -> None:
    bare = ground(launch_template_id="lt-11111111", image_id=None, subnet_id=(), security_group_id=())
    here = "arn:aws:ec2:eu-central-1:123456789012:"
    assert set(of("ec2:RunInstances", bare)[0]["Resource"]) == {
        "arn:aws:ec2:eu-central-1::image/*", "arn:aws:ec2:eu-central-1::snapshot/*", f"{here}subnet/*",
        f"{here}security-group/*", f"{here}key-pair/*", f"{here}launch-template/lt-11111111",
    }  # fmt: skip


def test_a_name_is_never_a_wildcard() -> None:
    assert "arn:aws:ec2:eu-central-1:123456789012:key-pair/${*}${$}{x}" in on(
        "ec2:RunInstances", ground(key_name="*${x}")
    )
    written = on("s3:PutObject", ground(lease="s3://b/a?c*"))
    assert written == {f"arn:aws:s3:::b/a${{?}}c${{*}}{end}" for end in ("", ".notes", ".overrides")}


# what is read


@pytest.mark.parametrize(
    ("name", "arn"),
    [
        ("/shop/a", "arn:aws:ssm:eu-central-1:123456789012:parameter/shop/a"),
        ("a", "arn:aws:ssm:eu-central-1:123456789012:parameter/a"),
        ("/shop/a:3", "arn:aws:ssm:eu-central-1:123456789012:parameter/shop/a"),
        ("/aws/service/ami", "arn:aws:ssm:eu-central-1::parameter/aws/service/ami"),
        (
            "arn:aws:ssm:us-east-1:210987654321:parameter/a:label",
            "arn:aws:ssm:us-east-1:210987654321:parameter/a",
        ),
    ],
)
def test_a_parameter_is_named_without_its_version(name: str, arn: str) -> None:
    assert on("ssm:GetParameter", ground(image_id=f"resolve:ssm:{name}")) == {arn}
    assert on("ssm:GetParameters", ground(env={"A": {"from_ssm": name}}), who=RUNNER) == {arn}


@pytest.mark.parametrize(
    ("name", "arn"),
    [
        ("shop/a", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/a-??????"),
        ("shop/a#key", "arn:aws:secretsmanager:eu-central-1:123456789012:secret:shop/a-??????"),
        ("arn:aws:secretsmanager:us-east-1:1:secret:a-AbC123", "arn:aws:secretsmanager:us-east-1:1:secret:a-AbC123"),
        ("arn:aws:secretsmanager:us-east-1:1:secret:a", "arn:aws:secretsmanager:us-east-1:1:secret:a-??????"),
    ],
)
def test_a_secret_is_named_with_what_aws_puts_behind_its_name(name: str, arn: str) -> None:
    assert on("secretsmanager:GetSecretValue", ground(env={"A": {"from_secretsmanager": name}}), who=RUNNER) == {arn}


def test_keys_decrypt_through_the_services_that_are_used_only() -> None:
    (statement,) = of("kms:Decrypt", ground(env={"A": {"from_ssm": "a"}}), who=RUNNER)
    assert statement["Resource"] == "arn:aws:kms:eu-central-1:123456789012:key/*"
    assert statement["Condition"] == {"StringLike": {"kms:ViaService": "ssm.eu-central-1.amazonaws.com"}}


@pytest.mark.parametrize(
    ("url", "objects", "prefix"),
    [
        ("s3://r/shop/1.4.2.tar.gz", "shop/*.tar.gz", None),
        ("s3://r/1.4.2.tar.zst", "*.tar.zst", None),
        ("s3://r/shop/1.4.2.tgz", "shop/*.tgz", None),
        ("s3://r/shop/1.4.2/", "shop/*", "shop/*"),
        ("s3://r/shop/", "shop/*", "shop/*"),
    ],
)
def test_the_next_release_beside_this_one_needs_no_other_policy(url: str, objects: str, prefix: str | None) -> None:
    here = ground(s3_bundle_url=url)
    for who in (RUNNER, DOCTOR):
        assert on("s3:GetObject", here, who=who) == {f"arn:aws:s3:::r/{objects}"}
    lists = [(one["Resource"], one["Condition"]) for one in of("s3:ListBucket", here, who=RUNNER)]
    assert lists == ([("arn:aws:s3:::r", {"StringLike": {"s3:prefix": prefix}})] if prefix else [])


def test_a_lease_in_s3_is_one_object_with_its_notes_and_what_operators_decided_beside_it() -> None:
    here = ground(lease="s3://releases/flame/lease/shop@redis/0")
    lease = "arn:aws:s3:::releases/flame/lease/shop@redis/0"
    its = {lease, f"{lease}.notes", f"{lease}.overrides"}
    assert on("s3:GetObject", here) == {*its, "arn:aws:s3:::releases/shop/*.tar.gz"}
    assert on("s3:PutObject", here) == on("s3:DeleteObject", here) == its


def test_a_runner_writes_words_and_reads_orders_and_a_parent_reads_words_and_writes_orders() -> None:
    here = ground(board="s3://releases/flame/lease/shop%40%2A.board?endpoint=http%3A%2F%2Fh")
    at = "arn:aws:s3:::releases/flame/lease/shop@${*}.board"
    assert on("s3:PutObject", here, who=RUNNER) == on("s3:DeleteObject", here, who=RUNNER) == {f"{at}/words/*"}
    assert on("s3:GetObject", here, who=RUNNER) == {"arn:aws:s3:::releases/shop/*.tar.gz", f"{at}/orders"}
    assert on("s3:GetObject", here) == {"arn:aws:s3:::releases/shop/*.tar.gz", f"{at}/orders"}
    assert on("s3:PutObject", here) == {f"{at}/orders"}
    assert on("s3:DeleteObject", here) == {f"{at}/words/*"}
    (listing,) = of("s3:ListBucket", here)
    assert listing["Condition"] == {"StringLike": {"s3:prefix": f"{at.removeprefix('arn:aws:s3:::releases/')}/words/*"}}
    assert not of("s3:ListBucket", here, who=RUNNER)


# what is there only where it is needed


@pytest.mark.parametrize("action", NEEDED)
def test_a_right_is_given_only_where_the_settings_need_it(action: str) -> None:
    for who in {permission.who for permission in TABLE if permission.action == action} - {DOCTOR, DEPLOYER}:
        assert not of(action, ground(), who=who)
    assert of(action, ground(**NEEDED[action]), who=RUNNER) or of(action, ground(**NEEDED[action]), who=PARENT)


def test_types_are_asked_for_where_nobody_says_how_many_tasks_a_runner_takes() -> None:
    assert not of("ec2:DescribeInstanceTypes", ground())
    assert of("ec2:DescribeInstanceTypes", ground(max_concurrency=None))


def test_without_a_lease_in_s3_the_parent_only_looks_at_the_bundle_there() -> None:
    actions = re.findall(r"s3:\w+", json.dumps(policy([ground()], PARENT)))
    assert set(actions) == {"s3:GetObject", "s3:GetObjectVersion"}


def test_every_right_of_the_table_is_given_to_somebody() -> None:
    for permission in TABLE:
        assert on(permission.action, *everything(), who=permission.who), permission.why


# the document


def test_pools_and_regions_make_one_policy_whatever_their_order() -> None:
    grounds = everything()
    expected = policy(grounds, PARENT)
    for seed in range(5):
        random.Random(seed).shuffle(grounds)
        assert sorted(policy(grounds, PARENT)["Statement"], key=str) == sorted(expected["Statement"], key=str)
    assert json.dumps(policy(everything(), PARENT)) == json.dumps(expected)
    assert {arn.split(":")[3] for arn in on("ec2:TerminateInstances", *grounds)} == {"eu-central-1", "us-east-1"}


def test_a_statements_name_is_in_a_policy_once() -> None:
    other = ground(s3_bundle_url="s3://other/audio/1/", region="cn-north-1", partition="aws-cn")
    for who in (PARENT, DOCTOR, RUNNER):
        sids = [statement["Sid"] for statement in statements(*everything(), other, who=who)]
        assert len(set(sids)) == len(sids)
        assert all(re.fullmatch(r"[A-Za-z0-9]+", sid) for sid in sids)


def test_no_action_is_given_on_more_than_it_asks_for() -> None:
    """A statement is the product of its actions and resources, so all rows of a Sid must agree in both."""
    for one in everything():
        for permission in TABLE:
            beside = [other for other in TABLE if (other.who, other.sid) == (permission.who, permission.sid)]
            found = {(tuple(each.on(one)), str(each.under(one))) for each in beside if tuple(each.on(one))}
            assert len(found) <= 1, permission.sid


@pytest.mark.parametrize(("region", "partition"), [("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")])
def test_every_arn_is_of_the_regions_partition(region: str, partition: str) -> None:
    clients = Clients()
    assert clients.partition(region) == partition
    assert clients.partition("eu-central-1") == "aws"
    grounds = [
        ground(
            **{**NEEDED["iam:PassRole"], **NEEDED["kms:Decrypt"]}, region=region, partition=partition, lease="s3://b/k"
        )
    ]
    text = json.dumps([policy(grounds, who) for who in (PARENT, DOCTOR, RUNNER)])
    assert set(re.findall(r"arn:([\w-]+):", text)) == {partition}
    assert ("amazonaws.com.cn" in text) == (partition == "aws-cn")


def test_size_is_counted_as_iam_counts() -> None:
    document = policy([ground()], PARENT)
    assert size(document) == len("".join(json.dumps(document, indent=4).split()))
    assert size(policy(everything(), PARENT, DOCTOR)) < permissions.MOST


# what is left open


def test_what_is_not_known_is_said_with_the_option_that_tells_it() -> None:
    blank = ground(account="*", role=permissions.NO_ROLE, region="*", market=("spot",), iam_instance_profile="p")
    told = " ".join(unknowns([blank, blank]))
    for words in ("give --account", "give --role", "give option 'region'", "AWSServiceRoleForEC2Spot"):
        assert told.count(words) == 1
    assert unknowns([ground()]) == []
    assert "lt-11111111" in unknowns([ground(launch_template_id="lt-11111111", image_id=None)])[0]


def test_a_role_is_not_asked_for_where_none_is_passed() -> None:
    assert not unknowns([ground(role=permissions.NO_ROLE)])


# the code and the table


def operations() -> dict[str, str]:
    """Return the names of API calls by how Python says them."""
    session = botocore.session.get_session()
    models = [session.get_service_model(name) for name in ("ec2", "iam", "s3", "secretsmanager", "ssm", "sts")]
    return {xform_name(name): name for model in models for name in model.operation_names}


def words(source: Path) -> Iterator[str]:
    """Yield every attribute and every text in a module of ours."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def said(*, but: str = "permissions.py") -> set[str]:
    return {word for source in PACKAGE.rglob("*.py") if source.name != but for word in words(source)}


def made() -> set[str]:
    """Return the API calls that our modules name."""
    known = operations()
    targets = {word.partition(".")[2] for word in said() if re.fullmatch(r"(AmazonSSM|secretsmanager)\.\w+", word)}
    return {known[word] for word in said() & known.keys()} | targets


def test_every_call_that_the_code_makes_is_in_the_table_and_the_other_way_round() -> None:
    allowed = {call for permission in TABLE for call in permission.calls}
    assert made() - allowed == {"GetCallerIdentity"}  # which needs no right
    assert allowed - made() <= {"ListObjectsV2"}  # the bootstrap speaks plain HTTP to S3


def test_every_action_that_an_error_names_is_in_the_table() -> None:
    named = {
        action for word in said() for action in re.findall(r"\b(?:ec2|iam|s3|ssm|kms|secretsmanager):[A-Z]\w+", word)
    }
    warned_of = {"ec2:DescribeInstanceAttribute"}  # with which others read user data
    assert named - {permission.action for permission in TABLE} == warned_of & named


# what is printed


def printed(*words: str, **flame: Any) -> subprocess.CompletedProcess[str]:
    """Run `celery flame iam-policy` with the README's settings."""
    ec2 = {
        "app": "proj",
        "s3_bundle_url": "s3://releases/proj/1.4.2.tar.gz",
        "image_id": "ami-0abcdef1234567890",
        "subnet_id": ["subnet-0aaaaaaaa", "subnet-0bbbbbbbb"],
        "security_group_id": "sg-0aaaaaaaa",
        "iam_instance_profile": "proj-runner",
        "instance_type": ["c7i.xlarge", "c6i.xlarge"],
        "market": ["spot", "on-demand"],
        "env": {"DATABASE_URL": {"from_ssm": "/proj/database-url"}},
        "region": "eu-west-1",
    }
    conf = {
        "broker_url": "redis://broker.internal:6379/0",
        "flame_owner": "proj@broker.internal/0",
        "flame_backend": "ec2",
        "flame_ec2": ec2,
        "flame_pools": {"video": {"queues": ["video"], "max": 20, "max_concurrency": 4}},
        **flame,
    }
    command = [sys.executable, "-m", "celery", "-A", "tests.integration.apps.work:app", "flame", "iam-policy", *words]
    environ = {**os.environ, "WORK_CONF": json.dumps(conf)}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def test_the_page_shows_what_is_printed() -> None:
    known = ("--account", "123456789012", "--role", "proj-runner")
    parent, runner = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "iam.md").read_text(), re.DOTALL)
    assert printed(*known, "--for", "parent", "--no-doctor").stdout == parent
    assert printed(*known, "--for", "runner").stdout == runner


def test_both_are_printed_as_one_object_and_the_rest_is_said_beside_it() -> None:
    ended = printed("--account", "123456789012")
    both = json.loads(ended.stdout)
    assert both.keys() == {"parent", "runner", "deployer"}
    assert "Doctor" in str(both["parent"])
    notes = ended.stderr.splitlines()
    assert all(note.startswith("note: ") for note in notes)
    assert [word for note in notes for word in ("--account", "--role", "Spot") if word in note] == ["--role", "Spot"]


def test_a_lease_in_s3_is_found_where_the_parents_look_for_it() -> None:
    lease = "s3://leases/shop"
    both = json.loads(printed(flame_lease=lease).stdout)
    assert "arn:aws:s3:::leases/shop" in str(both["parent"])
    assert "s3:PutObject" not in str(both["runner"])


def test_a_policy_that_is_too_long_for_iam_is_told() -> None:
    pools = {f"p{n}": {"queues": [f"q{n}"], "subnet_id": [f"subnet-{n:07x}{m}" for m in range(9)]} for n in range(20)}
    ended = printed("--account", "123456789012", flame_pools=pools)
    assert ended.returncode == 0
    assert "note: the parent's policy has" in ended.stderr
    assert "IAM takes 6144" in ended.stderr


@pytest.mark.parametrize(
    ("words", "flame", "told"),
    [
        (("--account", "12"), {}, "an account has 12 digits, got '12'"),
        (("--role", "a b"), {}, "expected a role's name"),
        ((), {"flame_backend": "local"}, "flame_backend is 'local'"),
    ],
)
def test_what_cannot_be_printed_is_refused_in_a_line(words: tuple[str, ...], flame: dict[str, Any], told: str) -> None:
    ended = printed(*words, **flame)
    assert ended.returncode not in (0, None)
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
