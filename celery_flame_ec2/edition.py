"""Which state of its bundle may a runner run, and no other? Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Characters of a tag's value, the most there can be.
LONGEST_TAG = 256
#: How what is too long for one begins there.
HASHED = "sha256:"
MANIFEST = "release.json"
#: How the names of what S3 keeps beside an object begin, where it is ours.
FLAME = "flame-"
#: What a release and a parent have in common, by the name of the fact: in words.
COMPARED = {"revision": "git revision", "celery": "celery", "celery-flame-ec2": "celery-flame-ec2"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Edition:
    """One state of the object at `url`; where that is a prefix, of the `release.json` under it.

    None is what S3 does not tell: `version` in a bucket without versions, `sha256` (hexadecimal) of what was put there
    without one, and all of them for a prefix that has no `release.json`. `facts` are what was said of the release when
    it was put there.
    """

    url: str
    version: str | None = None
    etag: str | None = None
    sha256: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """Return what tells this edition from all others in a tag's value."""
        return tag(self.url, self.version)


def tag(url: str, version: str | None) -> str:
    """Return what tells an edition from all others in a tag's value; what is too long for one becomes its hash."""
    whole = url if version is None else f"{url}?versionId={version}"
    return whole if len(whole) <= LONGEST_TAG else f"{HASHED}{hashlib.sha256(whole.encode()).hexdigest()}"


def key_of(key: str) -> str:
    """Return the key of the object whose state is that of the bundle at this key."""
    return key + MANIFEST if key.endswith("/") else key


def edition_of(url: str, head: Mapping[str, Any]) -> Edition:
    """Read what S3 says of an object."""
    kept = head.get("Metadata") or {}
    facts = {name.removeprefix(FLAME): str(value) for name, value in kept.items() if name.startswith(FLAME)}
    version = head.get("VersionId")
    return Edition(
        url=url,
        # "null" is the one version of what was put where none are kept: another may take its place.
        version=None if version in (None, "null") else str(version),
        etag=head.get("ETag"),
        sha256=hexadecimal(str(head.get("ChecksumSHA256", ""))) or facts.get("sha256"),
        facts=facts,
    )


def hexadecimal(checksum: str) -> str | None:
    """Return S3's base64 as hexadecimal digits; None where it is none or that of the parts of an upload ("...-3")."""
    try:
        return base64.b64decode(checksum, validate=True).hex() or None
    except binascii.Error:
        return None


def differences(own: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Say in what a release is another than the one this process runs, as far as both are known."""
    if own.get("manifest") and own["manifest"] == theirs.get("manifest"):
        return []
    known = [name for name in COMPARED if name in own and name in theirs and own[name] != theirs[name]]
    told = [f"{COMPARED[name]} {theirs[name]} there, {own[name]} here" for name in known]
    if not told and own.get("manifest") and theirs.get("manifest"):
        told = [f"it was built another time, or of other packages ({MANIFEST} is not the same)"]
    return told
