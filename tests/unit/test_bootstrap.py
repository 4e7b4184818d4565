"""The bootstrap's pure parts: signatures, the environment file, paths, checksums."""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import json
import os
import re
import sys
import time
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import example, given, settings
from hypothesis import strategies as st

from celery_flame_ec2.templates import bootstrap

KEYS = {"AccessKeyId": "AKIDEXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "Token": "a/b+c=="}
values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def botocore_signature(kind: type, method: str, url: str, headers: dict[str, str], body: bytes, stamp: str) -> str:
    """What AWS's own signer makes of the same request."""
    credentials = Credentials(KEYS["AccessKeyId"], KEYS["SecretAccessKey"], KEYS["Token"])
    signer = kind(credentials, "s3" if kind is S3SigV4Auth else "ssm", "eu-central-1")
    request = AWSRequest(method=method, url=url, data=body, headers=headers)
    request.context["timestamp"] = stamp
    signer._modify_request_before_signing(request)
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


def own_signature(method: str, url: str, headers: dict[str, str], body: bytes, service: str, now: float) -> str:
    signed = bootstrap.sign(method, url, headers, body, keys=KEYS, region="eu-central-1", service=service, now=now)
    return signed["authorization"].rpartition("Signature=")[2]


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.sampled_from(["", "bytes=7-"]))
@example("a b+c/ä~*'()!$&,;:@=%2F..//x/", "")
def test_signatures_for_s3_are_those_of_botocore(key: str, wanted: str) -> None:
    now = 1_800_000_000.0
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    url = f"https://releases.s3.eu-central-1.amazonaws.com/{quote(key, safe='/-_.~')}"
    headers = {"x-amz-checksum-mode": "ENABLED", **({"range": wanted} if wanted else {})}
    assert own_signature("GET", url, headers, b"", "s3", now) == botocore_signature(
        S3SigV4Auth, "GET", url, headers, b"", stamp
    )


def test_signatures_of_a_listing_are_those_of_botocore() -> None:
    url = "http://127.0.0.1:5000/releases/?continuation-token=a%2Fb%3D&encoding-type=url&list-type=2&prefix=a%20b%2F"
    now = 1_800_000_000.0
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    assert own_signature("GET", url, {}, b"", "s3", now) == botocore_signature(S3SigV4Auth, "GET", url, {}, b"", stamp)


def test_signatures_of_a_json_call_are_those_of_botocore() -> None:
    now, body = 1_800_000_000.0, b'{"Names": ["/a"]}'
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": "AmazonSSM.GetParameters"}
    url = "https://ssm.eu-central-1.amazonaws.com/"
    signed = {**headers, "x-amz-content-sha256": hashlib.sha256(body).hexdigest()}
    assert own_signature("POST", url, headers, body, "ssm", now) == botocore_signature(
        SigV4Auth, "POST", url, signed, body, stamp
    )


def parse(text: str) -> dict[str, str]:
    """Read an EnvironmentFile as systemd's `parse_env_file` does, for values in double quotes."""
    found, position = {}, 0
    while position < len(text):
        name, _, _ = text[position:].partition("=")
        position += len(name) + 1
        assert text[position] == '"'
        position, value = position + 1, ""
        while text[position] != '"':
            if text[position] != "\\":
                value += text[position]
            elif text[position + 1] in '"\\`$':
                value, position = value + text[position + 1], position + 1
            elif text[position + 1] == "\n":
                position += 1
            else:
                value, position = value + text[position : position + 2], position + 1
            position += 1
        assert text[position + 1] == "\n"
        found[name], position = value, position + 2
    return found


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True), values))
@example({"A": "\\", "B": 'a\\"b', "C": "a\\\nb\n", "D": "$(x) `y` ${Z}", "E": " \t\r ", "F": "", "G": "\\n"})
def test_systemd_reads_back_what_the_environment_file_was_written_from(variables: dict[str, str]) -> None:
    assert parse(bootstrap.environment_file(variables).decode()) == variables


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "..", "a\0b"])
def test_no_object_under_a_prefix_leaves_the_release(relative: str) -> None:
    with pytest.raises(bootstrap.Refused, match="no path inside a release"):
        bootstrap.inside("/srv/proj/release.new", relative)


def test_an_object_under_a_prefix_keeps_its_place(tmp_path: Path) -> None:
    assert bootstrap.inside(str(tmp_path), "bin/my app..py") == f"{tmp_path}/bin/my app..py"
    assert (tmp_path / "bin").is_dir()


def download(checksum: str, content: bytes = b"content") -> bootstrap.Download:
    found = bootstrap.Download.__new__(bootstrap.Download)
    found.key, found.checksum, found.digest = "k", checksum, hashlib.sha256(content)
    return found


WHOLE = base64.b64encode(hashlib.sha256(b"content").digest()).decode()
OTHER = base64.b64encode(hashlib.sha256(b"other").digest()).decode()


@pytest.mark.parametrize("checksum", ["", WHOLE, f"{OTHER}-3"], ids=["none", "of the whole", "of a multipart's parts"])
def test_a_checksum_that_does_not_contradict_is_accepted(checksum: str) -> None:
    download(checksum).verify(hashlib.sha256(b"content").hexdigest())


@pytest.mark.parametrize(
    ("checksum", "expected"), [(OTHER, None), (WHOLE, "0" * 64)], ids=["kept by S3", "the parent's"]
)
def test_a_wrong_checksum_is_refused(checksum: str, expected: str | None) -> None:
    with pytest.raises(bootstrap.Refused, match=r"wrong checksum of k: .*, expected"):
        download(checksum).verify(expected)


def aws(**document: Any) -> bootstrap.Aws:
    return bootstrap.Aws({"s3_endpoint": None, "env": {}, **document}, "eu-west-1", "amazonaws.com", KEYS)


def bucket(where: bootstrap.Aws, url: str, **pin: str) -> bootstrap.Bucket:
    return bootstrap.Bucket(where, url, {"version": None, "etag": None, "sha256": None, **pin})


@pytest.mark.parametrize(
    ("configured", "name", "expected"),
    [
        ({}, "releases", "https://releases.s3.eu-west-1.amazonaws.com"),
        ({}, "my.releases", "https://s3.eu-west-1.amazonaws.com/my.releases"),
        ({"s3_endpoint": "http://127.0.0.1:5000/"}, "releases", "http://127.0.0.1:5000/releases"),
        ({"env": {"AWS_ENDPOINT_URL_S3": "https://own"}}, "releases", "https://own/releases"),
        ({"env": {"AWS_ENDPOINT_URL": {"from_ssm": "/x"}}}, "releases", "https://releases.s3.eu-west-1.amazonaws.com"),
    ],
)
def test_a_bucket_is_asked_where_it_is(configured: dict[str, Any], name: str, expected: str) -> None:
    assert bucket(aws(**configured), f"s3://{name}/a/b.tar.gz").base() == expected


class Secrets:
    """SSM and Secrets Manager, in memory; `alone` where the role may not ask for many secrets at once."""

    def __init__(self, parameters: dict[str, str], secrets: dict[str, dict[str, str]], *, alone: bool = False) -> None:
        self.parameters, self.secrets, self.alone = parameters, secrets, alone
        self.asked: list[tuple[str, int]] = []

    def call(self, service: str, target: str, payload: dict[str, Any]) -> dict[str, Any]:
        action = target.partition(".")[2]
        names = payload.get("Names") or payload.get("SecretIdList") or [payload["SecretId"]]
        self.asked.append((action, len(names)))
        return cast(dict[str, Any], getattr(self, action)(names))

    def GetParameters(self, names: list[str]) -> dict[str, Any]:
        known = [name for name in names if name in self.parameters]
        found = [
            {"Name": name.partition(":")[0], "Value": self.parameters[name]}
            | ({"Selector": ":" + name.partition(":")[2]} if ":" in name else {})
            for name in known
        ]
        return {"Parameters": found, "InvalidParameters": [n for n in names if n not in known]}

    def BatchGetSecretValue(self, names: list[str]) -> dict[str, Any]:
        if self.alone:
            raise bootstrap.Refused("secretsmanager.BatchGetSecretValue: AccessDeniedException: no")
        known = [{"Name": name, "ARN": f"arn:{name}", **self.secrets[name]} for name in names if name in self.secrets]
        return {"SecretValues": known, "Errors": [{"SecretId": name} for name in names if name not in self.secrets]}

    def GetSecretValue(self, names: list[str]) -> dict[str, Any]:
        if names[0] not in self.secrets:
            raise bootstrap.Refused("secretsmanager.GetSecretValue: ResourceNotFoundException: no")
        return self.secrets[names[0]]


def resolve(env: dict[str, Any], secrets: Secrets) -> dict[str, str]:
    return bootstrap.resolved(env, cast(bootstrap.Aws, secrets))


def test_references_are_resolved_ten_parameters_at_a_time() -> None:
    secrets = Secrets({f"/p/{n}": str(n) for n in range(12)} | {"/v:3": "third"}, {"s": {"SecretString": "hush"}})
    env: dict[str, Any] = {f"P{n}": {"from_ssm": f"/p/{n}"} for n in range(12)}
    env |= {"AGAIN": {"from_ssm": "/p/1"}, "V": {"from_ssm": "/v:3"}, "S": {"from_secretsmanager": "s"}, "PLAIN": "x"}
    found = resolve(env, secrets)
    assert found == {f"P{n}": str(n) for n in range(12)} | {"AGAIN": "1", "V": "third", "S": "hush", "PLAIN": "x"}
    assert secrets.asked == [("GetParameters", 10), ("GetParameters", 3), ("GetSecretValue", 1)]


@pytest.mark.parametrize("alone", [False, True], ids=["by batches", "without the right to"])
def test_secrets_are_resolved_twenty_at_a_time(alone: bool) -> None:
    known = {f"s{n:02}": {"SecretString": f"hush {n}"} for n in range(21)}
    secrets = Secrets({}, known, alone=alone)
    env = {name.upper(): {"from_secretsmanager": name} for name in known} | {"AGAIN": {"from_secretsmanager": "s03"}}
    expected = {name.upper(): value["SecretString"] for name, value in known.items()} | {"AGAIN": "hush 3"}
    assert resolve(env, secrets) == expected
    one_by_one = [("GetSecretValue", 1)] * 21 if alone else []
    assert secrets.asked == [("BatchGetSecretValue", 20), ("BatchGetSecretValue", 1), *one_by_one]


def test_what_a_batch_leaves_out_is_asked_for_by_itself() -> None:
    secrets = Secrets({}, {"a": {"SecretString": "1"}, "arn:partial": {"SecretString": "2"}})
    secrets.BatchGetSecretValue = lambda names: {"SecretValues": []}  # type: ignore[method-assign]
    assert resolve({"A": {"from_secretsmanager": "a"}, "B": {"from_secretsmanager": "arn:partial"}}, secrets) == {
        "A": "1",
        "B": "2",
    }


def test_a_key_of_a_secret_may_be_chosen_and_the_secret_is_asked_for_once() -> None:
    secrets = Secrets({}, {"db": {"SecretString": '{"user": "jo", "port": 5432, "tls": true}'}})
    env = {key.upper(): {"from_secretsmanager": f"db#{key}"} for key in ("user", "port", "tls")}
    assert resolve(env, secrets) == {"USER": "jo", "PORT": "5432", "TLS": "true"}
    assert secrets.asked == [("GetSecretValue", 1)]


@pytest.mark.parametrize(
    ("env", "cause"),
    [
        ({"A": {"from_ssm": "/gone"}}, "A (/gone): no such SSM parameter"),
        ({"A": {"from_secretsmanager": "binary"}}, "A (binary): the secret is binary, or no JSON object with this key"),
        ({"A": {"from_secretsmanager": "text#x"}}, "A (text#x): the secret is binary, or no JSON object with this key"),
        ({"A": {"from_secretsmanager": "list#0"}}, "A (list#0): the secret is binary, or no JSON object with this key"),
        ({"A": {"from_secretsmanager": "json#y"}}, "A (json#y): the secret is binary, or no JSON object with this key"),
        ({"A": {"from_secretsmanager": "gone#x"}}, "A (gone#x): secretsmanager.GetSecretValue: ResourceNotFound"),
        ({"A": {"from_ssm": "/nul"}}, "the value of A has a character that no environment can hold"),
    ],
)
def test_a_reference_that_gives_no_value_is_named_and_no_value_is(env: dict[str, Any], cause: str) -> None:
    texts = {"text": "hush", "list": '["hush"]', "json": '{"x": "hush"}'}
    secrets: dict[str, dict[str, str]] = {name: {"SecretString": text} for name, text in texts.items()}
    with pytest.raises(bootstrap.Refused) as caught:
        resolve(env, Secrets({"/nul": "hush\0"}, {"binary": {"SecretBinary": "eA=="}, **secrets}))
    assert str(caught.value).startswith(cause)
    assert "hush" not in str(caught.value)


def said_by(kind: str, status: int = 400) -> Any:
    body = json.dumps({"__type": f"com.amazonaws#{kind}", "message": "Rate exceeded"} if status != 200 else {"A": 1})
    return SimpleNamespace(status=status, read=body.encode)


@pytest.mark.parametrize("kind", ["ThrottlingException", "TooManyRequestsException", "RequestLimitExceeded"])
def test_an_api_that_is_asked_too_often_is_asked_again_after_growing_pauses(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, pauses = [said_by(kind)] * 3 + [said_by("", 200)], list[float]()
    own = aws()
    monkeypatch.setattr(own, "send", lambda *_: answers.pop(0))
    monkeypatch.setattr(bootstrap.time, "sleep", pauses.append)
    assert own.call("ssm", "AmazonSSM.GetParameters", {}) == {"A": 1}
    assert [0.5 * whole <= pause <= 1.8 * whole for pause, whole in zip(pauses, (0.2, 0.4, 0.8), strict=True)] == [
        True
    ] * 3


def test_an_api_that_refuses_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [said_by("AccessDeniedException")]
    own = aws()
    monkeypatch.setattr(own, "send", lambda *_: answers.pop(0))
    with pytest.raises(bootstrap.Refused, match=r"^AmazonSSM.GetParameters: AccessDeniedException: Rate exceeded$"):
        own.call("ssm", "AmazonSSM.GetParameters", {})


# which releases and archives a machine takes

OWN = "{}.{}.{}".format(*sys.version_info)
HERE = f"{os.uname().machine}-manylinux_2_5"


@pytest.mark.parametrize(
    "release",
    [
        {},
        {"python": OWN, "platform": HERE},
        {"python": f"3.{sys.version_info[1]}.99"},
        {"platform": f"{os.uname().machine}-unknown-linux-gnu"},
        {"platform": f"{os.uname().machine}-manylinux2014"},
    ],
)
def test_a_release_for_this_machine_is_taken(release: dict[str, str]) -> None:
    bootstrap.need_machine(release, None)


@pytest.mark.parametrize(
    ("release", "cause"),
    [
        (
            {"platform": "riscv64-manylinux_2_39"},
            "is built for riscv64, and this machine has {machine};",
        ),
        ({"platform": HERE.replace("_2_5", "_2_999")}, "is built for manylinux_2_999, and this machine has glibc 2."),
        ({"python": "3.1.2"}, "is built for Python 3.1, and this machine has {own};"),
    ],
)
def test_a_release_for_another_machine_is_refused(release: dict[str, str], cause: str) -> None:
    with pytest.raises(bootstrap.Refused) as caught:
        bootstrap.need_machine({"python": OWN, "platform": HERE, **release}, None)
    assert str(caught.value).startswith("the release " + cause.format(machine=os.uname().machine, own=OWN))


def test_the_python_of_a_release_is_looked_for_where_the_release_will_look(tmp_path: Path) -> None:
    program = tmp_path / "python3.1"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    bootstrap.need_machine({"python": "3.1.2"}, str(tmp_path))


def tree(root: Path) -> Path:
    release = root / "srv/proj/release.new"
    (release / "bin").mkdir(parents=True)
    (release / "bin/proj").touch()
    return release


def only_files(release: Path) -> None:
    bootstrap.only_files(str(release), (f"{release.parent}/release", "/usr/"))


@pytest.mark.parametrize("target", ["proj", "../bin/proj", "/usr/bin/env", "nowhere", "self"])
def test_links_within_the_release_and_to_installed_programs_are_taken(tmp_path: Path, target: str) -> None:
    release = tree(tmp_path)
    (release / "bin/self").symlink_to(target)
    only_files(release)


@pytest.mark.parametrize("target", ["/etc/shadow", "../../../../etc/shadow", "/", "/usr", "/usrlocal", "up"])
def test_links_that_lead_out_of_the_release_are_refused(tmp_path: Path, target: str) -> None:
    release = tree(tmp_path)
    (release / "bin/up").symlink_to("../../../..")
    (release / "bin/evil").symlink_to(target)
    with pytest.raises(bootstrap.Refused, match=r"^(evil|up) in the bundle leads out of it$"):
        only_files(release)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    release = tree(tmp_path)
    os.mkfifo(release / "bin/pipe")
    with pytest.raises(bootstrap.Refused, match=r"^pipe in the bundle is no plain file$"):
        only_files(release)


@pytest.mark.parametrize("text", [None, "no JSON", "[]", '{"files": {}}'])
def test_what_no_release_build_wrote_is_no_manifest(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "release.json").write_text(text)
    assert bootstrap.manifest(str(tmp_path)) == {}


@given(st.binary(), st.integers(1, 9))
def test_what_gzip_packed_is_unpacked_whole_however_it_comes_in(content: bytes, size: int) -> None:
    packed = gzip.compress(content) + gzip.compress(content * 2)
    chunks = [packed[at : at + size] for at in range(0, len(packed), size)]
    assert b"".join(bootstrap.inflated(chunks)) == content * 3


def test_no_piece_of_an_archive_becomes_large_in_memory() -> None:
    pieces = list(bootstrap.inflated([gzip.compress(bytes(1 << 24))]))
    assert max(map(len, pieces)) <= 4 * bootstrap.CHUNK
    assert sum(map(len, pieces)) == 1 << 24


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (404, "<Error><Code>NoSuchKey</Code></Error>", "no such bundle s3://releases/k"),
        (404, "", "no such bundle s3://releases/k"),
        (404, "<Error><Code>NoSuchBucket</Code></Error>", "no such bucket s3://releases"),
        (403, "<Error><Code>AccessDenied</Code><Message>No</Message></Error>", "needs s3:GetObject"),
        (400, "<Error><Code>Odd</Code><Message>Not so</Message></Error>", r"answered 400 .*\(Odd: Not so\)"),
        (503, "<html>", "answered 503"),
    ],
)
def test_what_s3_refuses_is_said_in_one_cause(status: int, body: str, cause: str) -> None:
    response: Any = SimpleNamespace(status=status, read=lambda _: body.encode())
    assert re.search(cause, bucket(aws(), "s3://releases/k").explain(response, "k"))


@pytest.mark.parametrize(
    ("status", "code", "pin", "cause"),
    [
        (412, "PreconditionFailed", {"etag": '"a"'}, 's3://releases/k is no longer the one .* \\(ETag "a" is gone'),
        (404, "NoSuchVersion", {"etag": '"a"', "version": "v1"}, "no longer the one .* \\(version v1 is gone"),
        (404, "NoSuchKey", {"etag": '"a"'}, "no longer the one"),
        (404, "NoSuchBucket", {"etag": '"a"'}, "no such bucket"),
        (
            403,
            "AccessDenied",
            {"etag": '"a"', "version": "v1"},
            "needs s3:GetObject, for a pinned version s3:GetObjectVersion",
        ),
    ],
)
def test_a_bundle_that_is_not_the_pinned_one_is_said_in_one_cause(
    status: int, code: str, pin: dict[str, str], cause: str
) -> None:
    response: Any = SimpleNamespace(status=status, read=lambda _: f"<Error><Code>{code}</Code></Error>".encode())
    assert re.search(cause, bucket(aws(), "s3://releases/k", **pin).explain(response, "k"))


class Pages(bootstrap.Bucket):
    """A listing of two pages."""

    queries: list[str]

    def get(self, key: str, query: str = "", **headers: str) -> Any:
        self.queries.append(query)
        last = "continuation-token=a%2Fb%3D" in query
        token = "" if last else "<NextContinuationToken>a/b=</NextContinuationToken>"
        name = "p/last%2Bplus" if last else "p/first+space"
        found = f"<Contents><Key>{name}</Key><Size>{len(name)}</Size></Contents><Contents><Key>p/d/</Key></Contents>"
        listing = f"<ListBucketResult xmlns='urn:s3'>{found}{token}</ListBucketResult>"
        return SimpleNamespace(read=listing.encode)


def test_a_prefix_is_listed_page_by_page() -> None:
    pages = Pages(aws(), "s3://releases/p/", {"version": None, "etag": None, "sha256": None})
    pages.queries = []
    assert list(pages.listed()) == [("first space", 13), ("last+plus", 13)]
    assert pages.queries[0] == "encoding-type=url&list-type=2&prefix=p%2F"
    assert len(pages.queries) == 2


def test_the_bootstrap_needs_the_standard_library_alone() -> None:
    source = (resources.files("celery_flame_ec2") / "templates" / "bootstrap.py").read_text()
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(source))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names
