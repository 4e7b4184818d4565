"""Which state of its bundle may a runner run, and no other? Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

#: Characters of a tag's value, the most there can be.
LONGEST_TAG = 256
MANIFEST = "release.json"


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
    return whole if len(whole) <= LONGEST_TAG else f"sha256:{hashlib.sha256(whole.encode()).hexdigest()}"


def key_of(key: str) -> str:
    """Return the key of the object whose state is that of the bundle at this key."""
    return key + MANIFEST if key.endswith("/") else key
