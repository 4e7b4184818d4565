from __future__ import annotations

import string
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.backends.ec2.console import last_lines
from celery_flame_ec2.backends.ec2.instances import read_tags, runner_of, tags_of
from celery_flame_ec2.boot import FAILURE_PREFIX
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits, RunnerState

NOW = 1_750_000_000.0
names = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=63)


def letter(**changes: Any) -> Parent:
    plain = {"owner": "shop@redis/0", "pool": "video", "backend": "ec2", "queues": ("video",), "concurrency": 4}
    return Parent(**(plain | changes))


def instance(**changes: Any) -> dict[str, Any]:
    tags = tags_of(letter(), token="t0", now=NOW, extra={})
    plain = {
        "InstanceId": "i-0123456789abcdef0",
        "State": {"Name": "running"},
        "LaunchTime": datetime.fromtimestamp(NOW, timezone.utc),
        "InstanceType": "c7i.large",
        "Placement": {"AvailabilityZone": "eu-west-1b"},
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }
    return plain | changes


@pytest.mark.parametrize(("hello", "speaks"), [("worker", True), ("start", False)])
def test_an_instance_says_whether_a_hello_is_to_be_expected_of_it(hello: str, speaks: bool) -> None:
    tags = tags_of(letter(), token="t0", now=NOW, extra={}, hello=hello)
    assert runner_of(instance(Tags=[{"Key": key, "Value": value} for key, value in tags.items()]), NOW).speaks is speaks
    assert runner_of(instance(Tags=[]), NOW).speaks


def test_the_deadline_is_later_than_any_healthy_end() -> None:
    limits = Limits(boot_timeout=120, max_lifetime=3600, shutdown_timeout=60)
    tags = tags_of(letter(limits=limits), token="t0", now=NOW, extra={})
    assert int(tags["flame:deadline"]) > NOW + 120 + 3600 + 60


def test_the_users_tags_are_there_and_cannot_take_the_place_of_ours() -> None:
    tags = tags_of(letter(), token="t0", now=NOW, extra={"team": "media", "Name": "mine", "flame:owner": "other"})
    assert tags["team"] == "media"
    assert tags["Name"] == "mine"
    assert tags["flame:owner"] == "shop@redis/0"


@given(owner=names, pool=names, warm=st.booleans(), lifetime=st.floats(60, 7 * 86400), now=st.floats(0, 4e9))
def test_what_tags_say_of_a_runner_is_read_again(
    owner: str, pool: str, warm: bool, lifetime: float, now: float
) -> None:
    written = letter(owner=owner, pool=pool, warm=warm, limits=Limits(max_lifetime=lifetime))
    tags = tags_of(written, token="t0", now=now, extra={})
    listed = instance(Tags=[{"Key": key, "Value": value} for key, value in tags.items()])
    runner = runner_of(listed, now)
    assert read_tags(listed)["flame:owner"] == owner
    assert (runner.pool, runner.warm) == (pool, warm)
    assert runner.deadline is not None
    assert runner.deadline >= now + lifetime
    assert all(len(value) <= 256 for value in tags.values())


@pytest.mark.parametrize(
    ("text", "deadline"),
    [("1750000000", NOW), ("12.5", 12.5), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_a_deadline_that_cannot_be_read_is_none(text: str, deadline: float | None) -> None:
    assert runner_of(instance(Tags=[{"Key": "flame:deadline", "Value": text}]), NOW).deadline == deadline


odd = st.one_of(st.none(), st.text(max_size=20), st.integers(), st.lists(st.text(max_size=3), max_size=2))
odd_tags = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "Key": st.sampled_from(["flame:owner", "flame:pool", "flame:deadline", "flame:warm", "", "other"]),
            "Value": st.one_of(st.none(), st.text(max_size=20), st.sampled_from(["nan", "inf", "-1e999", "12.5"])),
        },
    ),
    max_size=6,
)


@given(
    tags=st.one_of(st.none(), odd_tags),
    state=st.one_of(st.none(), st.just({}), st.builds(lambda name: {"Name": name}, st.text(max_size=20))),
    launched=odd,
    placement=st.one_of(st.none(), st.just({})),
)
def test_whatever_tags_and_fields_an_instance_has_it_can_be_listed(
    tags: Any, state: Any, launched: Any, placement: Any
) -> None:
    fields = {"Tags": tags, "State": state, "LaunchTime": launched, "Placement": placement}
    runner = runner_of({"InstanceId": "i-1", **fields}, NOW)
    assert runner.id == "i-1"
    assert runner.launched_at == NOW
    assert runner.deadline is None or abs(runner.deadline) < float("inf")


@pytest.mark.parametrize(
    ("name", "state", "powered_off"),
    [
        ("pending", RunnerState.BOOTING, False),
        ("running", RunnerState.BOOTING, False),
        ("shutting-down", RunnerState.ENDING, False),
        ("stopping", RunnerState.ENDING, True),
        ("stopped", RunnerState.ENDING, True),
    ],
)
def test_the_instances_state_tells_what_the_backend_can_know(name: str, state: RunnerState, powered_off: bool) -> None:
    runner = runner_of(instance(State={"Name": name}), NOW)
    assert (runner.state, runner.powered_off) == (state, powered_off)


def test_a_runner_knows_what_it_is_made_of() -> None:
    runner = runner_of(instance(InstanceLifecycle="spot"), NOW + 50)
    assert (runner.id, runner.launched_at) == ("i-0123456789abcdef0", NOW)
    assert (runner.instance_type, runner.market, runner.zone) == ("c7i.large", "spot", "eu-west-1b")
    assert runner_of(instance(), NOW).market == "on-demand"


def test_a_console_is_told_by_its_last_lines_without_what_a_terminal_would_obey() -> None:
    output = "".join(f"line {number}\r\n" for number in range(100)) + "\x1b[31mlast\x1b[0m\x07\r\n\r\n"
    lines = last_lines(output).split("\n")
    assert len(lines) == 30
    assert lines[-2:] == ["line 99", "last"]


def test_the_line_that_says_why_a_boot_failed_outlives_a_long_power_off() -> None:
    why = f"[   12.3] {FAILURE_PREFIX}fetch: 404 no such bundle"
    routine = "".join(f"[\x1b[0;32m  OK  \x1b[0m] Stopped unit {number}.\n" for number in range(100))
    noise = "".join(f"unmounting {number}\n" for number in range(100))
    assert last_lines(why + "\n" + routine).split("\n") == [why]
    assert last_lines(why + "\n" + noise).split("\n")[0] == why


def test_an_empty_console_says_nothing() -> None:
    assert last_lines("") == ""
