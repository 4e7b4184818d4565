"""What does a release say of itself?"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError

#: Its place in the release.
NAME = "release.json"
_MODES = {"644": 0o644, "755": 0o755}


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of a release. `mode` is 0o644 or 0o755."""

    sha256: str
    mode: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """A symbolic link of a release, to a place inside it."""

    target: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """All that `release.json` says. `files` has everything but directories and `release.json` itself.

    `platform` begins with the architecture, as in x86_64-manylinux_2_28; `git` is the revision of the project, with
    -dirty where it was changed since, and None where it is in no repository.
    """

    name: str
    celery_app: str
    python: str
    platform: str
    compiled: bool
    git: str | None
    packages: Mapping[str, str]
    files: Mapping[str, File | Link]

    def encode(self) -> str:
        """Return the text of `release.json`: the same for the same manifest."""
        fields = {name: getattr(self, name) for name in _CHECKS}
        fields["packages"] = dict(sorted(self.packages.items()))
        fields["files"] = {path: _written(entry) for path, entry in sorted(self.files.items())}
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def decode(cls, text: str | bytes) -> Manifest:
        """Read the text of `release.json`; what a later version wrote besides is left out.

        Raises:
            ReleaseError: it is not JSON, or not what `encode` writes.
        """
        try:
            fields = json.loads(text)
        except ValueError as exc:
            raise ReleaseError(f"{NAME} is not JSON: {exc}") from exc
        if not isinstance(fields, dict):
            raise ReleaseError(f"{NAME} is no object of JSON but {_short(fields)}")
        for name, fits in _CHECKS.items():
            if name not in fields:
                raise ReleaseError(f"{NAME} has no {name!r}; build the release again with this version")
            if not fits(fields[name]):
                raise ReleaseError(f"{NAME}: {name!r} cannot be {_short(fields[name])}")
        files = {path: _read(path, entry) for path, entry in fields["files"].items()}
        return cls(**{**{name: fields[name] for name in _CHECKS}, "files": files})


def files_in(directory: Path) -> dict[str, File | Link]:
    """Return what `Manifest.files` says of the release that lies in `directory`."""
    return {path.relative_to(directory).as_posix(): _entry(path) for path in _paths(directory)}


def _paths(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if (path.is_symlink() or not path.is_dir()) and path != directory / NAME:
            yield path


def _entry(path: Path) -> File | Link:
    if path.is_symlink():
        return Link(target=os.readlink(path))  # noqa: PTH115 - as written
    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    return File(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), mode=mode)


def _written(entry: File | Link) -> dict[str, str]:
    return {"link": entry.target} if isinstance(entry, Link) else {"sha256": entry.sha256, "mode": f"{entry.mode:o}"}


def _read(path: str, entry: Any) -> File | Link:
    if not _is_inside(path):
        raise ReleaseError(f"{NAME}: {_short(path)} is no path inside a release")
    match entry:
        case {"link": str(target)} if _is_inside(posixpath.normpath(posixpath.join(posixpath.dirname(path), target))):
            return Link(target=target)
        case {"sha256": str(sha256), "mode": "644" | "755" as mode} if _is_like("[0-9a-f]{64}", sha256):
            return File(sha256=sha256, mode=_MODES[mode])
    raise ReleaseError(f"{NAME}: file {_short(path)} cannot be {_short(entry)}")


def _is_inside(path: str) -> bool:
    return "\0" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _short(value: Any) -> str:
    told = json.dumps(value)
    return told if len(told) <= 80 else f"{told[:77]}..."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_like(pattern: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "celery_app": _is_text,
    "python": lambda value: _is_like(r"3\.\d+(\.\d+)?", value),
    "platform": lambda value: _is_like(r"\w+-[\w-]+", value),
    "compiled": lambda value: isinstance(value, bool),
    "git": lambda value: value is None or _is_text(value),
    "packages": _is_texts,
    "files": lambda value: isinstance(value, dict),
}
