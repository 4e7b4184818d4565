"""Which releases are there, which of them are in use, and which may go? Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...edition import HASHED, Edition, tag

ARCHIVES = (".tar.gz", ".tgz", ".tar.zst")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelved:
    """A release in S3: one file, or all under a prefix. `size` in bytes; `at` seconds since the epoch."""

    edition: Edition
    size: int
    at: float

    @property
    def url(self) -> str:
        """Return where it is."""
        return self.edition.url


@dataclass(frozen=True, kw_only=True, slots=True)
class Uses:
    """Who uses which release: `by` gives users, in words, by tags or URLs. `unknown` says why there may be more."""

    by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()

    def of(self, each: Shelved) -> tuple[str, ...]:
        """Return who uses a release; whatever version of it they were told to."""
        tags = {each.edition.tag, tag(each.url, None)}
        found = (who for name, who in self.by.items() if name in tags or _url(name) == each.url)
        return tuple(dict.fromkeys(word for words in found for word in words))

    def untold(self, shelved: Collection[Shelved]) -> tuple[str, ...]:
        """Return why it is not known of all of these whether they are in use."""
        tags = {name for each in shelved for name in (each.edition.tag, tag(each.url, None))}
        lost = (
            f"{', '.join(who)}: which release it runs cannot be told from its tag"
            for name, who in self.by.items()
            if name.startswith(HASHED) and name not in tags
        )
        return (*self.unknown, *lost)


def newest_first(shelved: Collection[Shelved]) -> list[Shelved]:
    """Return them in order of age."""
    return sorted(shelved, key=lambda each: (-each.at, each.url))


def to_prune(shelved: Collection[Shelved], uses: Uses, *, app: str, keep: int) -> Sequence[Shelved]:
    """Return what may go: releases of `app` that were pushed, but for the `keep` newest and those in use."""
    ours = [each for each in newest_first(shelved) if each.edition.facts.get("name") == app]
    return [each for each in ours[keep:] if not uses.of(each)]


def _url(name: str) -> str:
    return name.rpartition("?versionId=")[0] or name
