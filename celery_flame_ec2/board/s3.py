"""What is pinned to a board that is a prefix of a bucket?

A word is the name of an empty object, so one LIST tells a thousand of them. S3 shows a write to whoever reads or lists
after it was answered: https://docs.aws.amazon.com/AmazonS3/latest/userguide/Welcome.html#ConsistencyModel
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ..errors import BoardError
from ..s3 import open_client
from ..sdk import lean_session
from .base import CONNECT_TIMEOUT, LISTING_TIMEOUT, MOST_BYTES, READ_TIMEOUT, Change, Pin, read_orders, write_orders

#: How S3 says that the orders are what they were.
_SAME = frozenset({"304", "NotModified"})
#: S3 says the second of a missing object to who may not list the bucket.
_MISSING = frozenset({"NoSuchKey", "AccessDenied"})
#: Another wrote the orders meanwhile.
_LOST = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})
#: What IAM must allow for each request.
_RIGHTS = {
    "put_object": "s3:PutObject", "get_object": "s3:GetObject", "list_objects_v2": "s3:ListBucket",
    "delete_object": "s3:DeleteObject", "delete_objects": "s3:DeleteObject",
}  # fmt: skip
#: Times the orders are written anew on top of another's.
_ATTEMPTS = 5
#: Keys that one request lists, and deletes.
_PAGE = _BATCH = 1000
#: Former keys of a runner that wait to be deleted, at most: the parent takes down what is left of one that is gone.
_FORMER = 20


class S3Board:
    """A board in S3: a key for each word, and an object for the orders, changed by conditional writes only."""

    open_to_all = False

    def __init__(
        self, bucket: str, key: str, *, region: str | None = None, endpoint: str | None = None, page: int = _PAGE
    ) -> None:
        self.place = f"s3://{bucket}/{key}"
        self._bucket, self._words, self._orders = bucket, f"{key}/words/", f"{key}/orders"
        self._client: Any = _client(region, endpoint)
        self._page = page
        self._put: list[str] = []
        self._known: tuple[str, frozenset[str]] = ("", frozenset())

    def pin(self, pin: Pin) -> None:
        key = self._key(pin)
        self._put = [*self._put[-_FORMER:], key]
        self._ask("put_object", Key=key, Body=b"")
        for each in self._put[:-1]:
            self._ask("delete_object", Key=each)
            self._put.remove(each)

    def pins(self) -> list[Pin]:
        return list(self._listed(time.monotonic() + LISTING_TIMEOUT))

    def take_down(self, pins: Collection[Pin]) -> None:
        keys = [{"Key": self._key(pin)} for pin in pins]
        for at in range(0, len(keys), _BATCH):
            answer = self._ask("delete_objects", Delete={"Objects": keys[at : at + _BATCH], "Quiet": True})
            if answer and answer.get("Errors"):
                raise BoardError(f"{self.place}: {answer['Errors'][0].get('Code')}: {answer['Errors'][0].get('Key')}")

    def cordoned(self) -> frozenset[str]:
        etag, before = self._known
        condition = {"IfNoneMatch": etag} if etag else {}
        answer = self._ask("get_object", but=_SAME | _MISSING, Key=self._orders, **condition)
        if isinstance(answer, str):
            self._known = (etag, before) if answer in _SAME else ("", frozenset())
        else:
            self._known = (answer["ETag"], read_orders(self._body(answer), self.place))
        return self._known[1]

    def order(self, change: Change) -> None:
        for _ in range(_ATTEMPTS):
            before = self.cordoned()
            after = change(before)
            if after == before:
                return
            condition = {"IfMatch": self._known[0]} if self._known[0] else {"IfNoneMatch": "*"}
            body = write_orders(after)
            if not isinstance(self._ask("put_object", but=_LOST, Key=self._orders, Body=body, **condition), str):
                return
        raise BoardError(f"{self.place}: the orders always changed meanwhile, or s3:GetObject is missing there")

    def _key(self, pin: Pin) -> str:
        return f"{self._words}{pin.runner_id}/{pin.text}"

    def _listed(self, deadline: float) -> Iterator[Pin]:
        more: dict[str, str] = {}
        while True:
            answer = self._ask("list_objects_v2", Prefix=self._words, MaxKeys=self._page, **more)
            for found in answer.get("Contents", ()):
                runner_id, _, text = found["Key"].removeprefix(self._words).partition("/")
                yield Pin(runner_id=runner_id, text=text)
            if not answer.get("IsTruncated"):
                return
            if time.monotonic() > deadline:
                raise BoardError(f"{self.place}: it takes longer than {LISTING_TIMEOUT:g} s to list its words")
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def _body(self, answer: Any) -> bytes:
        try:
            body: bytes = answer["Body"].read(MOST_BYTES)
        except BotoCoreError as exc:
            raise BoardError(f"{self.place}: {exc}") from exc
        return body

    def _ask(self, action: str, *, but: Collection[str] = (), **words: Any) -> Any:
        """Ask S3 once; return its answer, or the code by which it refuses for a reason in `but`."""
        try:
            return getattr(self._client, action)(Bucket=self._bucket, **words)
        except ClientError as exc:
            code = exc.response.get("Error", {}).get("Code", "")
            if code in but:
                return code
            advice = f"; this needs {_RIGHTS[action]} there: see `flame iam-policy`" if code == "AccessDenied" else ""
            raise BoardError(f"{self.place}: {exc}{advice}") from exc
        except (BotoCoreError, ResponseParserError) as exc:
            raise BoardError(f"{self.place}: {exc}") from exc


def _client(region: str | None, endpoint: str | None) -> Any:
    core = lean_session()
    # Of each listed object the SDK would read a time that nobody needs: half of what a listing costs.
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    try:
        return open_client(region, endpoint, connect_timeout=CONNECT_TIMEOUT, read_timeout=READ_TIMEOUT, core=core)
    except (BotoCoreError, ValueError) as exc:
        raise BoardError(f"no S3 client for the board: {exc}") from exc
