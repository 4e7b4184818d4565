from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from celery_flame_ec2.errors import MetadataError
from celery_flame_ec2.imds import Identity, Metadata, is_disabled

PROFILE = "arn:aws:iam::123456789012:instance-profile/web"
MAC = "0e:49:61:0f:c3:11"
LEAVES = {
    "mac": MAC,
    "instance-id": "i-0123456789abcdef0",
    "ami-id": "ami-0123456789abcdef0",
    "instance-type": "c7i.large",
    "placement/region": "eu-west-1",
    "placement/availability-zone": "eu-west-1b",
    f"network/interfaces/macs/{MAC}/subnet-id": "subnet-0aaa",
    f"network/interfaces/macs/{MAC}/security-group-ids": "sg-0aaa\nsg-0bbb",
    "network/interfaces/macs/0e:00:00:00:00:01/subnet-id": "subnet-0second",
    "iam/info": json.dumps({"Code": "Success", "InstanceProfileArn": PROFILE}),
}


class FakeMetadata(ThreadingHTTPServer):
    """Instance metadata, version 2: a GET without the current token is refused."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.leaves = dict(LEAVES)
        self.token, self.token_status, self.requests = "first", 200, list[str]()
        self.silent = threading.Event()
        self.released = threading.Event()

    def metadata(self, *, timeout: float = 10.0, environ: dict[str, str] | None = None) -> Metadata:
        base = f"http://127.0.0.1:{self.server_port}/latest"
        return Metadata(url=f"{base}/meta-data/", token_url=f"{base}/api/token", environ=environ or {}, timeout=timeout)


class _Handler(BaseHTTPRequestHandler):
    server: FakeMetadata

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        ttl = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0"))
        good = self.path == "/latest/api/token" and 1 <= ttl <= 21600
        self.answer(self.server.token_status if good else 400, self.server.token)

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        if self.server.silent.is_set():
            self.server.released.wait(30)
        if self.headers.get("X-aws-ec2-metadata-token") != self.server.token:
            return self.answer(401)
        leaf = self.server.leaves.get(self.path.removeprefix("/latest/meta-data/"))
        return self.answer(404) if leaf is None else self.answer(200, leaf)

    def answer(self, status: int, body: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeMetadata]:
    with serving() as server:
        yield server


@contextlib.contextmanager
def serving() -> Iterator[FakeMetadata]:
    with FakeMetadata() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def test_the_identity_is_that_of_the_primary_interface_with_each_of_its_security_groups(server: FakeMetadata) -> None:
    assert server.metadata().identity() == Identity(
        instance_id="i-0123456789abcdef0",
        image_id="ami-0123456789abcdef0",
        instance_type="c7i.large",
        region="eu-west-1",
        zone="eu-west-1b",
        subnet_id="subnet-0aaa",
        security_group_ids=("sg-0aaa", "sg-0bbb"),
        instance_profile_arn=PROFILE,
    )


def test_the_identity_costs_one_token_and_nine_reads_and_no_listing(server: FakeMetadata) -> None:
    server.metadata().identity()
    assert len(server.requests) == 10
    assert sum(request.startswith("PUT") for request in server.requests) == 1
    assert not [request for request in server.requests if request.endswith("/") or "security-credentials" in request]


def test_an_instance_without_a_profile_has_none(server: FakeMetadata) -> None:
    del server.leaves["iam/info"]
    assert server.metadata().identity().instance_profile_arn is None


def test_an_expired_token_is_replaced(server: FakeMetadata) -> None:
    metadata = server.metadata()
    assert metadata.read("ami-id") == LEAVES["ami-id"]
    server.token = "second"
    assert metadata.read("ami-id") == LEAVES["ami-id"]


def test_what_is_not_there_reads_as_none(server: FakeMetadata) -> None:
    assert server.metadata().read("spot/instance-action") is None


@pytest.mark.parametrize("leaf", ["mac", "instance-id", "placement/region"])
def test_a_missing_leaf_that_every_instance_has_is_named(server: FakeMetadata, leaf: str) -> None:
    del server.leaves[leaf]
    with pytest.raises(MetadataError, match=leaf):
        server.metadata().identity()


@pytest.mark.parametrize("text", ["", "not json", "[]", "{}"])
def test_an_unreadable_profile_is_an_error_and_not_no_profile(server: FakeMetadata, text: str) -> None:
    server.leaves["iam/info"] = text
    with pytest.raises(MetadataError, match="iam/info"):
        server.metadata().identity()


def test_a_refused_token_is_an_error_and_no_read_without_one_follows(server: FakeMetadata) -> None:
    server.token_status = 403
    with pytest.raises(MetadataError, match="403"):
        server.metadata().identity()
    assert server.requests == ["PUT /latest/api/token"]


def test_silence_ends_in_an_error_that_says_timed_out(server: FakeMetadata) -> None:
    server.silent.set()
    with pytest.raises(MetadataError, match="timed out"):
        server.metadata(timeout=0.05).read("ami-id")


def test_a_closed_port_is_an_error_that_names_the_url(server: FakeMetadata) -> None:
    metadata = Metadata(url="http://127.0.0.1:9/m/", token_url="http://127.0.0.1:9/token", environ={})
    with pytest.raises(MetadataError, match=r"127\.0\.0\.1:9/token"):
        metadata.identity()


@pytest.mark.parametrize("host", ["169.254.169.254", "[fd00:ec2::254]"])
@pytest.mark.parametrize("value", ["true", "True"])
def test_disabled_metadata_is_not_asked_at_the_link_local_address(host: str, value: str) -> None:
    url = f"http://{host}/latest"
    environ = {"AWS_EC2_METADATA_DISABLED": value}
    metadata = Metadata(url=f"{url}/meta-data/", token_url=f"{url}/api/token", environ=environ)
    with pytest.raises(MetadataError, match="AWS_EC2_METADATA_DISABLED"):
        metadata.identity()


@pytest.mark.parametrize(
    ("host", "environ", "disabled"),
    [
        ("169.254.169.254", {}, False),
        ("169.254.169.254", {"AWS_EC2_METADATA_DISABLED": "false"}, False),
        ("169.254.169.254", {"AWS_EC2_METADATA_DISABLED": "true"}, True),
        ("127.0.0.1:8080", {"AWS_EC2_METADATA_DISABLED": "true"}, False),
    ],
)
def test_only_the_link_local_address_can_be_disabled(host: str, environ: dict[str, str], disabled: bool) -> None:
    assert is_disabled(f"http://{host}/latest/meta-data/", environ) is disabled


def test_disabled_metadata_is_still_asked_at_an_address_the_user_gave(server: FakeMetadata) -> None:
    metadata = server.metadata(environ={"AWS_EC2_METADATA_DISABLED": "true"})
    assert metadata.identity().region == "eu-west-1"


def test_a_proxy_is_never_asked_for_metadata(server: FakeMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert server.metadata().read("ami-id") == LEAVES["ami-id"]
