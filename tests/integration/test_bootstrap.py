"""The bootstrap's steps against S3, SSM, Secrets Manager and instance metadata; only systemd and useradd are absent."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import socketserver
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from celery_flame_ec2 import boot
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.edition import Edition
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.templates import bootstrap
from tests.box.metadata import Credentials, Identity, Metadata

BUCKET = "releases"
PROGRAM = b"#!/bin/sh\n"
IDENTITY = Identity(
    instance_id="i-0123456789abcdef0", image_id="ami-1", instance_type="t3.nano", account="1", region="eu-central-1",
    zone="eu-central-1a", mac="02:00", subnet_id="subnet-1", vpc_id="vpc-1", security_group_ids=("sg-1",),
    local_ipv4="172.31.0.5", profile_arn="arn:aws:iam::1:instance-profile/runner", role="runner",
    credentials=Credentials(access_key_id="AKIAEXAMPLE", secret_access_key="secret", token="token/+="),
)  # fmt: skip


@pytest.fixture
def aws(aws_url: str) -> Callable[[str], Any]:
    return lambda service: boto3.client(service, endpoint_url=aws_url, region_name="eu-central-1")


@pytest.fixture
def s3(aws: Callable[[str], Any]) -> Any:
    client = aws("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return client


class Machine:
    """An instance's disk, the programs run on it, and its metadata."""

    def __init__(self, root: Path, metadata: Metadata, aws_url: str) -> None:
        self.root, self.aws_url = root, aws_url
        self.commands: list[tuple[str, ...]] = []
        base = f"http://127.0.0.1:{metadata.port}/latest"
        self.urls = {"instance_metadata_url": f"{base}/meta-data/", "instance_metadata_token_url": f"{base}/api/token"}
        for directory in ("run/flame", "run/systemd/system/poweroff.target.d"):
            (root / directory).mkdir(parents=True)

    def boot(self, key: str = "proj.tar.gz", edition: Edition | None = None, **options: Any) -> bootstrap.Boot:
        known: dict[str, Any] = {"s3_service_endpoint": self.aws_url, **self.urls, **options}
        letter = Parent(owner="o", pool="p", backend="ec2", queues=("q",), concurrency=1)
        own = Ec2Options(app="proj", s3_bundle_url=f"s3://{BUCKET}/{key}", user="nobody", **known)
        document = json.loads(json.dumps(boot.document(letter, own, edition)))
        return bootstrap.Boot(document, root=str(self.root), command=lambda *words: self.commands.append(words))

    def installed(self, *arguments: Any, **options: Any) -> Path:
        """Install a release; return where it is."""
        steps = self.boot(*arguments, **options)
        metadata = bootstrap.Metadata(steps.document)
        keys = metadata.keys()
        steps.install_release(bootstrap.Aws(steps.document, metadata.region(), metadata.domain(), keys))
        return self.release

    @property
    def release(self) -> Path:
        return self.root / "srv/proj/release"


@pytest.fixture
def identities() -> list[Identity]:
    """Who the machine is; a test may change it."""
    return [IDENTITY]


@pytest.fixture
def metadata(identities: list[Identity]) -> Iterator[Metadata]:
    served = Metadata()
    served.open(lambda: identities[0])
    yield served
    served.close()


@pytest.fixture
def machine(tmp_path: Path, metadata: Metadata, aws_url: str) -> Machine:
    return Machine(tmp_path, metadata, aws_url)


def archive(files: dict[str, bytes], *, mode: int = 0o755, compression: str = "gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = mode, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


BUNDLE = archive({"bin/proj": PROGRAM, "lib/data": bytes(range(256)) * 5000})


def failure(machine: Machine, *arguments: Any, **options: Any) -> str:
    with pytest.raises(bootstrap.BootError) as caught:
        machine.installed(*arguments, **options)
    assert not machine.release.exists()
    return str(caught.value)


def test_all_steps_leave_release_units_and_environment_and_start_the_unit(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    machine.boot(env={"GREETING": "hi"}).all_steps()
    assert (machine.release / "bin/proj").read_bytes() == PROGRAM
    environment = machine.root / "run/flame/env"
    assert stat.S_IMODE(environment.stat().st_mode) == 0o600
    lines = environment.read_text().splitlines()
    assert {'GREETING="hi"', f'FLAME_RUNNER_ID="{IDENTITY.instance_id}"', 'RELEASE_NAME="proj"'} <= set(lines)
    assert (machine.root / "run/systemd/system/flame-release.service").exists()
    assert ("systemctl", "start", "flame-hello.timer", "flame-age.timer") in machine.commands
    assert machine.commands[-2] == ("systemctl", "--no-block", "start", "flame-release.service")
    assert (machine.root / "run/flame/step").read_text() == "start"


def test_the_environment_cannot_overwrite_who_the_runner_is(s3: Any, machine: Machine) -> None:
    steps = machine.boot()
    steps.document = {**steps.document, "env": {"FLAME_RUNNER_ID": "i-other", "LANG": "de_DE.UTF-8"}}
    steps.write_environment(bootstrap.Aws(steps.document, "eu-central-1", "", {}), "i-own")
    text = (machine.root / "run/flame/env").read_text()
    assert 'FLAME_RUNNER_ID="i-own"' in text
    assert "i-other" not in text
    assert 'LANG="de_DE.UTF-8"' in text


def test_a_bundle_packed_with_zstd_is_unpacked(s3: Any, machine: Machine) -> None:
    plain = archive({"bin/proj": PROGRAM}, compression="")
    packed = subprocess.run(["zstd", "-q"], input=plain, capture_output=True, check=True).stdout
    s3.put_object(Bucket=BUCKET, Key="proj.tar.zst", Body=packed)
    assert (machine.installed("proj.tar.zst") / "bin/proj").read_bytes() == PROGRAM


def test_what_was_setuid_in_the_bundle_is_not_so_in_the_release(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=archive({"bin/proj": PROGRAM}, mode=0o6777))
    found = (machine.installed() / "bin/proj").stat()
    assert found.st_mode & 0o7000 == 0
    assert found.st_uid == 0


def test_a_release_baked_into_the_image_is_replaced(s3: Any, machine: Machine) -> None:
    (machine.release / "bin").mkdir(parents=True)
    (machine.release / "bin/old").touch()
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert sorted(p.name for p in (machine.installed() / "bin").iterdir()) == ["proj"]


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"no archive", "unpack: the bundle cannot be unpacked: it is damaged, or not in gzip format (Error -3"),
        (BUNDLE[:-200], "unpack: the bundle cannot be unpacked: it is cut off"),
        (archive({"bin/other": PROGRAM}), "release: the bundle has no bin/proj"),
        (archive({"bin/proj": PROGRAM}, mode=0o700), "release: bin/proj is not executable for everyone"),
    ],
    ids=["no archive", "cut off", "no program", "a program for its owner alone"],
)
def test_a_bundle_that_is_no_release_is_refused(s3: Any, machine: Machine, body: bytes, cause: str) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=body)
    assert failure(machine).startswith(cause)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"start_command": ("run/me", "bin/proj")}, "release: the bundle has no run/me"),
        ({"start_command": ("/no/java", "bin/proj")}, "release: the image has no /no/java"),
        ({"start_command": ("/etc/passwd",)}, "release: /etc/passwd is not executable for everyone"),
        ({"sandbox": {"ReadWritePaths": ("/no/data", "/tmp")}}, "release: the image has no /no/data"),
    ],
)
def test_what_the_settings_name_and_the_instance_does_not_have_is_named(
    s3: Any, machine: Machine, options: dict[str, Any], cause: str
) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert failure(machine, **options).startswith(cause)


@pytest.mark.parametrize("program", ["work.sh", "/bin/sh"])
def test_a_release_without_our_program_is_installed_where_the_start_command_needs_none(
    s3: Any, machine: Machine, program: str
) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=archive({"work.sh": PROGRAM}))
    assert (machine.installed(start_command=(program, "work.sh")) / "work.sh").exists()


def test_a_missing_bundle_is_named(s3: Any, machine: Machine) -> None:
    assert failure(machine, "gone.tar.gz") == f"fetch: no such bundle s3://{BUCKET}/gone.tar.gz"


def test_a_missing_bucket_is_named(machine: Machine) -> None:
    assert failure(machine) == f"fetch: no such bucket s3://{BUCKET}"


def test_a_bundle_with_another_checksum_than_the_parents_is_refused(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert failure(machine, s3_bundle_sha256="0" * 64).startswith("fetch: wrong checksum of proj.tar.gz: ")


def test_a_bundle_with_the_parents_checksum_is_accepted(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert machine.installed(s3_bundle_sha256=hashlib.sha256(BUNDLE).hexdigest()).exists()


def test_a_bundle_with_another_checksum_than_s3_keeps_is_refused(s3: Any, machine: Machine) -> None:
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE, ChecksumAlgorithm="SHA256", ChecksumSHA256=wrong)
    assert failure(machine).startswith("fetch: wrong checksum of proj.tar.gz: ")


OLDER = archive({"bin/proj": b"#!/bin/older\n"})


def pinned(put: dict[str, Any], url: str = f"s3://{BUCKET}/proj.tar.gz", sha256: str | None = None) -> Edition:
    return Edition(url=url, version=put.get("VersionId"), etag=put["ETag"], sha256=sha256)


def test_the_pinned_version_is_installed_though_a_newer_one_has_its_key(s3: Any, machine: Machine) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    older = s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=OLDER)
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    release = machine.installed(edition=pinned(older))
    assert (release / "bin/proj").read_bytes() == b"#!/bin/older\n"


def test_a_pinned_version_that_is_gone_is_named(s3: Any, machine: Machine) -> None:
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    older = s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=OLDER)
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    s3.delete_object(Bucket=BUCKET, Key="proj.tar.gz", VersionId=older["VersionId"])
    assert failure(machine, edition=pinned(older)) == (
        f"fetch: s3://{BUCKET}/proj.tar.gz is no longer the one that the parent pinned "
        f"(version {older['VersionId']} is gone)"
    )


def test_where_there_are_no_versions_another_bundle_under_the_key_is_refused(s3: Any, machine: Machine) -> None:
    older = s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=OLDER)
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert failure(machine, edition=pinned(older)).endswith(f"the parent pinned (ETag {older['ETag']} is gone)")


def test_the_sha256_the_parent_pinned_is_compared_too(s3: Any, machine: Machine) -> None:
    put = s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    assert failure(machine, edition=pinned(put, sha256="0" * 64)).startswith("fetch: wrong checksum of proj.tar.gz: ")


@pytest.mark.parametrize("then", [b'{"other": 1}', None], ids=["replaced", "gone"])
def test_a_prefix_whose_manifest_is_not_the_pinned_one_is_refused(
    s3: Any, machine: Machine, then: bytes | None
) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj/1/bin/proj", Body=PROGRAM)
    put = s3.put_object(Bucket=BUCKET, Key="proj/1/release.json", Body=b"{}")
    if then is None:
        s3.delete_object(Bucket=BUCKET, Key="proj/1/release.json")
    else:
        s3.put_object(Bucket=BUCKET, Key="proj/1/release.json", Body=then)
    edition = pinned(put, f"s3://{BUCKET}/proj/1/")
    assert "proj/1/release.json is no longer the one that the parent pinned" in failure(machine, "proj/1/", edition)


def test_an_instance_without_a_role_is_named(s3: Any, machine: Machine, identities: list[Identity]) -> None:
    identities[0] = replace(IDENTITY, profile_arn=None, role=None, credentials=None)
    with pytest.raises(bootstrap.Refused, match="the instance has no role; set iam_instance_profile"):
        machine.installed()


ODD = ["lib/a b+c.py", "lib/ünï/çödé", "lib/100%/$(x)'\"&?#", "bin/helper"]


def test_a_prefix_is_fetched_whole_and_its_programs_can_be_run(s3: Any, machine: Machine) -> None:
    for name in ("bin/proj", "lib/", *ODD):
        s3.put_object(Bucket=BUCKET, Key=f"proj/1.0/{name}", Body=name.encode())
    s3.put_object(Bucket=BUCKET, Key="proj/1.0-other/x", Body=b"")
    release = machine.installed("proj/1.0/")
    found = {str(path.relative_to(release)): path.read_text() for path in release.rglob("*") if path.is_file()}
    assert found == {name: name for name in ("bin/proj", *ODD)}
    assert {name for name in found if (release / name).stat().st_mode & 0o111} == {"bin/proj", "bin/helper"}


def told(content: bytes, mode: str = "644") -> dict[str, str]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "mode": mode}


#: What `release build` says of a release of two programs, data and a link.
FILES = {
    "bin/proj": told(PROGRAM, "755"),
    "bin/readme": told(b"read"),
    "lib/tool": told(b"tool", "755"),
    "lib/alias": {"link": "tool"},
}
CONTENTS = {"bin/proj": PROGRAM, "bin/readme": b"read", "lib/tool": b"tool"}


def publish(s3: Any, contents: dict[str, bytes], files: dict[str, Any], **manifest: Any) -> bytes:
    """Put a release under proj/; return its manifest."""
    text = json.dumps({"name": "proj", "celery_app": "proj", "files": files, **manifest}).encode()
    for name, content in {**contents, "release.json": text}.items():
        s3.put_object(Bucket=BUCKET, Key=f"proj/{name}", Body=content)
    return text


def test_a_prefix_with_a_manifest_is_fetched_as_that_says(s3: Any, machine: Machine) -> None:
    publish(s3, {**CONTENTS, "lib/stranger": b"x"}, FILES)
    release = machine.installed("proj/")
    found = {str(path.relative_to(release)): path for path in release.rglob("*") if not path.is_dir()}
    assert found.keys() == {*FILES, "release.json"}
    assert {name for name, path in found.items() if path.stat().st_mode & 0o111} == {
        "bin/proj",
        "lib/tool",
        "lib/alias",
    }
    assert (release / "lib/alias").readlink() == Path("tool")


@pytest.mark.parametrize(
    ("contents", "files", "manifest", "cause"),
    [
        ({**CONTENTS, "lib/tool": b"evil"}, FILES, {}, "fetch: wrong checksum of proj/lib/tool: "),
        (
            CONTENTS,
            {**FILES, "lib/more": told(b"")},
            {},
            "fetch: release.json names lib/more, which is not under s3://",
        ),
        (
            CONTENTS,
            {**FILES, "lib/up": {"link": "../../etc"}},
            {},
            "release: up in the bundle leads out of it",
        ),
        (
            CONTENTS,
            {**FILES, "../up": {"link": "x"}},
            {},
            "fetch: '../up' under the prefix is no path inside a release",
        ),
        (CONTENTS, {**FILES, "lib/alias/x": {"link": "x"}}, {}, "fetch: FileExistsError: "),
        (CONTENTS, FILES, {"python": "3.1.2"}, "fetch: the release is built for Python 3.1, and this machine has "),
        (CONTENTS, FILES, {"platform": "riscv64-manylinux_2_39"}, "fetch: the release is built for riscv64, and this "),
    ],
    ids=["another file", "a file less", "a link out", "a path out", "a link through a link", "Python", "machine"],
)
def test_a_prefix_that_is_not_what_its_manifest_says_is_refused(
    s3: Any, machine: Machine, contents: dict[str, bytes], files: dict[str, Any], manifest: dict[str, str], cause: str
) -> None:
    publish(s3, contents, files, **manifest)
    assert failure(machine, "proj/").startswith(cause)


def test_a_release_for_another_machine_is_refused_before_anything_of_it_is_fetched(s3: Any, machine: Machine) -> None:
    publish(s3, CONTENTS, FILES, platform="riscv64-manylinux_2_39")
    failure(machine, "proj/")
    assert [path.name for path in (machine.root / "srv/proj/release.new").iterdir()] == ["release.json"]


def test_an_archive_for_another_python_is_refused(s3: Any, machine: Machine) -> None:
    manifest = json.dumps({"celery_app": "proj", "python": "3.1.2"}).encode()
    body = archive({"bin/proj": PROGRAM, "release.json": manifest})
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=body)
    assert failure(machine).startswith("release: the release is built for Python 3.1, and this machine has 3.")


def test_no_pipe_and_no_link_out_of_an_archive_gets_into_a_release(s3: Any, machine: Machine) -> None:
    for kind, cause in ((tarfile.FIFOTYPE, "is no plain file"), (tarfile.SYMTYPE, "leads out of it")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            entry = tarfile.TarInfo("lib/odd")
            entry.type, entry.linkname = kind, "/etc/shadow"
            tar.addfile(entry)
        s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=buffer.getvalue())
        assert f"release: odd in the bundle {cause}" in failure(machine)
        shutil.rmtree(machine.root / "srv")


def test_a_bundle_larger_than_the_disk_is_refused_before_it_is_unpacked(
    s3: Any, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    publish(s3, CONTENTS, FILES)
    assert failure(machine).startswith(
        "fetch: the disk is too small; set a larger root_volume (OSError: No space left: it needs"
    )
    shutil.rmtree(machine.root / "srv")
    assert failure(machine, "proj/").startswith("fetch: the disk is too small; set a larger root_volume (OSError: No")


def test_an_empty_prefix_is_no_bundle(s3: Any, machine: Machine) -> None:
    assert failure(machine, "none/") == f"fetch: no such bundle s3://{BUCKET}/none/"


def test_an_object_that_would_leave_the_release_is_refused(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj/bin/proj", Body=PROGRAM)
    s3.put_object(Bucket=BUCKET, Key="proj/../../escaped", Body=b"")
    assert "is no path inside a release" in failure(machine, "proj/")
    assert not (machine.root / "escaped").exists()


def test_references_are_resolved_where_the_secrets_are(
    s3: Any, machine: Machine, aws: Callable[[str], Any], aws_url: str
) -> None:
    aws("ssm").put_parameter(Name="/app/dsn", Value='p"a$s\n', Type="SecureString")
    aws("secretsmanager").create_secret(Name="app/token", SecretString="hush")
    arn = aws("secretsmanager").create_secret(Name="app/db", SecretString='{"user": "jo"}')["ARN"]
    env: dict[str, Any] = {"DSN": {"from_ssm": "/app/dsn"}, "TOKEN": {"from_secretsmanager": "app/token"}}
    env |= {"USER": {"from_secretsmanager": f"{arn}#user"}, "AWS_ENDPOINT_URL": aws_url}
    steps = machine.boot(env=env)
    metadata = bootstrap.Metadata(steps.document)
    found = bootstrap.resolved(
        steps.document["env"], bootstrap.Aws(steps.document, metadata.region(), metadata.domain(), metadata.keys())
    )
    assert (found["DSN"], found["TOKEN"], found["USER"]) == ('p"a$s\n', "hush", "jo")


@pytest.mark.parametrize(
    ("reference", "cause"),
    [
        ({"from_ssm": "/gone"}, "A (/gone): no such SSM parameter"),
        ({"from_secretsmanager": "gone#key"}, "A (gone#key): secretsmanager.GetSecretValue: ResourceNotFoundException"),
    ],
)
def test_a_missing_secret_is_named(machine: Machine, aws_url: str, reference: dict[str, str], cause: str) -> None:
    steps = machine.boot(env={"A": reference, "AWS_ENDPOINT_URL": aws_url})
    with pytest.raises(bootstrap.BootError, match=re.escape(f"environment: {cause}")):
        steps.write_environment(bootstrap.Aws(steps.document, "eu-central-1", "", bootstrap_keys(steps)), "i-1")


def bootstrap_keys(steps: bootstrap.Boot) -> dict[str, str]:
    return bootstrap.Metadata(steps.document).keys()


class Breaking(BaseHTTPRequestHandler):
    """S3 with one object, whose connection breaks in the middle of every answer but the last."""

    server: BreakingServer

    def do_GET(self) -> None:
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append((start, self.headers.get("If-Match")))
        rest = BUNDLE[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("ETag", '"tag"')
        self.end_headers()
        whole = len(self.server.asked) > self.server.breaks
        self.wfile.write(rest if whole else rest[: len(rest) // 2])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class BreakingServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, breaks: int) -> None:
        super().__init__(("127.0.0.1", 0), Breaking)
        self.breaks = breaks
        self.asked: list[tuple[int, str | None]] = []

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", int(self.server_address[1])


@pytest.fixture
def breaking() -> Iterator[Callable[[int], BreakingServer]]:
    started: list[tuple[BreakingServer, threading.Thread]] = []

    def start(breaks: int) -> BreakingServer:
        server = BreakingServer(breaks)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    machine: Machine, breaking: Callable[[int], BreakingServer]
) -> None:
    server = breaking(3)
    release = machine.installed(s3_service_endpoint=f"http://127.0.0.1:{server.server_port}")
    assert (release / "lib/data").read_bytes() == bytes(range(256)) * 5000
    half = len(BUNDLE) // 2
    assert server.asked[:2] == [(0, None), (half, '"tag"')]
    assert len(server.asked) == 4


def test_an_s3_that_never_answers_is_named(machine: Machine) -> None:
    cause = failure(machine, s3_service_endpoint="http://127.0.0.1:9")
    assert cause.startswith("fetch: no answer from http://127.0.0.1:9 (ConnectionRefusedError")


# where a launch template's user data prepares the host


def waiting(machine: Machine) -> bootstrap.Boot:
    steps = machine.boot()
    steps.document = {**steps.document, "prepared_by_template": True}
    return steps


def cloud_init_ended(machine: Machine, *errors: str) -> None:
    (machine.root / "run/cloud-init").mkdir()
    (machine.root / "run/cloud-init/result.json").write_text(json.dumps({"v1": {"errors": errors}}))


def test_a_template_is_waited_for_with_the_timers_armed_and_nothing_fetched(machine: Machine) -> None:
    waiting(machine).all_steps()
    assert machine.commands == [
        ("systemctl", "start", "flame-hello.timer", "flame-age.timer"),
        ("systemctl", "--no-block", "stop", "flame-deadman.timer"),
        ("systemctl", "--no-block", "start", "flame-prepared.service"),
    ]
    assert (machine.root / "run/systemd/system/flame-hello.timer").exists()
    assert not (machine.root / "srv").exists()
    assert (machine.root / "run/flame/step").read_text() == "template"


def test_on_a_prepared_host_the_release_is_started(s3: Any, machine: Machine) -> None:
    s3.put_object(Bucket=BUCKET, Key="proj.tar.gz", Body=BUNDLE)
    cloud_init_ended(machine)
    waiting(machine).remaining_steps()
    assert (machine.release / "bin/proj").exists()
    assert ("systemctl", "--no-block", "start", "flame-release.service") in machine.commands


def test_on_a_host_that_could_not_be_prepared_nothing_is_fetched(machine: Machine) -> None:
    cloud_init_ended(machine, "('scripts-user', RuntimeError('1 failures (launch-template)'))")
    with pytest.raises(bootstrap.BootError, match=r"template: the launch template's user data failed: .*scripts-user"):
        waiting(machine).remaining_steps()
    assert machine.commands == []


def test_where_cloud_init_was_ended_in_the_midst_nothing_is_fetched(machine: Machine) -> None:
    with pytest.raises(bootstrap.BootError, match="template: cloud-init was ended before"):
        waiting(machine).remaining_steps()
    assert machine.commands == []
