"""What does the doctor make of what it sees?"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2 import doctor
from celery_flame_ec2.backends.ec2.checkup import asker, bundle, machine, network, rights
from celery_flame_ec2.backends.ec2.clients import Clients, Place, Refused
from celery_flame_ec2.backends.ec2.recipe import Rung
from celery_flame_ec2.backends.ec2.refusals import Meaning, Refusal
from celery_flame_ec2.cli.doctor import exit_code, lines
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings, read_settings
from celery_flame_ec2.doctor import app as habit
from celery_flame_ec2.doctor import broker, env
from celery_flame_ec2.doctor.app import Habits
from celery_flame_ec2.errors import LeaseDenied
from celery_flame_ec2.finding import Finding, Verdict, failed, of_pools, ok, unknown, warning
from celery_flame_ec2.lease.file import FileStore
from celery_flame_ec2.premises import own_file
from celery_flame_ec2.workers import Workers

OK, WARNING, UNKNOWN, FAILED = Verdict.OK, Verdict.WARNING, Verdict.UNKNOWN, Verdict.FAILED
URL = "s3://releases/proj/1.tar.gz"


def refused(code: str, message: str = "", meaning: Meaning = Meaning.FATAL, action: str = "ec2:Look") -> Refusal:
    return Refusal(meaning=meaning, action=action, code=code, message=message)


FORBIDDEN = refused("UnauthorizedOperation")
SILENT = refused("", "no answer", Meaning.UNREACHABLE)


def verdicts(found: Iterable[Finding]) -> dict[str, Verdict]:
    """Return the verdict of each check; of several on one check the last."""
    return {finding.check: finding.verdict for finding in found}


def not_fine(found: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.verdict is not OK]


# Celery's settings

SAFE = Habits(time_limit=600, visibility_timeout=3600.0)
POOL = PoolSettings(name="video", queues=("video",))

HABITS = {
    "nothing to say": (SAFE, POOL, None, None, None),
    "another autoscaler": (replace(SAFE, is_ours=False, autoscaler="x:Y"), POOL, "worker_autoscaler", WARNING, "serve"),
    "a pool that cannot be sized": (replace(SAFE, worker_pool="solo"), POOL, "worker_autoscaler", FAILED, "prefork"),
    "prefetch above 1": (
        replace(SAFE, prefetch=4), POOL, "prefetch", WARNING, "worker_prefetch_multiplier = 1",
    ),
    "prefetch without bound": (replace(SAFE, prefetch=0), POOL, "prefetch", FAILED, "worker_prefetch_multiplier = 1"),
    "runners that prefetch": (
        SAFE, replace(POOL, worker_options={"prefetch_multiplier": 8}), "prefetch", WARNING, "'worker_options'",
    ),
    "early acknowledgement": (
        replace(SAFE, early=("proj.a",)), POOL, "acknowledgement", WARNING, "task_acks_late = True",
    ),
    "nothing decided, and runners with processes": (replace(SAFE, undecided=("proj.a",)), POOL, None, None, None),
    "nothing decided, and runners with threads": (
        replace(SAFE, undecided=("proj.a",)), replace(POOL, worker_options={"pool": "threads"}),
        "acknowledgement", WARNING, "task_acks_late = True",
    ),
    "late, and lost with its process": (
        replace(SAFE, unprotected=("proj.a",)), POOL, "acknowledgement", WARNING, "task_reject_on_worker_lost = True",
    ),
    "tasks longer than the visibility timeout": (
        replace(SAFE, time_limit=7200), POOL, "visibility timeout", FAILED, "'visibility_timeout'] above 7200",
    ),
    "an end longer than the visibility timeout": (
        replace(SAFE, time_limit=None, early=("a",), visibility_timeout=10.0), POOL,
        "visibility timeout", FAILED, "'visibility_timeout'] above 30",
    ),
    "tasks without bound": (
        replace(SAFE, time_limit=None), POOL, "visibility timeout", WARNING, "task_time_limit below 3600",
    ),
    "a limit for one pool only": (
        replace(SAFE, time_limit=None), replace(POOL, worker_options={"time_limit": 9000}),
        "visibility timeout", FAILED, "above 9000",
    ),
    "long tasks on RabbitMQ": (
        replace(SAFE, driver="amqp", time_limit=7200), POOL, "consumer timeout", WARNING, "above 7.2e+06 ms",
    ),
    "late tasks without bound on RabbitMQ": (
        replace(SAFE, driver="amqp", time_limit=None), POOL,
        "consumer timeout", WARNING, "leave task_acks_late to runners",
    ),
    "tasks without bound on RabbitMQ that are late on runners only": (
        replace(SAFE, driver="amqp", time_limit=None, undecided=("a",)), POOL, None, None, None,
    ),
    "queues no worker may consume": (
        replace(SAFE, unknown_queues=("video",)), POOL, "task queues", FAILED, "task_queues",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HABITS)
def test_settings_of_celery_that_lose_or_hide_work_are_told_with_what_to_set(case: str) -> None:
    found, pool, check, verdict, remedy = HABITS[case]
    told = not_fine(habit.examine(found, [pool]))
    told = [finding for finding in told if check is None or finding.check == check]
    if check is None:
        assert not told
    else:
        (finding,) = told
        assert (finding.verdict, remedy in finding.remedy) == (verdict, True), finding


def test_only_one_thing_wrong_is_one_line_of_it() -> None:
    assert [finding.check for finding in not_fine(habit.examine(replace(SAFE, prefetch=4), [POOL]))] == ["prefetch"]


def work() -> None:
    """Be a task."""


def test_habits_are_read_from_settings_and_from_the_tasks_own_words() -> None:
    app = Celery("app", broker="redis://broker/0", set_as_current=False)
    app.conf.update(worker_autoscaler="celery_flame_ec2:Autoscaler", task_acks_late=True, task_time_limit=60)
    app.conf.update(broker_transport_options={"visibility_timeout": 99}, task_create_missing_queues=False)
    assert habit.habits(app, "redis", ["video"]) == Habits(
        time_limit=60, visibility_timeout=99, unknown_queues=("video",)
    )
    app.task(work, name="proj.early", acks_late=False, shared=False)
    app.task(work, name="proj.late", reject_on_worker_lost=True, shared=False)
    app.task(work, name="proj.unprotected", reject_on_worker_lost=False, shared=False)
    app.conf.worker_prefetch_multiplier = 4
    found = habit.habits(app, "redis", [])
    assert (found.early, found.unprotected, found.prefetch) == (("proj.early",), ("proj.unprotected",), 4)


def test_what_nobody_decided_is_left_to_runners() -> None:
    app = Celery("app", set_as_current=False)
    assert habit.habits(app, "redis", []).undecided == (habit.EVERY_TASK,)
    app.task(work, name="proj.early", acks_late=False, shared=False)
    app.task(work, name="proj.silent", shared=False)
    found = habit.habits(app, "redis", [])
    assert (found.early, found.undecided, found.unprotected) == (("proj.early",), ("proj.silent",), ())


def test_a_parent_takes_few_tasks_unless_told_otherwise_and_a_plain_worker_as_many_as_celery_does() -> None:
    app = Celery("app", set_as_current=False)
    assert habit.habits(app, "redis", []).prefetch == 4
    app.conf.worker_autoscaler = habit.OURS
    assert habit.habits(app, "redis", []).prefetch == 1


def test_an_autoscaler_that_is_not_there_is_not_ours() -> None:
    app = Celery("app", set_as_current=False)
    app.conf.worker_autoscaler = "no.such:Thing"
    assert not habit.habits(app, "redis", []).is_ours


PARENTS = {
    "one runs": (Workers(parents=("a@h",)), True, OK, "a@h"),
    "workers without --autoscale": (Workers(others=("a@h",)), True, WARNING, "--autoscale=MAX,MIN"),
    "nobody": (Workers(), True, WARNING, "--autoscale=MAX,MIN"),
    "nobody, and serve is meant": (Workers(others=("a@h",)), False, WARNING, "celery flame serve"),
    "nobody can be asked": (None, True, UNKNOWN, "--autoscale=MAX,MIN"),
}


@pytest.mark.parametrize("case", PARENTS)
def test_whether_a_parent_answers(case: str) -> None:
    answer, ours, verdict, words = PARENTS[case]
    finding = habit.parents(answer, ours=ours)
    assert finding.verdict is verdict
    assert words in finding.seen + finding.remedy


# env, broker


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("DB_PASSWORD", "hunter2", True),
        ("AWS_SECRET_ACCESS_KEY", "hunter2", True),
        ("github_token", "hunter2", True),
        ("SIGNING_KEY", "hunter2", True),
        ("APIKEY", "hunter2", True),
        ("DB_PASS", "hunter2", True),
        ("DB_PWD", "hunter2", True),
        ("DSN", "host=db user=me password=hunter2", True),
        ("PEM", "-----BEGIN RSA PRIVATE KEY-----\nhunter2", True),
        ("GIT", f"ghp_{'hunter2' * 6}", True),
        ("DB_PASSWORD_FILE", "/run/hunter2", False),
        ("TOKEN_TTL", "300", False),
        ("PWD", "/srv", False),
        ("BYPASS", "yes", False),
        ("DATABASE_URL", "postgres://me:hunter2@db/x", True),
        ("DATABASE_URL", "postgres://db/x", False),
        ("DATABASE_URL", "postgres://[hunter2", False),
        ("KEYBOARD", "qwerty", False),
        ("MONKEY", "qwerty", False),
        ("DB_PASSWORD", "", False),
        ("DB_PASSWORD", {"from_ssm": "/db"}, False),
    ],
)
def test_secrets_given_plainly_are_named_and_never_shown(name: str, value: Any, secret: bool) -> None:
    finding = env.examine({name: value, "LANG": "C"})
    assert finding.verdict is (WARNING if secret else OK)
    assert (name in finding.seen) is secret
    assert "hunter2" not in finding.seen + finding.remedy


def elsewhere(urls: list[str], results: str = "", environ: dict[str, str] | None = None, **env: Any) -> list[Finding]:
    pool = replace(POOL, ec2=Ec2Options(env=env))
    return list(broker.elsewhere(urls, results, pool, environ or {}))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (elsewhere(["redis://broker.internal:6379/0"]), {"broker for runners": OK}),
        (elsewhere(["redis://10.0.0.7/0"]), {"broker for runners": OK}),
        (elsewhere(["sqs://"]), {"broker for runners": OK}),
        (elsewhere(["redis://127.0.0.1/0"]), {"broker for runners": WARNING}),
        (elsewhere(["redis://redis:6379/0"]), {"broker for runners": WARNING}),
        (elsewhere(["redis://b.x/0"], environ={"CELERY_BROKER_URL": "x"}), {"broker for runners": WARNING}),
        (
            elsewhere(["redis://127.0.0.1"], environ={"CELERY_BROKER_URL": "x"}, CELERY_BROKER_URL="redis://b.x"),
            {"broker for runners": OK},
        ),
        (elsewhere(["redis://127.0.0.1"], CELERY_BROKER_URL={"from_ssm": "/b"}), {"broker for runners": OK}),
        (
            elsewhere(["redis://b.x/0"], "file:///tmp/x"),
            {"broker for runners": OK, "result backend": WARNING},
        ),
        (
            elsewhere(["redis://b.x/0"], "redis://localhost/1"),
            {"broker for runners": OK, "result backend": WARNING},
        ),
        (elsewhere(["redis://b.x/0"], "redis://b.x/1"), {"broker for runners": OK}),
    ],
)
def test_a_broker_that_runners_would_not_find_is_told(found: list[Finding], expected: dict[str, Verdict]) -> None:
    assert verdicts(found) == expected


def test_no_password_of_a_broker_or_result_backend_is_told() -> None:
    found = elsewhere(["redis://me:hunter2@localhost/0"], "redis://:hunter2@localhost/1")
    assert "hunter2" not in str(found)
    assert len(not_fine(found)) == 2


def test_ports_are_those_of_the_urls_or_of_their_schemes() -> None:
    assert broker.ports(["redis://a:7000/0", "amqps://b//", "sqs://", "redis+socket:///x"]).keys() == {7000, 5671, 6379}


# image and types

IMAGE = {"ImageId": "ami-1", "State": "available", "Architecture": "x86_64", "RootDeviceName": "/dev/xvda"}


def kind(name: str, arch: str = "x86_64", **more: Any) -> dict[str, Any]:
    return {"InstanceType": name, "ProcessorInfo": {"SupportedArchitectures": [arch]}, **more}


def offers(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"InstanceType": name, "Location": zone} for name, zone in pairs]


MACHINES = {
    "an image that is there": (machine.image(IMAGE), OK, "x86_64"),
    "an image that is being made": (machine.image({**IMAGE, "State": "pending"}), FAILED, "image_id"),
    "types that are there": (machine.types([kind("a.b")], ["a.b"], ["spot"]), OK, "a.b"),
    "a type that is not there": (machine.types([kind("a.b")], ["a.b", "c.d"], []), FAILED, "take c.d out of"),
    "a type without spot": (
        machine.types([kind("a.b", SupportedUsageClasses=["on-demand"])], ["a.b"], ["spot"]), FAILED, "'spot' out of",
    ),
    "the same architecture": (machine.architecture(IMAGE, [kind("a.b")]), OK, "x86_64"),
    "another architecture": (
        machine.architecture({**IMAGE, "Architecture": "arm64"}, [kind("a.b"), kind("g.b", "arm64")]),
        FAILED, "'image_id' to an image for x86_64, or 'instance_type' to types of arm64",
    ),
    "offered everywhere": (machine.offered(offers(("a.b", "z1")), ["a.b"], {"s1": "z1"}), OK, "a.b in z1"),
    "offered somewhere": (
        machine.offered(offers(("a.b", "z1")), ["a.b"], {"s1": "z1", "s2": "z2"}), WARNING, "subnets of z1",
    ),
    "offered nowhere here": (
        machine.offered(offers(("a.b", "z3")), ["a.b"], {"s1": "z1"}), FAILED, "add subnets of z3 to 'subnet_id'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MACHINES)
def test_image_and_types_are_there_and_go_together(case: str) -> None:
    finding, verdict, words = MACHINES[case]
    assert finding.verdict is verdict
    assert words in (finding.remedy or finding.seen)


# network


def subnet(name: str, free: int = 100, vpc: str = "vpc-1", *, public: bool = False) -> dict[str, Any]:
    return {"SubnetId": name, "VpcId": vpc, "AvailableIpAddressCount": free, "MapPublicIpOnLaunch": public}


SUBNETS = {
    "room": ([subnet("s1"), subnet("s2", 0)], ["s1"], {"addresses": OK}),
    "one is missing": ([subnet("s1")], ["s1", "s2"], {"subnets": FAILED, "addresses": OK}),
    "two networks": ([subnet("s1"), subnet("s2", vpc="vpc-2")], ["s1", "s2"], {"subnets": FAILED, "addresses": OK}),
    "full": ([subnet("s1", 0)], ["s1"], {"addresses": FAILED}),
    "one is full": ([subnet("s1"), subnet("s2", 0)], ["s1", "s2"], {"addresses": WARNING}),
    "fewer than max": ([subnet("s1", 3), subnet("s2", 4)], ["s1", "s2"], {"addresses": WARNING}),
}


@pytest.mark.parametrize("case", SUBNETS)
def test_subnets_are_there_with_room_for_the_pool(case: str) -> None:
    described, wanted, expected = SUBNETS[case]
    found = list(network.subnets(described, wanted, 10))
    assert verdicts(found) == expected
    assert all("'subnet_id'" in finding.remedy for finding in not_fine(found))


def table(*routes: dict[str, Any], subnets: tuple[str, ...] = (), main: bool = False) -> dict[str, Any]:
    links: list[dict[str, Any]] = [{"SubnetId": name, "Main": False} for name in subnets]
    name = "rtb-main" if main else "rtb-own"
    return {
        "RouteTableId": name, "VpcId": "vpc-1", "Routes": [{"GatewayId": "local"}, *routes],
        "Associations": [*links, {"Main": True}] if main else links,
    }  # fmt: skip


def default(state: str = "active", **target: str) -> dict[str, Any]:
    return {"DestinationCidrBlock": "0.0.0.0/0", "State": state, **target}


def endpoint(service: str = "s3", tables: tuple[str, ...] = ("rtb-main",), **more: Any) -> dict[str, Any]:
    gateway = {"VpcEndpointType": "Gateway", "RouteTableIds": list(tables), "State": "available"}
    return {"VpcId": "vpc-1", "ServiceName": f"com.amazonaws.eu-west-1.{service}", **gateway, **more}


INTERFACE = {"VpcEndpointType": "Interface", "PrivateDnsEnabled": True, "RouteTableIds": []}
NAT, IGW = default(NatGatewayId="nat-1"), default(GatewayId="igw-1")
MAIN = table(main=True)
PUBLIC = subnet("s1", public=True)

ROUTES: dict[str, tuple[Any, Any, Any, bool | None, Verdict, str]] = {
    "nothing": (subnet("s1"), [MAIN], [], None, FAILED, "endpoint for com.amazonaws.eu-west-1.s3 to rtb-main"),
    "no table at all": (subnet("s1"), [], [], None, FAILED, "to its route table"),
    "a gateway endpoint": (subnet("s1"), [MAIN], [endpoint()], None, OK, "endpoint"),
    "a gateway endpoint of another table": (
        subnet("s1"), [MAIN, table(subnets=("s1",))], [endpoint()], None, FAILED, "to rtb-own",
    ),
    "an endpoint of another service": (subnet("s1"), [MAIN], [endpoint("dynamodb")], None, FAILED, "s3"),
    "an endpoint of another network": (subnet("s1"), [MAIN], [endpoint(VpcId="vpc-2")], None, FAILED, "s3"),
    "an endpoint that is being made": (subnet("s1"), [MAIN], [endpoint(State="pending")], None, FAILED, "s3"),
    "an interface endpoint": (subnet("s1"), [MAIN], [endpoint(**INTERFACE)], None, OK, "endpoint"),
    "one that names do not lead to": (
        subnet("s1"), [MAIN], [endpoint(**{**INTERFACE, "PrivateDnsEnabled": False})], None, FAILED, "s3",
    ),
    "a NAT gateway": (subnet("s1"), [table(NAT, main=True)], [], None, OK, "nat-1"),
    "a NAT gateway of another subnet": (
        subnet("s1"), [MAIN, table(NAT, subnets=("s2",))], [], None, FAILED, "NAT gateway",
    ),
    "its own table before the main one": (
        subnet("s1"), [table(NAT, main=True), table(subnets=("s1",))], [], None, FAILED, "to rtb-own",
    ),
    "a NAT gateway that is deleted": (
        subnet("s1"), [table(default("blackhole", NatGatewayId="nat-1"), main=True)], [], None, FAILED, "NAT gateway",
    ),
    "an internet gateway and no address": (
        subnet("s1"), [table(IGW, main=True)], [], None, FAILED, "'associate_public_ip' to True",
    ),
    "an internet gateway and an address": (PUBLIC, [table(IGW, main=True)], [], None, OK, "igw-1"),
    "an address that was asked for": (subnet("s1"), [table(IGW, main=True)], [], True, OK, "igw-1"),
    "an address that was refused": (
        PUBLIC, [table(IGW, main=True)], [], False, FAILED, "'associate_public_ip' to True",
    ),
    "a transit gateway": (
        subnet("s1"), [table(default(TransitGatewayId="tgw-1"), main=True)], [], None, UNKNOWN, "reached from there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROUTES)
def test_a_subnet_leads_to_s3_or_it_is_told_what_is_missing(case: str) -> None:
    described, tables, endpoints, public, verdict, words = ROUTES[case]
    way = network.way(described, tables, endpoints, public)
    (finding,) = network.routes([way], ["s3"], "eu-west-1")
    assert finding.verdict is verdict
    assert words in (finding.remedy or finding.seen)


def test_each_service_a_runner_needs_has_a_line_and_a_subnet_without_it_another() -> None:
    ways = [network.way(subnet("s1"), [MAIN], [endpoint()], None)]
    found = list(network.routes(ways, ["s3", "secretsmanager"], "eu-west-1"))
    assert verdicts(found) == {"route to S3": OK, "route to secretsmanager": FAILED}


def group(name: str, *rules: tuple[str, int, int], vpc: str = "vpc-1") -> dict[str, Any]:
    egress = [{"IpProtocol": proto, "FromPort": low, "ToPort": high} for proto, low, high in rules]
    return {"GroupId": name, "VpcId": vpc, "IpPermissionsEgress": egress}


ALL = ("-1", 0, 0)
GROUPS = {
    "all is let out": ([group("g1", ALL)], ["g1"], {"security groups": OK}, ""),
    "the ports are": ([group("g1", ("tcp", 443, 443)), group("g2", ("tcp", 6000, 7000))], ["g1", "g2"],
                      {"security groups": OK}, ""),
    "not the broker's": ([group("g1", ("tcp", 443, 443))], ["g1"], {"security groups": FAILED}, "TCP 6379 (broker)"),
    "another protocol": ([group("g1", ("udp", 0, 65535))], ["g1"], {"security groups": FAILED}, "443 (AWS)"),
    "none is there": ([], ["g1"], {"security groups": FAILED}, "'security_group_id'"),
    "of another network": ([group("g1", ALL, vpc="vpc-2")], ["g1"], {"security groups": FAILED}, "the subnets' VPC"),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_security_groups_let_out_to_what_a_runner_needs(case: str) -> None:
    described, wanted, expected, words = GROUPS[case]
    found = list(network.groups(described, wanted, {"vpc-1"}, {443: "AWS", 6379: "broker"}))
    assert verdicts(found) == expected
    assert all(words in finding.remedy for finding in found)


# rights

RUNG = Rung(market="spot", instance_type="a.b", subnet_id="s1")
GRANTED = refused(rights.GRANTED)
DENIED = refused(
    "UnauthorizedOperation",
    "You are not authorized to perform: iam:PassRole on resource: arn:aws:iam::1:role/runner",
    action="ec2:RunInstances",
)


def test_rungs_are_tried_first_that_name_something_new() -> None:
    rungs = [
        Rung(market=market, instance_type=kind, subnet_id=name)
        for market in ("spot", "on-demand") for kind in ("a", "b", "c") for name in ("s1", "s2", "s3")
    ]  # fmt: skip
    tried = rights.sample(rungs, 6)
    assert {rung.market for rung in tried} == {"spot", "on-demand"}
    assert {rung.instance_type for rung in tried} == {"a", "b", "c"}
    assert {rung.subnet_id for rung in tried} == {"s1", "s2", "s3"}
    assert len(tried) == 6
    assert len(rights.sample(rungs)) == rights.MOST_TRIES
    assert set(rights.sample(rungs, 99)) == set(rungs)


LAUNCHES = {
    "granted": ([GRANTED, GRANTED], {OK: "every request"}, ""),
    "what is not authorized is named": (
        [DENIED, DENIED], {FAILED: "every request"}, "allow iam:PassRole on arn:aws:iam::1:role/runner",
    ),
    "an unnamed right": (
        [refused("UnauthorizedOperation", action="ec2:RunInstances")], {FAILED: "every request"},
        "allow ec2:RunInstances, with ec2:CreateTags and iam:PassRole,",
    ),
    "one of two": ([GRANTED, DENIED], {OK: "spot a.b s1", FAILED: "spot a.b s1"}, "iam:PassRole"),
    "a template that is gone": ([refused("InvalidLaunchTemplateId.NotFound")], {FAILED: "every"}, "launch_template_id"),
    "no answer": ([SILENT], {UNKNOWN: "no answer"}, "ask again"),
}  # fmt: skip


@pytest.mark.parametrize("case", LAUNCHES)
def test_what_ec2_says_to_dry_runs_is_told_once_with_the_remedy(case: str) -> None:
    answers, expected, remedy = LAUNCHES[case]
    found = list(rights.launches([(RUNG, answer) for answer in answers], len(answers)))
    assert {finding.verdict for finding in found} == expected.keys()
    assert all(expected[finding.verdict] in finding.seen for finding in found)
    assert all(remedy in finding.remedy for finding in not_fine(found))


def test_fewer_tries_than_requests_are_told() -> None:
    (finding,) = rights.launches([(RUNG, GRANTED)], 40)
    assert "1 of 40 requests" in finding.seen


PROFILE = {"InstanceProfile": {"Roles": [{"Arn": "arn:aws:iam::1:role/runner"}]}}


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (PROFILE, OK, "role/runner"),
        ({"InstanceProfile": {"Roles": []}}, FAILED, "add-role-to-instance-profile"),
        (None, FAILED, "'iam_instance_profile'"),
        (refused("NoSuchEntity"), FAILED, "'iam_instance_profile'"),
        (refused("AccessDenied", action="iam:GetInstanceProfile"), UNKNOWN, "allow iam:GetInstanceProfile"),
    ],
)
def test_an_instance_profile_is_there_and_has_a_role(answer: Any, verdict: Verdict, words: str) -> None:
    finding = rights.profile(answer, "runner")
    assert finding.verdict is verdict
    assert words in (finding.remedy or finding.seen)


@pytest.mark.parametrize(
    ("answer", "verdict", "silent"),
    [
        ({"Arn": "arn:aws:iam::1:user/me"}, OK, False),
        (refused("InvalidClientTokenId", meaning=Meaning.CREDENTIALS), FAILED, False),
        (SILENT, UNKNOWN, True),
    ],
)
def test_who_asks_is_told(answer: Any, verdict: Verdict, silent: bool) -> None:
    finding = rights.caller(answer, "eu-west-1")
    assert (finding.verdict, finding.silent) == (verdict, silent)


@pytest.mark.parametrize(
    ("named", "environ", "session", "words"),
    [
        (True, {}, None, "option 'region'"),
        (False, {"AWS_DEFAULT_REGION": "x"}, "x", "AWS_DEFAULT_REGION"),
        (False, {}, "x", "configuration file"),
        (False, {}, None, "metadata"),
    ],
)
def test_who_names_the_region_is_told(named: bool, environ: dict[str, str], session: str | None, words: str) -> None:
    assert words in rights.region("x", named, environ, session)


@pytest.mark.parametrize(
    ("answer", "needed", "verdict", "words"),
    [
        (FORBIDDEN, False, UNKNOWN, "allow ec2:Look"),
        (FORBIDDEN, True, FAILED, "allow ec2:Look"),
        (refused("AuthFailure", meaning=Meaning.CREDENTIALS), True, UNKNOWN, "see credentials"),
        (refused("RequestLimitExceeded", meaning=Meaning.THROTTLED), True, UNKNOWN, "ask again"),
        (refused("InvalidAMIID.NotFound"), False, FAILED, "image_id"),
    ],
)
def test_what_a_refusal_means_for_a_check(answer: Refusal, needed: bool, verdict: Verdict, words: str) -> None:
    finding = asker.not_told("image", answer, needed=needed)
    assert finding.verdict is verdict
    assert words in finding.remedy


def test_a_service_that_did_not_answer_is_not_asked_again_and_others_are() -> None:
    asked: list[str] = []

    def ask(name: str, answer: Refusal | None = None) -> str:
        asked.append(name)
        if answer is not None:
            raise Refused(answer)
        return name

    one = asker.Asker(Clients(), Place(region="eu-west-1"))
    assert one.ask("ec2:First", ask, "first", SILENT) == SILENT
    assert one.ask("ec2:Second", ask, "second") == SILENT
    assert one.ask("s3:First", ask, "third") == "third"
    assert one.ask("s3:First", ask, "third") == "third"
    assert one.ask("s3:First", ask, "fourth", FORBIDDEN) == FORBIDDEN
    assert one.ask("s3:First", ask, "fifth") == "fifth"
    assert asked == ["first", "third", "fourth", "fifth"]


# bundle


def head(size: int = 5, checksum: bytes | None = None, suffix: str = "") -> dict[str, Any]:
    kept = {} if checksum is None else {"ChecksumSHA256": base64.b64encode(checksum).decode() + suffix}
    return {"ContentLength": size, **kept}


SHA = bytes(range(32))
FILES = {
    "there": (head(), None, OK, "5 bytes"),
    "the one that is meant": (head(checksum=SHA), SHA.hex(), OK, "with the SHA-256"),
    "another": (head(checksum=SHA), "0" * 64, FAILED, SHA.hex()),
    "in parts": (head(checksum=SHA, suffix="-3"), SHA.hex(), OK, "keeps no SHA-256"),
    "without checksum": (head(), SHA.hex(), OK, "keeps no SHA-256"),
    "empty": (head(0), None, FAILED, "flame release push FILE"),
    "missing": (refused("HTTP 404"), None, FAILED, "flame release push FILE"),
    "forbidden": (refused("HTTP 403"), None, UNKNOWN, "s3:GetObject"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_bundle_is_there_and_the_one_that_is_meant(case: str) -> None:
    answer, sha256, verdict, words = FILES[case]
    finding = bundle.file(answer, URL, sha256)
    assert finding.verdict is verdict
    assert words in (finding.remedy or finding.seen)


def test_a_prefix_holds_something() -> None:
    assert bundle.prefix({"KeyCount": 1}, "s3://b/p/").verdict is OK
    assert bundle.prefix({"KeyCount": 0}, "s3://b/p/").verdict is FAILED
    assert bundle.prefix(refused("AccessDenied"), "s3://b/p/").verdict is UNKNOWN


def test_a_bucket_that_is_missing_or_far_is_told() -> None:
    assert bundle.bucket({"BucketRegion": "eu-west-1"}, "b", "eu-west-1") is None
    assert bundle.bucket(refused("HTTP 403"), "b", "eu-west-1") is None
    for answer, verdict in (({"BucketRegion": "us-east-1"}, WARNING), (refused("HTTP 404"), FAILED)):
        finding = bundle.bucket(answer, "b", "eu-west-1")
        assert finding is not None
        assert finding.verdict is verdict


def test_the_runners_own_role_is_asked_about_by_a_command_that_is_told() -> None:
    finding = bundle.role(["arn:aws-cn:iam::1:role/r"], "s3://b/p/")
    assert finding.verdict is UNKNOWN
    assert "--resource-arns arn:aws-cn:s3:::b/p/* --policy-source-arn arn:aws-cn:iam::1:role/r" in finding.remedy


# what is printed


def test_what_is_alike_for_several_pools_is_told_once() -> None:
    good, bad = ok("image", "there"), failed("image", "gone", "look")
    found = of_pools([("a", good), ("b", bad), ("c", good), ("a", bad), ("b", good), ("a", good)], ["a", "b", "c"])
    assert [(finding.verdict, finding.pools) for finding in found] == [(OK, ()), (FAILED, ("b", "a"))]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([ok("a", "b"), warning("a", "b", "c"), unknown("a", "b", "c")], 0),
        ([ok("a", "b"), failed("a", "b", "c")], 1),
        ([failed("a", "b", "c", silent=True)], 69),
        ([unknown("a", "b", "c", silent=True)], 69),
        ([unknown("a", "b", "c", silent=True), failed("a", "b", "c")], 1),
    ],
)
def test_the_exit_code_tells_what_failed_from_what_did_not_answer(found: list[Finding], code: int) -> None:
    assert exit_code(found) == code


def test_a_line_holds_what_was_seen_and_below_it_the_remedy() -> None:
    finding = replace(failed("image", "gone", "look"), pools=("a", "b"))
    assert lines(finding, "utf-8") == ["✗ a, b: image: gone", "    look"]
    assert lines(ok("image", "ünter"), "utf-8") == ["✓ image: ünter"]


def test_marks_are_plain_where_the_terminal_has_no_others() -> None:
    assert lines(ok("image", "ünter"), "ascii") == ["+ image: \\xfcnter"]
    assert lines(failed("image", "gone", "look"), "latin-1")[0] == "x image: gone"


def test_what_operators_decided_and_nobody_can_read_fails_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    app = Celery("app", broker="memory://", set_as_current=False)
    pools = {"flame_pools": {"video": {"queues": "video"}}}
    settings = read_settings(pools, app_name="app", broker_urls=("memory://",), environ={})
    store = FileStore(own_file(settings.owner, "lease"))
    store.override({"paused:gone": json.dumps({"value": True, "by": "ann", "at": 1.0})})
    assert broker.lease(app, settings).verdict is OK
    store.override({"paused:gone": "what is that"})
    found = broker.lease(app, settings)
    assert (found.verdict, "'paused:gone': 'what is that'" in found.seen) == (FAILED, True)
    monkeypatch.setattr(FileStore, "overrides", denied)
    found = broker.lease(app, settings)
    assert (found.verdict, "s3:GetObject" in found.seen) == (FAILED, True)
    assert "`flame iam-policy`" in found.remedy


def denied(_: FileStore) -> dict[str, str]:
    raise LeaseDenied("s3://bucket/lease.overrides: the parent needs s3:GetObject")


def test_a_board_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert list(broker.board(Settings())) == []
    settings = Settings(board=tmp_path.as_uri())
    (found,) = broker.board(settings)
    assert (found.verdict, str(tmp_path) in found.seen) == (OK, True)
    (tmp_path / "words").touch()
    (found,) = broker.board(settings)
    assert (found.verdict, "must be a directory" in found.seen) == (WARNING, True)


# all of it


def test_a_check_that_breaks_hides_no_other() -> None:
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.flame_pools = {"video": {"queues": ["video"]}}
    app.conf.worker_autoscaler = 3  # nothing that Celery could load
    app.conf.worker_prefetch_multiplier = "many"
    found = list(doctor.examine(app, {}, lambda _: None))
    assert verdicts(found)["settings"] is OK
    assert verdicts(found)["Celery's settings"] is UNKNOWN
    assert verdicts(found)["lease"] is OK


def test_settings_are_refused_all_at_once_and_the_rest_is_looked_at() -> None:
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.flame_pools = {"video": {"queues": ["video"], "max": -1, "shiny": True}}
    found = list(doctor.examine(app, {}, lambda _: None))
    assert len([finding for finding in found if finding.check == "settings"]) == 2
    assert verdicts(found)["broker"] is OK
    assert verdicts(found)["pools"] is UNKNOWN
    assert exit_code(found) == 1


def test_a_policy_that_cannot_be_loaded_is_told() -> None:
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.update(flame_pools={"video": {"queues": ["video"]}}, flame_policy="no.such:thing")
    found = verdicts(doctor.examine(app, {}, lambda _: None))
    assert (found["settings"], found["policy"]) == (OK, FAILED)


def test_each_step_is_told_as_it_begins() -> None:
    app = Celery("app", broker="memory://", set_as_current=False)
    app.conf.flame_pools = {"video": {"queues": ["video"]}}
    begun: list[str] = []
    assert json.dumps([finding.seen for finding in doctor.examine(app, {}, begun.append)])
    assert begun == ["broker", "Celery's settings", "lease", "local"]
