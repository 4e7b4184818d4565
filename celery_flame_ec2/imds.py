"""What does this instance's own metadata say?"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from .errors import MetadataError

#: Where metadata answers on a real instance; AWS_EC2_METADATA_DISABLED forbids only these.
LINK_LOCAL_HOSTS = frozenset({"169.254.169.254", "fd00:ec2::254"})
TIMEOUT = 2.0  #: seconds for one read; an instance answers within milliseconds, elsewhere nothing ever does
TOKEN_TTL = 21600  #: seconds, the most that is allowed
LONGEST_ANSWER = 65536  #: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What this instance is, by its primary network interface; None and () where it has no such thing."""

    instance_id: str
    image_id: str
    instance_type: str
    region: str
    zone: str
    subnet_id: str | None = None
    security_group_ids: tuple[str, ...] = ()
    instance_profile_arn: str | None = None


class Metadata:
    """A reader of instance metadata, version 2 only: each read carries a token, fetched once and kept."""

    def __init__(self, *, url: str, token_url: str, environ: Mapping[str, str], timeout: float = TIMEOUT) -> None:
        self._url, self._token_url, self._timeout = url.rstrip("/") + "/", token_url, timeout
        self._disabled = any(is_disabled(each, environ) for each in (url, token_url))
        self._token: str | None = None
        # A proxy could only answer for the machine it runs on.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def identity(self) -> Identity:
        """Read what this instance is: nine direct reads and one token.

        Raises:
            MetadataError: metadata does not answer, or not with what an instance says.
        """
        interface = f"network/interfaces/macs/{self._required('mac').strip('/')}"
        return Identity(
            instance_id=self._required("instance-id"),
            image_id=self._required("ami-id"),
            instance_type=self._required("instance-type"),
            region=self._required("placement/region"),
            zone=self._required("placement/availability-zone"),
            subnet_id=self.read(f"{interface}/subnet-id"),
            security_group_ids=tuple((self.read(f"{interface}/security-group-ids") or "").split()),
            instance_profile_arn=self._instance_profile_arn(),
        )

    def read(self, path: str) -> str | None:
        """Return what stands at `path` below `meta-data/`, or None where nothing does.

        Raises:
            MetadataError: metadata is disabled, does not answer or refuses.
        """
        status, text = self._get(path)
        if status == 401:  # the token expired
            self._token = None
            status, text = self._get(path)
        if status == 404:
            return None
        if status != 200:
            raise MetadataError(f"instance metadata answered {status} to {path!r} at {self._url}")
        return text.strip()

    def _required(self, path: str) -> str:
        text = self.read(path)
        if not text:
            raise MetadataError(f"instance metadata at {self._url} has no {path!r}; is this an EC2 instance?")
        return text

    def _instance_profile_arn(self) -> str | None:
        text = self.read("iam/info")
        if text is None:
            return None
        try:
            return str(json.loads(text)["InstanceProfileArn"])
        except (ValueError, TypeError, KeyError) as exc:
            raise MetadataError(f"instance metadata 'iam/info' at {self._url} is not what EC2 writes there") from exc

    def _get(self, path: str) -> tuple[int, str]:
        if self._token is None:
            self._token = self._fetch_token()
        return self._request("GET", self._url + path, {"X-aws-ec2-metadata-token": self._token})

    def _fetch_token(self) -> str:
        ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL)}
        status, text = self._request("PUT", self._token_url, ttl)
        if status != 200:
            raise MetadataError(f"instance metadata answered {status} to a request for a token at {self._token_url}")
        return text.strip()

    def _request(self, method: str, url: str, headers: Mapping[str, str]) -> tuple[int, str]:
        if self._disabled:
            raise MetadataError(
                "instance metadata is disabled by AWS_EC2_METADATA_DISABLED; unset it, or give the options that "
                "auto_configure would read (image_id, subnet_id, security_group_id, instance_type, region)"
            )
        request = urllib.request.Request(url, method=method, headers=dict(headers))  # noqa: S310  (checked by config)
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                return answer.status, _decoded(answer.read(LONGEST_ANSWER))
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code, ""
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise MetadataError(
                f"instance metadata does not answer at {url} ({_reason(exc)}); is this an EC2 instance? "
                "In a container its metadata hop limit must be 2"
            ) from exc


def is_disabled(url: str, environ: Mapping[str, str]) -> bool:
    """Return whether the environment forbids to read there; an address of the user's own is never forbidden."""
    disabled = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    return disabled and urlsplit(url).hostname in LINK_LOCAL_HOSTS


def _decoded(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def _reason(exc: Exception) -> str:
    reason = getattr(exc, "reason", exc)
    return "timed out" if isinstance(reason, TimeoutError) else str(reason) or type(reason).__name__
