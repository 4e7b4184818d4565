"""Editions a parent pins: once, for its life, whatever is put under the key."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from celery_flame_ec2.backends.ec2.clients import Place, Refused
from celery_flame_ec2.backends.ec2.editions import AGAIN, Editions
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.edition import Edition
from celery_flame_ec2.errors import BackendError, LaunchError
from celery_flame_ec2.testing.clock import Clock

from .test_ec2 import LETTER, Requests, StubbedClients, backend, ground_is_known

URL = "s3://releases/shop.tar.gz"
PLACE = Place(region="eu-west-1")
FIRST = {"ETag": '"first"', "VersionId": "v1"}
SECOND = {"ETag": '"second"', "VersionId": "v2"}
UNVERSIONED = {"ETag": '"first"'}


def answer(status: int) -> ClientError:
    code = {"Code": str(status), "Message": "no"}
    return ClientError({"Error": code, "ResponseMetadata": {"HTTPStatusCode": status}}, "HeadObject")  # type: ignore[typeddict-item]


SILENCE = EndpointConnectionError(endpoint_url="https://s3")


class Parent:
    """What pins, with S3 and time in a test's hands."""

    def __init__(self, head: Any = FIRST, own: dict[str, str] | None = None, **options: Any) -> None:
        self.clients, self.clock = StubbedClients(), Clock()
        self.clients.shelf.head = head
        self.editions = Editions(self.clients, own=lambda: own or {}, clock=self.clock)
        self.options = Ec2Options(app="shop", s3_bundle_url=URL, **options)

    def pin(self) -> Edition:
        return self.editions.pin(PLACE, self.options)

    def later(self, head: Any) -> None:
        self.clients.shelf.head = head
        self.clock.now += AGAIN


def test_a_bundle_is_pinned_as_it_is_when_it_is_first_met() -> None:
    parent = Parent()
    assert parent.editions.pinned(parent.options) is None
    assert parent.pin() == Edition(url=URL, version="v1", etag='"first"')
    assert parent.editions.pinned(parent.options) == parent.pin()
    assert len(parent.clients.shelf.asked) == 1


def test_a_version_stays_pinned_while_it_is_there() -> None:
    parent = Parent()
    parent.pin()
    parent.later(FIRST)
    assert parent.pin().version == "v1"
    assert parent.clients.shelf.asked[1]["VersionId"] == "v1"


@pytest.mark.parametrize(
    ("pinned", "now", "which"),
    [
        (UNVERSIONED, {"ETag": '"second"'}, 'ETag "first"'),
        (FIRST, answer(404), "version v1"),
        (UNVERSIONED, {**UNVERSIONED, "ETag": '"third"'}, 'ETag "first"'),
    ],
    ids=["replaced", "version gone", "replaced again"],
)
def test_what_is_no_longer_there_holds_launches_and_says_what_to_do(pinned: Any, now: Any, which: str) -> None:
    parent = Parent(pinned)
    parent.pin()
    parent.later(now)
    with pytest.raises(BackendError) as caught:
        parent.pin()
    assert str(caught.value) == (
        f"the bundle at {URL} is no longer the one pinned at start ({which}); restart the parent to take the new one"
    )
    parent.clients.shelf.head = pinned
    assert parent.pin().etag == '"first"'


@pytest.mark.parametrize("now", [answer(403), answer(503), SILENCE], ids=["forbidden", "down", "silent"])
def test_where_s3_does_not_tell_whether_it_is_still_there_runners_are_launched(now: Any) -> None:
    parent = Parent()
    parent.pin()
    parent.later(now)
    assert parent.pin().version == "v1"


@pytest.mark.parametrize("silent", [SILENCE, answer(503)])
def test_an_s3_that_does_not_answer_is_asked_again_for_the_next_launch(silent: Any) -> None:
    parent = Parent(silent)
    with pytest.raises(Refused):
        parent.pin()
    parent.clients.shelf.head = FIRST
    assert parent.pin().version == "v1"


def test_a_bundle_that_is_not_there_is_named() -> None:
    with pytest.raises(BackendError, match=f"there is no bundle {URL}; push it"):
        Parent(answer(404)).pin()


def test_a_parent_that_may_not_look_names_the_right() -> None:
    with pytest.raises(Refused, match="s3:GetObject"):
        Parent(answer(403)).pin()


def test_a_parent_that_may_not_look_pins_by_the_checksum_in_its_settings(caplog: pytest.LogCaptureFixture) -> None:
    pinned = Parent(answer(403), s3_bundle_sha256="a" * 64).pin()
    assert (pinned.sha256, pinned.etag) == ("a" * 64, None)
    assert "pinned by 's3_bundle_sha256' alone" in caplog.text


def test_another_checksum_than_the_settings_is_refused_before_anything_is_launched() -> None:
    head = {**FIRST, "Metadata": {"flame-sha256": "b" * 64}}
    with pytest.raises(BackendError, match=r"has SHA-256 b{64}, and option 's3_bundle_sha256' is a{64}"):
        Parent(head, s3_bundle_sha256="a" * 64).pin()


def test_a_parent_of_another_release_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    parent = Parent({**FIRST, "Metadata": {"flame-celery": "5.4.0"}}, own={"celery": "5.6.0"})
    parent.pin()
    parent.later(FIRST)
    parent.pin()
    (told,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert told.getMessage() == (
        f"the bundle at {URL} is of another release than this parent: celery 5.4.0 there, 5.6.0 here"
    )


def test_a_prefix_is_pinned_by_its_manifest_and_one_without_is_not_pinned() -> None:
    parent = Parent(FIRST)
    parent.options = Ec2Options(app="shop", s3_bundle_url="s3://releases/shop/1/")
    assert parent.pin().version == "v1"
    assert parent.clients.shelf.asked[0]["Key"] == "shop/1/release.json"
    bare = Parent(answer(404))
    bare.options = parent.options
    assert bare.pin() == Edition(url="s3://releases/shop/1/")
    bare.later(answer(404))
    assert bare.pin().etag is None


# in a launch


def test_every_instance_is_told_and_tagged_which_edition_it_runs() -> None:
    clients = StubbedClients()
    clients.shelf.head = FIRST
    requests = Requests(clients)
    one = backend(clients)
    one.prepare()
    clients.shelf.head = SECOND
    ground_is_known(clients)
    clients.stubs["launching"].add_response("run_instances", {"Instances": []})
    with pytest.raises(LaunchError):
        one.launch(LETTER, 1)
    (sent,) = requests.sent
    tags = {tag["Key"]: tag["Value"] for tag in sent["TagSpecifications"][0]["Tags"]}
    assert tags["flame:release"] == f"{URL}?versionId=v1"


def test_a_bundle_that_was_replaced_stops_launches_before_ec2_is_asked() -> None:
    clients, clock = StubbedClients(), Clock()
    clients.shelf.head = UNVERSIONED
    one = backend(clients, clock)
    one.prepare()
    clients.shelf.head = {"ETag": '"second"'}
    clock.now += AGAIN
    ground_is_known(clients)
    with pytest.raises(LaunchError, match="restart the parent to take the new one") as caught:
        one.launch(LETTER, 1)
    assert caught.value.retry_in


def test_an_s3_that_is_silent_at_the_start_is_told() -> None:
    clients = StubbedClients()
    clients.shelf.head = SILENCE
    with pytest.raises(BackendError, match="s3:GetObject: no connection"):
        backend(clients).prepare()
