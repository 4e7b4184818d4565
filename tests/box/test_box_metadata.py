"""Does metadata answer as EC2's does? Needs no root."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from tests.box.metadata import Credentials, Identity, Metadata, leaves, look_up

KEYS = Credentials(access_key_id="ASIA", secret_access_key="secret", token="tok/en==")
SOMEONE = Identity(
    instance_id="i-1",
    image_id="ami-1",
    instance_type="t3.nano",
    account="123456789012",
    region="eu-central-1",
    zone="eu-central-1a",
    mac="02:00:00:00:00:01",
    subnet_id="subnet-1",
    vpc_id="vpc-1",
    security_group_ids=("sg-1", "sg-2"),
    local_ipv4="10.0.0.1",
    profile_arn="arn:aws:iam::123456789012:instance-profile/p",
    role="r",
    credentials=KEYS,
    tags={"flame:pool": "video"},
    user_data=b"\x1f\x8b",
)


def told(path: str, identity: Identity = SOMEONE) -> str | None:
    found = look_up(leaves(identity, now=0), path)
    return None if found is None else found.decode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("meta-data/instance-id", "i-1"),
        ("meta-data/placement/region", "eu-central-1"),
        ("meta-data/placement/", "availability-zone\nregion"),
        ("meta-data/network/interfaces/macs/", "02:00:00:00:00:01/"),
        ("meta-data/network/interfaces/macs/02:00:00:00:00:01/security-group-ids", "sg-1\nsg-2"),
        ("meta-data/iam/security-credentials/", "r"),
        ("meta-data/tags/instance/flame:pool", "video"),
        ("meta-data/spot/instance-action", None),
        ("meta-data/nothing", None),
        ("user", None),
    ],
)
def test_a_path_has_its_value_or_the_names_below_it(path: str, value: str | None) -> None:
    assert told(path) == value


def test_keys_come_with_a_token_and_an_end() -> None:
    found = json.loads(told("meta-data/iam/security-credentials/r") or "")
    assert (found["Code"], found["AccessKeyId"], found["SecretAccessKey"]) == ("Success", "ASIA", "secret")
    assert (found["Token"], found["Expiration"]) == ("tok/en==", "1970-01-01T06:00:00Z")


def test_without_profile_tags_or_keys_their_paths_do_not_exist() -> None:
    bare = replace(SOMEONE, profile_arn=None, tags=None, credentials=None, user_data=None)
    for path in ("meta-data/iam/info", "meta-data/iam/security-credentials/", "meta-data/tags/instance/", "user-data"):
        assert told(path, bare) is None
    assert told("meta-data/iam/security-credentials/", replace(SOMEONE, credentials=None)) is None
    assert told("meta-data/iam/info", replace(SOMEONE, credentials=None)) is not None


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    served = Metadata()
    served.open(lambda: SOMEONE)
    yield served
    served.close()


def ask(address: str, port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://{address}:{port}/latest/{path}", method=method, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, b""


def test_no_answer_without_a_token(metadata: Metadata) -> None:
    def get(**headers: str) -> int:
        return ask("127.0.0.1", metadata.port, "meta-data/instance-id", **headers)[0]

    def put(**headers: str) -> tuple[int, bytes]:
        return ask("127.0.0.1", metadata.port, "api/token", "PUT", **headers)

    assert get() == 401
    assert get(X_aws_ec2_metadata_token="made up") == 401
    assert put()[0] == 400
    assert put(X_aws_ec2_metadata_token_ttl_seconds="21601")[0] == 400
    assert put(X_aws_ec2_metadata_token_ttl_seconds="60", X_Forwarded_For="10.0.0.1")[0] == 403
    status, token = put(X_aws_ec2_metadata_token_ttl_seconds="60")
    assert status == 200
    assert get(X_aws_ec2_metadata_token=token.decode()) == 200


def test_each_address_has_an_identity_of_its_own_on_one_port(metadata: Metadata) -> None:
    others = [replace(SOMEONE, instance_id=name) for name in ("i-2", "i-3")]
    addresses = {metadata.admit(partial(replace, other)): other.instance_id for other in others}
    assert len(addresses) == 2
    for address, name in {**addresses, "127.0.0.1": "i-1"}.items():
        _, token = ask(address, metadata.port, "api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
        found = ask(address, metadata.port, "meta-data/instance-id", X_aws_ec2_metadata_token=token.decode())
        assert found == (200, name.encode())


def test_an_address_is_free_again_after_its_instance(metadata: Metadata) -> None:
    first = metadata.admit(lambda: SOMEONE)
    metadata.dismiss(first)
    with pytest.raises(urllib.error.URLError):
        ask(first, metadata.port, "meta-data/")
    assert metadata.admit(lambda: SOMEONE) == first
