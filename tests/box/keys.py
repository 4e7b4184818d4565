"""Is a request signed with a key that we gave out?"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Mapping
from typing import Any

from botocore import auth, credentials
from botocore.awsrequest import AWSRequest

from tests.box.faults import Call
from tests.box.metadata import Credentials
from tests.box.wire import Refusal, authorization

#: service -> (unknown key, wrong signature), with the HTTP status
ERRORS = {
    "ec2": (("AuthFailure", 401), ("AuthFailure", 401)),
    "s3": (("InvalidAccessKeyId", 403), ("SignatureDoesNotMatch", 403)),
}
OTHER_ERRORS = (("UnrecognizedClientException", 400), ("InvalidSignatureException", 400))


class Keys:
    """The credentials in force; a request signed with any other is refused, as AWS does."""

    def __init__(self, *known: Credentials) -> None:
        self._known = {one.access_key_id: one for one in known}
        self._lock = threading.Lock()

    def add(self, one: Credentials) -> None:
        with self._lock:
            self._known[one.access_key_id] = one

    def check(self, call: Call, environ: Mapping[str, Any], body: bytes) -> None:
        """Pass a request whose SigV4 signature is right; one presigned in its URL is not looked at.

        Raises:
            Refusal: not signed, or with a key nobody has, or wrongly.
        """
        if "X-Amz-Signature=" in str(environ.get("QUERY_STRING", "")):
            return
        unknown, wrong = ERRORS.get(call.service, OTHER_ERRORS)
        signed = authorization(environ)
        if not signed:
            raise Refusal("AccessDenied", "Access Denied: the request is not signed", 403)
        key = self._known.get(signed["Credential"].split("/")[0])
        if key is None or key.token != str(environ.get("HTTP_X_AMZ_SECURITY_TOKEN", "")):
            raise Refusal(unknown[0], "AWS was not able to validate the provided access credentials", unknown[1])
        if not hmac.compare_digest(_signature(call, key, environ, body, signed), signed["Signature"]):
            raise Refusal(wrong[0], "The request signature we calculated does not match the one provided", wrong[1])


def _signature(call: Call, key: Credentials, environ: Mapping[str, Any], body: bytes, signed: Mapping[str, str]) -> str:
    kind = auth.S3SigV4Auth if call.service == "s3" else auth.SigV4Auth
    signer = kind(credentials.Credentials(key.access_key_id, key.secret_access_key), call.service, call.region)
    path = str(environ.get("RAW_URI") or environ.get("PATH_INFO"))
    headers = {name: _header(environ, name) for name in signed["SignedHeaders"].split(";")}
    request = AWSRequest(
        method=str(environ["REQUEST_METHOD"]), url=f"http://{environ['HTTP_HOST']}{path}", data=body, headers=headers
    )
    request.context["timestamp"] = _header(environ, "x-amz-date")
    return str(signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request))


def _header(environ: Mapping[str, Any], name: str) -> str:
    bare = name.upper().replace("-", "_")
    return str(environ.get(bare if bare in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{bare}", ""))
