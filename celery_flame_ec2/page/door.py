"""May this request come in? Pure: headers in, a refusal or nothing out."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from http import HTTPStatus

from ..address import host_of, is_loopback

#: A browser asks its user for it, and every HTTP client has it; so the token stands in no URL, log or history.
CHALLENGE = 'Basic realm="celery flame: any user name, flame_http_token as the password", charset="UTF-8"'


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """Why a request is not answered; `challenge` says how to ask again."""

    status: HTTPStatus
    why: str
    challenge: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Door:
    """Asks for the token where there is one; else only what was asked of this machine by its own name comes in.

    A page of somebody else's may give its own name the address 127.0.0.1 (DNS rebinding): its requests carry that name.
    """

    token: str | None

    def refuses(self, *, host: str, authorization: str) -> Refusal | None:
        """Return why not, for a request with these headers; None where it may come in."""
        if self.token is None:
            return None if is_loopback(host_of(host)) else _NOT_HERE
        shown = _shown(authorization)
        if shown is not None and hmac.compare_digest(shown, self.token.encode()):
            return None
        return _NO_TOKEN


def _shown(authorization: str) -> bytes | None:
    """Return the token that a request shows, as `Bearer` or as the password of `Basic`."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("utf-8", "replace")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
    except ValueError:
        return None


_NOT_HERE = Refusal(
    status=HTTPStatus.MISDIRECTED_REQUEST,
    why="without flame_http_token this page answers to localhost, 127.0.0.1 and [::1] alone",
)
_NO_TOKEN = Refusal(
    status=HTTPStatus.UNAUTHORIZED,
    why="show flame_http_token: as `Authorization: Bearer ...`, or as a password with any user name",
    challenge=CHALLENGE,
)
