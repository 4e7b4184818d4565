"""What is in a bundle?"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReleaseError
from .manifest import NAME, File, Link

_CHUNK = 1 << 20  #: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All files of a bundle by their paths, but for `manifest`: the text of its `release.json`, where it has one."""

    files: Mapping[str, File | Link]
    manifest: bytes | None


def contents(path: Path, each: Callable[[str, bytes], None] = lambda _path, _content: None) -> Contents:
    """Read a .tar.gz, .tgz or .tar.zst; `each` is given the path and content of every file, the manifest's
    too; not of a hard link, whose content it was given before.

    Raises:
        ReleaseError: it cannot be read.
    """
    files: dict[str, File | Link] = {}
    manifest = None
    with _opened(path) as tar:
        for member in tar:
            name = _inside(member.name, path)
            if member.issym():
                files[name] = Link(target=member.linkname)
            elif member.isfile():
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                each(name, content)
                if name == NAME:
                    manifest = content
                    continue
                mode = 0o755 if member.mode & 0o100 else 0o644
                files[name] = File(sha256=hashlib.sha256(content).hexdigest(), mode=mode)
            elif member.islnk() and (target := _inside(member.linkname, path)) in files:
                files[name] = files[target]
            elif not member.isdir():
                raise ReleaseError(f"{path}: {name} is neither file, directory nor symbolic link")
    return Contents(files=files, manifest=manifest)


def _inside(name: str, path: Path) -> str:
    inside = posixpath.normpath(name)
    if inside.startswith(("/", "../")) or inside == "..":
        raise ReleaseError(f"{path}: {name} leads out of the release")
    return inside


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        if path.name.endswith(".zst"):
            with _unpacked(path) as stream:
                yield stream
        else:
            with tarfile.open(path, "r|gz") as stream:
                yield stream
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise ReleaseError(f"cannot read {path}: {exc}") from exc


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        zstd = subprocess.Popen(["zstd", "-dcq", "--", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except FileNotFoundError as exc:
        raise ReleaseError(f"cannot read {path}: there is no zstd here; install it, or build a .tar.gz") from exc
    with zstd:
        with tarfile.open(fileobj=zstd.stdout, mode="r|") as tar:
            yield tar
        while zstd.stdout.read(_CHUNK):  # type: ignore[union-attr]  # it ends when all is taken, also what is no .tar
            pass
        said = zstd.stderr.read().decode("utf-8", "replace").strip()  # type: ignore[union-attr]
    if zstd.returncode:
        raise ReleaseError(f"cannot read {path}: {said}")
