"""Who does an instance learn that it is? Instance metadata, version 2 only, one loopback address per instance."""

from __future__ import annotations

import ipaddress
import json
import logging
import secrets
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

logger = logging.getLogger(__name__)

HOST = "instance-metadata"  #: the name every guest knows its own address by
FIRST = ipaddress.IPv4Address("127.0.1.1")
MAX_TTL = 21600  #: seconds a token may live
CREDENTIALS_LIFE = 6 * 3600  #: seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Temporary keys of a role."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What one instance may know of itself."""

    instance_id: str
    image_id: str
    instance_type: str
    account: str
    region: str
    zone: str
    mac: str
    subnet_id: str
    vpc_id: str
    security_group_ids: tuple[str, ...]
    local_ipv4: str
    launch_index: int = 0
    life_cycle: str = "on-demand"
    profile_arn: str | None = None
    role: str | None = None
    credentials: Credentials | None = None
    tags: Mapping[str, str] | None = None  #: None where the launch did not ask for tags in metadata
    user_data: bytes | None = None
    taken_at: float | None = None  #: when EC2 takes this spot instance, as time.time() gives it


def leaves(identity: Identity, now: float) -> dict[str, bytes]:
    """Return every path below /latest/ that has a value."""
    interface = f"network/interfaces/macs/{identity.mac}"
    text = {
        "ami-id": identity.image_id,
        "ami-launch-index": str(identity.launch_index),
        "instance-id": identity.instance_id,
        "instance-life-cycle": identity.life_cycle,
        "instance-type": identity.instance_type,
        "local-ipv4": identity.local_ipv4,
        "mac": identity.mac,
        "placement/availability-zone": identity.zone,
        "placement/region": identity.region,
        "services/domain": "amazonaws.com",
        "services/partition": "aws",
        f"{interface}/owner-id": identity.account,
        f"{interface}/security-group-ids": "\n".join(identity.security_group_ids),
        f"{interface}/subnet-id": identity.subnet_id,
        f"{interface}/vpc-id": identity.vpc_id,
        **{f"tags/instance/{key}": value for key, value in (identity.tags or {}).items()},
        **_role(identity, now),
        **_notice(identity),
    }
    found = {f"meta-data/{path}": value.encode() for path, value in text.items()}
    found["dynamic/instance-identity/document"] = json.dumps(_document(identity)).encode()
    if identity.user_data is not None:
        found["user-data"] = identity.user_data
    return found


def _role(identity: Identity, now: float) -> dict[str, str]:
    if identity.profile_arn is None:
        return {}
    updated = _timestamp(now)
    info = {"Code": "Success", "LastUpdated": updated, "InstanceProfileArn": identity.profile_arn}
    found = {"iam/info": json.dumps(info)}
    if identity.credentials and identity.role:
        found[f"iam/security-credentials/{identity.role}"] = json.dumps({
            "Code": "Success",
            "LastUpdated": updated,
            "Type": "AWS-HMAC",
            "AccessKeyId": identity.credentials.access_key_id,
            "SecretAccessKey": identity.credentials.secret_access_key,
            "Token": identity.credentials.token,
            "Expiration": _timestamp(now + CREDENTIALS_LIFE),
        })  # fmt: skip
    return found


def _notice(identity: Identity) -> dict[str, str]:
    if identity.taken_at is None:
        return {}
    at = _timestamp(identity.taken_at)
    return {
        "events/recommendations/rebalance": json.dumps({"noticeTime": at}),
        "spot/instance-action": json.dumps({"action": "terminate", "time": at}),
        "spot/termination-time": at,
    }


def _document(identity: Identity) -> dict[str, str]:
    return {
        "accountId": identity.account,
        "architecture": "x86_64",
        "availabilityZone": identity.zone,
        "imageId": identity.image_id,
        "instanceId": identity.instance_id,
        "instanceType": identity.instance_type,
        "privateIp": identity.local_ipv4,
        "region": identity.region,
    }


def _timestamp(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def look_up(found: Mapping[str, bytes], path: str) -> bytes | None:
    """Return the value at a path, or the names below it one per line, or None."""
    if path in found:
        return found[path]
    below = path.rstrip("/") + "/"
    names = {rest if not sep else f"{rest}/" for rest, sep, _ in _parts(found, below)}
    return "\n".join(sorted(names)).encode() if names else None


def _parts(found: Mapping[str, bytes], below: str) -> list[tuple[str, str, str]]:
    return [path[len(below) :].partition("/") for path in found if path.startswith(below)]


class Metadata:
    """One server per instance, each on its own 127.0.1.N, all on the port that 127.0.0.1 got."""

    def __init__(self) -> None:
        self.port = 0
        self._servers: dict[str, _Server] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The same for every guest; each meets itself there."""
        return f"http://{HOST}:{self.port}/latest/meta-data/"

    @property
    def token_url(self) -> str:
        return f"http://{HOST}:{self.port}/latest/api/token"

    def open(self, identify: Callable[[], Identity]) -> None:
        """Serve the machine we are on, at 127.0.0.1."""
        self.port = self._serve("127.0.0.1", identify).server_port

    def admit(self, identify: Callable[[], Identity]) -> str:
        """Serve one more instance; return its address."""
        with self._lock:
            offset = next(n for n in range(1 << 16) if str(FIRST + n) not in self._servers)
            return str(self._serve(str(FIRST + offset), identify).server_address[0])

    def dismiss(self, address: str) -> None:
        with self._lock:
            server = self._servers.pop(address)
        server.stop()

    def close(self) -> None:
        for address in list(self._servers):
            self.dismiss(address)

    def _serve(self, address: str, identify: Callable[[], Identity]) -> _Server:
        server = _Server(address, self.port, identify)
        self._servers[address] = server
        server.start()
        return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: str, port: int, identify: Callable[[], Identity]) -> None:
        super().__init__((address, port), _Handler)
        self.identify = identify
        self.tokens: dict[str, float] = {}
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name=f"metadata at {address}", daemon=True
        )

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without the look-up of a host name that http.server adds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a guest that went while it was answered."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "EC2ws"
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token":
            return self._answer(404)
        if "X-Forwarded-For" in self.headers:
            return self._answer(403)
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= MAX_TTL:
            return self._answer(400)
        token = secrets.token_urlsafe(42) + "=="
        self.server.tokens[token] = time.monotonic() + int(ttl)
        return self._answer(200, token.encode(), {"X-aws-ec2-metadata-token-ttl-seconds": ttl})

    def do_GET(self) -> None:
        token = self.headers.get("X-aws-ec2-metadata-token", "")
        if self.server.tokens.get(token, 0) < time.monotonic():
            return self._answer(401)
        top, _, path = urllib.parse.unquote(self.path).lstrip("/").partition("/")
        found = look_up(leaves(self.server.identify(), time.time()), path) if top == "latest" else None
        return self._answer(404) if found is None else self._answer(200, found)

    def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug("%s: %s", self.client_address[0], format % args)
