"""Editions: what S3 says of one, what tells two apart, and in what a parent may differ."""

from __future__ import annotations

import base64
import hashlib

import pytest

from celery_flame_ec2.edition import Edition, differences, edition_of, key_of, tag

URL = "s3://releases/proj/1.tar.gz"
SHA256 = hashlib.sha256(b"bundle").hexdigest()
OWN = {"celery": "5.6.0", "celery-flame-ec2": "0.1", "revision": "aaa"}


def test_what_s3_says_of_an_object_is_read() -> None:
    checksum = base64.b64encode(bytes.fromhex(SHA256)).decode()
    metadata = {"flame-celery": "5.6.0", "other": "x"}
    head = {"ETag": '"e"', "VersionId": "v1", "ChecksumSHA256": checksum, "Metadata": metadata}
    assert edition_of(URL, head) == Edition(url=URL, version="v1", etag='"e"', sha256=SHA256, facts={"celery": "5.6.0"})


def test_where_s3_keeps_a_checksum_of_parts_that_of_the_whole_is_the_one_that_was_pushed_beside_it() -> None:
    head = {"ETag": '"e"', "ChecksumSHA256": "abc=-3", "Metadata": {"flame-sha256": SHA256}}
    assert edition_of(URL, head).sha256 == SHA256


def test_the_version_null_is_none_for_another_may_take_its_place() -> None:
    assert edition_of(URL, {"ETag": '"e"', "VersionId": "null"}).version is None


def test_a_tag_tells_url_and_version_and_fits() -> None:
    assert tag(URL, None) == URL
    assert tag(URL, "v1") == f"{URL}?versionId=v1"
    long = [f"s3://releases/{'x' * 300}/{name}.tar.gz" for name in "ab"]
    assert len({tag(url, version) for url in long for version in ("v", None)}) == 4
    assert all(len(tag(url, "v")) <= 256 for url in long)


def test_the_state_of_a_prefix_is_that_of_its_manifest() -> None:
    assert (key_of("proj/1/"), key_of("proj/1.tar.gz")) == ("proj/1/release.json", "proj/1.tar.gz")


@pytest.mark.parametrize(
    ("own", "theirs", "told"),
    [
        (OWN, OWN, []),
        (OWN, {}, []),
        (OWN, {**OWN, "celery": "5.4.0"}, ["celery 5.4.0 there, 5.6.0 here"]),
        (OWN, {**OWN, "revision": "bbb"}, ["git revision bbb there, aaa here"]),
        ({"celery": "5.6.0"}, {**OWN, "python": "3.11.2"}, []),
        ({**OWN, "manifest": "m", "celery": "1"}, {**OWN, "manifest": "m"}, []),
        ({**OWN, "manifest": "m"}, {**OWN, "manifest": "n"}, ["it was built another time, or of other packages"]),
    ],
)
def test_a_parent_differs_in_what_both_tell(own: dict[str, str], theirs: dict[str, str], told: list[str]) -> None:
    found = differences(own, theirs)
    assert len(found) == len(told)
    assert all(line.startswith(words) for line, words in zip(found, told, strict=True))
