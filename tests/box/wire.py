"""Which API call is this HTTP request, and what does an answer look like?"""

from __future__ import annotations

import io
import json
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from tests.box.faults import Call, Refuse

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

#: bodies of these kinds carry parameters; any other (an object for S3) is left unread
READ = ("application/x-www-form-urlencoded", "application/x-amz-json-")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A whole HTTP response."""

    status: str
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.status.startswith("2")

    def send(self, start_response: Callable[..., Any]) -> list[bytes]:
        headers = [header for header in self.headers if header[0].lower() != "content-length"]
        start_response(self.status, [*headers, ("Content-Length", str(len(self.body)))])
        return [self.body]


class Refusal(Exception):
    """Raised where AWS would answer with an error."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        self.refuse = Refuse(code=code, message=message, status=status)
        super().__init__(code, message)


def read_body(environ: dict[str, Any]) -> bytes:
    """Return a body that carries parameters, and put it back for whoever reads next."""
    if not str(environ.get("CONTENT_TYPE", "")).startswith(READ):
        return b""
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def put_form(environ: dict[str, Any], params: Mapping[str, str]) -> dict[str, Any]:
    """Return the environment of the same request with other parameters."""
    body = urllib.parse.urlencode(params).encode()
    return {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}


def parse(environ: Mapping[str, Any], body: bytes) -> Call:
    service, region = _scope(environ)
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if service == "s3":
        action, params = _s3(environ)
    elif target:
        action, params = target.rpartition(".")[2], _scalars(body)
    else:
        params = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        action = params.pop("Action", "")
        params.pop("Version", "")
    key = authorization(environ).get("Credential", "").partition("/")[0]
    return Call(time=time.time(), service=service, action=action, params=params, region=region, key=key)


def _scope(environ: Mapping[str, Any]) -> tuple[str, str]:
    """Return service and region as the signature, or a presigned URL, names them."""
    found = authorization(environ).get("Credential") or ""
    parts = found.split("/")
    return (parts[3].lower(), parts[2]) if len(parts) == 5 else ("s3", "")


def authorization(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return Credential, SignedHeaders and Signature of a signed request; nothing where there are none."""
    _, _, rest = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    pairs = (part.strip().partition("=") for part in rest.split(","))
    return {name: value for name, _, value in pairs if name}


def _s3(environ: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    bucket, _, key = str(environ.get("PATH_INFO", "")).lstrip("/").partition("/")
    query = dict(urllib.parse.parse_qsl(str(environ.get("QUERY_STRING", "")), keep_blank_values=True))
    verb = str(environ["REQUEST_METHOD"]).capitalize()
    if key:
        return f"{verb}Object", {"Bucket": bucket, "Key": key, **query}
    if verb == "Post" and "delete" in query:
        return "DeleteObjects", {"Bucket": bucket}
    if verb == "Get":
        return ("ListObjectsV2" if bucket else "ListBuckets"), {"Bucket": bucket, **query}
    return {"Put": "CreateBucket"}.get(verb, f"{verb}Bucket"), {"Bucket": bucket, **query}


def _scalars(body: bytes) -> dict[str, str]:
    found = json.loads(body or b"{}")
    return {name: str(value) for name, value in found.items() if isinstance(value, (str, int, float, bool))}


def refusal(call: Call, refuse: Refuse) -> Answer:
    """Return the error as this call's service words it."""
    code, message = escape(refuse.code), escape(refuse.message)
    status = f"{refuse.status} {refuse.code}"
    if call.service == "ec2":
        text = f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors></Response>"
    elif call.service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    elif call.service in {"sqs", "ssm", "secretsmanager"}:
        body = json.dumps({"__type": refuse.code, "message": refuse.message}).encode()
        return Answer(status=status, body=body, headers=[("Content-Type", "application/x-amz-json-1.1")])
    else:
        text = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    return Answer(status=status, body=text.encode(), headers=[("Content-Type", "text/xml")])
