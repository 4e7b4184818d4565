"""What does S3 keep of releases, and how is it put there so that it never changes?"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ...edition import FLAME, Edition, edition_of
from ...errors import ReleaseError
from .clients import Refused, asking

#: Bytes that S3 takes in one request, and so with one checksum of the whole.
LARGEST = 5 * 2**30
#: How often a write is tried that another one at the same moment stood in the way of.
TRIES = 3
#: Answers to a conditional write that found an object there, or one about to be.
THERE = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "HTTP 412", "HTTP 409"})
CHUNK = 1 << 20  #: bytes
BATCH = 1000  #: objects deleted by one call


class Body(Protocol):
    """What is sent: a file, as far as the SDK needs one."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def tell(self) -> int: ...


class Store:
    """One bucket. Its methods may be used by several threads."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3, self.bucket = s3, bucket

    def url(self, key: str) -> str:
        """Return the s3:// URL of a key."""
        return f"s3://{self.bucket}/{key}"

    def head(self, key: str) -> Mapping[str, Any] | None:
        """Return what S3 says of an object, or None where there is none.

        Raises:
            Refused: S3 does not tell.
        """
        try:
            with asking("s3:GetObject"):
                answer: Mapping[str, Any] = self._s3.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        except Refused as exc:
            if exc.refusal.code == "HTTP 404":
                return None
            raise
        return answer

    def edition(self, key: str) -> Edition | None:
        """Return the state of an object, or None where there is none; its checksum is read off its bytes if need be.

        Raises:
            Refused: S3 does not tell.
        """
        head = self.head(key)
        return None if head is None else edition_of(self.url(key), head)

    def chunks(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of an object.

        Raises:
            Refused: S3 does not give them.
        """
        with asking("s3:GetObject"):
            yield from self._s3.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(CHUNK)

    def is_there(self, key: str, sha256: str) -> bool:
        """Tell whether an object of these bytes is there.

        Raises:
            ReleaseError: one of other bytes is there.
            Refused: S3 does not tell.
        """
        found = self.edition(key)
        if found is None:
            return False
        kept = found.sha256 or _sha256(self.chunks(key))
        if kept != sha256:
            raise ReleaseError(
                f"{self.url(key)} is there with other bytes: SHA-256 {kept}, and this is {sha256}; "
                "what was pushed never changes: push under another name"
            )
        return True

    def put(self, key: str, body: Body | bytes, *, sha256: str, facts: Mapping[str, str]) -> bool:
        """Write an object where there is none, and return whether there was none; there may be one of the same bytes.

        Raises:
            ReleaseError: one of other bytes is there.
            Refused: S3 refuses.
        """
        for _ in range(TRIES):
            try:
                self._put(key, body, sha256, facts)
            except Refused as exc:
                if exc.refusal.code not in THERE:
                    raise
            else:
                return True
            if self.is_there(key, sha256):
                return False
        raise ReleaseError(f"{self.url(key)} is written by somebody else at this moment; try again")

    def _put(self, key: str, body: Body | bytes, sha256: str, facts: Mapping[str, str]) -> None:
        stream: Any = io.BytesIO(body) if isinstance(body, bytes) else body
        stream.seek(0)
        with asking("s3:PutObject"):
            self._s3.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=stream,
                IfNoneMatch="*",
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
                Metadata={f"{FLAME}{name}": value for name, value in facts.items()},
            )

    def listed(self, prefix: str, *, deep: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the objects right under a prefix, and the prefixes there; with `deep` all objects, and no prefixes.

        Raises:
            Refused: S3 does not tell.
        """
        objects: list[dict[str, Any]] = []
        prefixes: list[str] = []
        with asking("s3:ListBucket"):
            pages: Any = self._s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=prefix, **({} if deep else {"Delimiter": "/"})):
                objects += page.get("Contents", ())
                prefixes += [found["Prefix"] for found in page.get("CommonPrefixes", ())]
        return objects, prefixes

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects.

        Raises:
            Refused: S3 refuses.
            ReleaseError: it did not delete all of them.
        """
        wanted = list(keys)
        for start in range(0, len(wanted), BATCH):
            objects = [{"Key": key} for key in wanted[start : start + BATCH]]
            with asking("s3:DeleteObject"):
                answer = self._s3.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            for failed in answer.get("Errors", ()):
                told = f"{failed.get('Code')}: {failed.get('Message')}"
                raise ReleaseError(f"{self.url(failed['Key'])} is still there: {told}")


def _sha256(chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
