"""What settings are refused, with which words, and what the accepted ones become."""

from __future__ import annotations

from typing import Any

import pytest

from celery_flame_ec2.address import Address
from celery_flame_ec2.config import Settings, read_settings
from celery_flame_ec2.errors import SettingsError

REMOTE = ("redis://:secret@broker.internal:6379/3",)
EC2 = {
    "s3_bundle_url": "s3://releases/proj/1.tar.gz",
    "app": "proj",
    "image_id": "ami-0abc12345",
    "subnet_id": "subnet-0abc12345",
    "security_group_id": "sg-0abc12345",
}


def read(
    pools: Any = None, *, broker: tuple[str, ...] = REMOTE, environ: dict[str, str] | None = None, **flat: Any
) -> Settings:
    conf = {f"flame_{name}": value for name, value in flat.items()}
    conf["flame_pools"] = {"video": {"queues": ["video"]}} if pools is None else pools
    return read_settings(conf, app_name="proj", broker_urls=broker, environ=environ or {})


def problems(pools: Any = None, **flat: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read(pools, **flat)
    return "\n".join(caught.value.problems)


def pool(**options: Any) -> dict[str, Any]:
    return {"video": {"queues": ["video"], **options}}


def test_a_pool_needs_nothing_but_its_queues() -> None:
    settings = read({"video": {"queues": "video"}})
    (only,) = settings.pools
    assert (settings.backend, settings.interval, only.min, only.max, only.queues) == ("local", 1.0, 0, 10, ("video",))
    assert only.limits(warm=False).idle_shutdown_after == 30
    assert only.limits(warm=True).idle_shutdown_after is None


def test_a_pool_overrides_what_all_pools_share() -> None:
    shared = {**EC2, "instance_type": "t3.large", "env": {"A": "1"}}
    settings = read(
        {"a": {"queues": "a"}, "b": {"queues": "b", "instance_type": ["c7i.xlarge"]}}, backend="ec2", ec2=shared
    )
    assert [each.ec2.instance_type for each in settings.pools] == [("t3.large",), ("c7i.xlarge",)]
    assert settings.pools[1].ec2.env == {"A": "1"}


def test_the_owner_is_made_of_the_app_and_the_brokers_database_but_never_its_password() -> None:
    assert read().owner == "proj@broker.internal/3"


def test_the_release_name_of_the_environment_names_the_app() -> None:
    shared = {name: value for name, value in EC2.items() if name != "app"}
    settings = read(backend="ec2", ec2=shared, environ={"RELEASE_NAME": "web"})
    assert settings.pools[0].ec2.app == "web"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max": -1}, "pool 'video': option 'max' must be a whole number from 0 to 10000, got -1"),
        ({"max": True}, "pool 'video': option 'max' must be a whole number from 0 to 10000, got True"),
        ({"min": 3, "max": 2}, "pool 'video': option 'max' must be at least 'min' (3), got 2"),
        (
            {"idle_shutdown_after": 0},
            "option 'idle_shutdown_after' must be a number above 0 and at most 604800, or None, got 0",
        ),
        ({"max_lifetime": 604801}, "option 'max_lifetime' must be a number from 60 to 604800, got 604801"),
        ({"max_lifetime": float("nan")}, "option 'max_lifetime' must be a number from 60 to 604800, got nan"),
        ({"shutdown_timeout": "30"}, "option 'shutdown_timeout' must be a number from 0 to 86400, got '30'"),
        ({"queues": []}, "option 'queues' must be one value or a list of different ones, got []"),
        ({"queues": ["a", "a"]}, "option 'queues' must be one value or a list of different ones"),
        ({"max_concurency": 3}, "unknown option 'max_concurency'; did you mean 'max_concurrency'?"),
        ({"s3_bundle_url": "s3:/releases/x.tar.gz"}, "option 's3_bundle_url' must be s3://bucket/key that ends in"),
        ({"s3_bundle_url": "s3://releases/x.zip"}, "option 's3_bundle_url' must be s3://bucket/key that ends in"),
        ({"app": "../etc"}, "option 'app' must be lower-case letters, digits, - and _"),
        ({"user": "root; reboot"}, "option 'user' must be a Unix user name"),
        ({"market": "spott"}, "option 'market' must be one of 'spot', 'on-demand', got 'spott'"),
        ({"env": {"1A": "x"}}, "option 'env' must be a dict with environment variables as keys (not '1A')"),
        ({"env": {"A": 1}}, "and 'A' in it must be a str"),
        ({"env": {"A": {"from_ssm": "/a#b"}}}, "and 'A' in it must be a str"),
        ({"env": {"A": "x\0y"}}, "no NUL byte"),
        ({"env": {"FLAME_PARENT": "x"}}, "a dict without FLAME_PARENT (written by the parent)"),
        ({"env": {"A": {"from_ssm": ""}}}, '{"from_ssm": name}'),
        ({"tags": {"flame:owner": "me"}}, "not aws:* or flame:*"),
        ({"root_volume": {"size": 0}}, "option 'size' must be a whole number from 1 to 65536, or None, got 0"),
        ({"worker_options": {"loglevel": object}}, "that JSON can carry"),
        ({"s3_bundle_sha256": "abc"}, "option 's3_bundle_sha256' must be 64 hexadecimal digits"),
        ({"env": "not a dict"}, "must be a dict with environment variables as keys, got a str"),
        ({"subnet_id": "subnet"}, "option 'subnet_id' must be subnet-..."),
    ],
)
def test_a_bad_option_is_named_with_its_value_and_its_bound(options: dict[str, Any], words: str) -> None:
    assert words in problems(pool(**options))


def test_every_problem_is_reported_at_once() -> None:
    text = problems(pool(max=-1, idle_shutdown_after=0, colour="red"), interval=0, backend="ecs")
    for words in ("'max'", "'idle_shutdown_after'", "'colour'", "'interval'", "'backend'"):
        assert words in text


def test_the_value_of_a_secret_is_never_in_the_message() -> None:
    assert "hunter2" not in problems(pool(env={"PASSWORD": ["hunter2"]}))


def test_a_page_on_this_machine_alone_needs_no_token() -> None:
    settings = read(http="127.0.0.1:9809")
    assert settings.http == Address(host="127.0.0.1", port=9809)
    assert settings.http_token is None


def test_a_page_that_others_reach_needs_a_token() -> None:
    token = "0123456789abcdef"
    told = "setting flame_http_token is required where flame_http (0.0.0.0:9809) is not a loopback address"
    assert problems(http="0.0.0.0:9809") == told
    assert read(http="0.0.0.0:9809", http_token=token).http_token == token


@pytest.mark.parametrize("token", ["hunter2", "hunter2 hunter2 hunter2", "hunter2" * 50, 7])
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused_and_not_shown(token: object) -> None:
    told = problems(http="0.0.0.0:9809", http_token=token)
    assert told.startswith("settings flame_*: option 'http_token' must be 16 to 256 printable ASCII characters")
    assert "hunter2" not in told
    assert "\n" not in told


def test_an_address_that_is_none_is_refused() -> None:
    assert "option 'http' must be an address and a port such as '127.0.0.1:9809'" in problems(http="9809")


@pytest.mark.parametrize("pools", [{}, [], "video", None])
def test_without_a_pool_there_is_nothing_to_do(pools: Any) -> None:
    with pytest.raises(SettingsError, match="flame_pools must be a dict with at least one pool"):
        read_settings({"flame_pools": pools}, app_name="p", broker_urls=REMOTE, environ={})


def test_a_queue_belongs_to_one_pool() -> None:
    text = problems({"a": {"queues": ["q", "r"]}, "b": {"queues": "q"}})
    assert text == "pools 'a', 'b': queue 'q' is in 2 pools; a queue belongs to one pool"


@pytest.mark.parametrize("missing", ["s3_bundle_url", "app", "image_id", "subnet_id", "security_group_id"])
def test_what_an_instance_cannot_do_without_is_required_with_ec2_only(missing: str) -> None:
    shared = {name: value for name, value in EC2.items() if name != missing}
    assert f"'{missing}' is required" in problems(backend="ec2", ec2=shared)
    read(backend="local", ec2=shared)


@pytest.mark.parametrize("source", [{"auto_configure": True}, {"launch_template_id": "lt-0abc12345"}])
def test_metadata_or_a_template_may_bring_the_rest(source: dict[str, Any]) -> None:
    read(backend="ec2", ec2={"s3_bundle_url": EC2["s3_bundle_url"], "app": "proj", **source})


@pytest.mark.parametrize("name", ["s3_bundle_url", "subnet_id"])
def test_what_was_given_and_refused_is_told_once(name: str) -> None:
    assert problems(backend="ec2", ec2={**EC2, name: "nonsense"}).count(f"'{name}'") == 1


def test_what_one_pool_was_refused_another_still_lacks() -> None:
    shared = {name: value for name, value in EC2.items() if name != "subnet_id"}
    text = problems({"a": {"queues": "a", "subnet_id": "nonsense"}, "b": {"queues": "b"}}, backend="ec2", ec2=shared)
    assert text.count("'subnet_id'") == 2
    assert "pool 'b': option 'subnet_id' is required" in text


def test_a_misspelt_flame_pools_is_recognised() -> None:
    assert "unknown option 'pool'; did you mean 'pools'?" in problems(pool={})


def test_an_image_and_a_template_together_are_refused() -> None:
    text = problems(backend="ec2", ec2={**EC2, "launch_template_id": "lt-0abc12345"})
    assert "'image_id' and 'launch_template_id' are both given; remove one of them" in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://:secret@127.0.0.1/0",
        "redis:///0",
        "amqp://guest:guest@[::1]:5672//",
        "memory://",
        "filesystem://",
        "sqla+sqlite:////tmp/x.db",
    ],
)
def test_a_broker_that_no_runner_could_reach_is_refused_with_ec2_only(url: str) -> None:
    text = problems(backend="ec2", ec2=EC2, broker=(url,))
    assert "a runner could never reach the broker" in text
    assert "secret" not in text
    read(broker=(url,))
    read(backend="ec2", ec2={**EC2, "allow_local_broker": True}, broker=(url,))


@pytest.mark.parametrize("url", ["redis://10.0.0.7/0", "amqps://user:pw@mq.internal//"])
def test_a_broker_elsewhere_is_accepted(url: str) -> None:
    read(backend="ec2", ec2=EC2, broker=(url,))


def test_a_broker_whose_url_tells_no_deployments_apart_needs_an_owner_or_a_prefix() -> None:
    assert "setting flame_owner is required" in problems(backend="ec2", ec2=EC2, broker=("sqs://localhost//",))
    assert read(backend="ec2", ec2=EC2, broker=("sqs://localhost//",), owner="proj-staging").owner == "proj-staging"
    conf = {"flame_pools": pool(), "flame_backend": "ec2", "flame_ec2": EC2}
    staging = read_settings(conf, app_name="proj", broker_urls=("sqs://localhost//",), environ={}, prefix="staging-")
    assert staging.owner == "proj@sqs/staging-"


def test_a_checksum_goes_with_a_file_and_not_with_a_prefix() -> None:
    prefix = {**EC2, "s3_bundle_url": "s3://releases/proj/", "s3_bundle_sha256": "0" * 64}
    assert "'s3_bundle_sha256' is of one file" in problems(backend="ec2", ec2=prefix)


def test_an_unknown_pool_is_named_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no flame pool 'vidoe'; did you mean 'video'\? \(known: video\)"):
        read().pool("vidoe")
