"""Who wrote an S3 object last?"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from ..errors import LeaseDenied, LeaseError
from ..s3 import open_client
from .base import MARGIN, REQUEST_TIMEOUT, TTL, kept, new_holder, read_notes

#: Another parent wrote, or writes at this moment, or deleted.
_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"}
#: S3 says the second of a missing object to who may not list the bucket.
_MISSING = {"NoSuchKey", "AccessDenied"}
_NEEDED = "the parent needs s3:GetObject, s3:PutObject and s3:DeleteObject there, or another flame_lease"
#: Writes in one `take`: the answer to an earlier one may have been lost, and it was ours that won.
_ATTEMPTS = 3


class S3Store:
    """A lease in one object, changed by conditional writes only, and notes in another beside it, written by its holder.

    Another's lease has run out when this parent has seen the same version of the object for TTL by its own clock.
    """

    good_for = TTL - MARGIN

    def __init__(
        self, url: str, *, region: str | None, endpoint: str | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        parts = urlsplit(url)
        self._object = {"Bucket": parts.netloc, "Key": parts.path.lstrip("/")}
        self._beside = {**self._object, "Key": f"{self._object['Key']}.notes"}
        self._decided = {**self._object, "Key": f"{self._object['Key']}.overrides"}
        self._clock = clock
        self._holder = new_holder()
        self._ours: str | None = None
        self._seen: tuple[str, float] = ("", float("inf"))
        #: The notes' ETag and what they are, as this parent knows.
        self._noted: tuple[str, dict[str, str]] | None = None
        self._client: Any = _client(region, endpoint)
        self.place = url

    def take(self) -> bool:
        for _ in range(_ATTEMPTS):
            condition = {"IfMatch": self._ours} if self._ours else self._opening()
            if condition is None:
                return False
            if self._write(condition):
                return True
        return False

    def give_up(self) -> None:
        if self._ours is not None:
            self._ask("delete_object", self._object, but=_LOST, IfMatch=self._ours)
            self._ours = None

    def left(self) -> float:
        answer = self._answer("get_object", self._object, but=_MISSING)
        if answer is None:
            return 0.0
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return float(max(0.0, TTL - (now - answer["LastModified"]).total_seconds()))

    def notes(self) -> dict[str, str]:
        answer = self._ask("get_object", self._beside, but=_MISSING)
        self._noted = (answer[0], read_notes(answer[1], f"{self.place}.notes")) if answer else ("", {})
        return dict(self._noted[1])

    def note(self, changes: Mapping[str, str | None]) -> None:
        if self._noted is None:
            self.notes()
        etag, before = self._noted or ("", {})
        self._noted = None  # until it is known what came of this
        fresh = kept({**before, **changes})
        answer = self._put(self._beside, fresh, etag)
        if answer is None:
            raise LeaseError(f"{self.place}: nothing is noted: another parent wrote its notes meanwhile")
        self._noted = (answer[0], fresh)

    def overrides(self) -> dict[str, str]:
        return self._read_overrides()[1]

    def override(self, changes: Mapping[str, str | None]) -> None:
        for _ in range(_ATTEMPTS):
            etag, before = self._read_overrides()
            fresh = kept({**before, **changes})
            if (etag and fresh == before) or self._put(self._decided, fresh, etag) is not None:
                return
        raise LeaseError(f"{self.place}.overrides: another writes it all the time; try again")

    def _read_overrides(self) -> tuple[str, dict[str, str]]:
        """Read them; who is told nothing but AccessDenied writes an empty object, unless there is one that it may not
        read: a pause that nobody sees would be worse than none."""
        try:
            answer = self._ask("get_object", self._decided, but={"NoSuchKey"})
        except LeaseDenied:
            answer = self._put(self._decided, {}, "")
            if answer is None:
                raise
            return answer[0], {}
        return (answer[0], read_notes(answer[1], f"{self.place}.overrides")) if answer else ("", {})

    def _put(self, which: Mapping[str, str], texts: Mapping[str, str], etag: str) -> tuple[str, bytes] | None:
        """Write over what has this tag; None where another wrote since."""
        return self._ask("put_object", which, but=_LOST, Body=json.dumps(texts).encode(), **_unchanged(etag))

    def _opening(self) -> dict[str, str] | None:
        """Return the condition under which the lease can be had now; None while another's is good."""
        answer = self._ask("get_object", self._object, but=_MISSING)
        if answer is None:
            return {"IfNoneMatch": "*"}
        etag, body = answer
        if self._holder.encode() in body:
            return {"IfMatch": etag}
        if etag != self._seen[0]:
            self._seen = (etag, self._clock())
        return {"IfMatch": etag} if self._clock() - self._seen[1] >= TTL else None

    def _write(self, condition: dict[str, str]) -> bool:
        # A version is told by its content: without a nonce a renewed lease would look like an old one.
        body = json.dumps({"holder": self._holder, "nonce": uuid.uuid4().hex}).encode()
        answer = self._ask("put_object", self._object, but=_LOST, Body=body, **condition)
        self._ours = answer[0] if answer else None
        return answer is not None

    def _ask(
        self, action: str, which: Mapping[str, str], *, but: Collection[str] = (), **words: Any
    ) -> tuple[str, bytes] | None:
        """Ask S3 once; return the ETag and body it answers, or None where it refuses for a reason in `but`."""
        answer = self._answer(action, which, but=but, **words)
        return None if answer is None else (answer.get("ETag", ""), answer.get("Body", b""))

    def _answer(
        self, action: str, which: Mapping[str, str], *, but: Collection[str], **words: Any
    ) -> dict[str, Any] | None:
        try:
            answer: dict[str, Any] = getattr(self._client, action)(**which, **words)
            return {**answer, "Body": answer["Body"].read()} if "Body" in answer else answer
        except ClientError as exc:
            code = exc.response.get("Error", {}).get("Code")
            if code in but:
                return None
            if code == "AccessDenied":
                place = f"s3://{which['Bucket']}/{which['Key']}"
                raise LeaseDenied(f"{place}: {_NEEDED}: {exc}") from exc
            raise LeaseError(f"{self.place}: {exc}") from exc
        except BotoCoreError as exc:
            raise LeaseError(f"{self.place}: {exc}") from exc


def _unchanged(etag: str) -> dict[str, str]:
    """Return the condition that nobody wrote since; without a tag, that nobody did at all."""
    return {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}


def _client(region: str | None, endpoint: str | None) -> Any:
    try:
        return open_client(region, endpoint, connect_timeout=REQUEST_TIMEOUT, read_timeout=REQUEST_TIMEOUT)
    except (BotoCoreError, ValueError) as exc:
        raise LeaseError(f"no S3 client for the lease: {exc}") from exc
