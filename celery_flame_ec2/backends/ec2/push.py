"""How does a bundle get into S3: whole, never over another, and never half?"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...edition import MANIFEST
from ...errors import FlameError, ReleaseError
from ...finding import Verdict
from ...release.contents import contents
from ...release.facts import facts_of
from ...release.inspection import inspect
from ...release.manifest import File
from .store import CHUNK, LARGEST, Store

#: Files of a prefix bundle that are sent at a time.
AT_ONCE = 8
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What is in S3 now. `sha256` is of the one file, or of the `release.json` under a prefix."""

    url: str
    sha256: str
    new: bool


def push(store: Store, path: Path, key: str, *, app: str, program: str, progress: Progress) -> Pushed:
    """Put a bundle at a key, if it has the `program` that runners start. `progress` hears how many bytes were sent.

    Raises:
        ReleaseError: it is no bundle of `app`, or another one is there.
        Refused: S3 refuses.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ReleaseError(f"{path} has {size} bytes, and S3 takes {LARGEST} at once; push it with --unpacked")
    facts = _facts(path, app, program)
    with path.open("rb") as file:
        sha256 = _sha256(file)
        there = store.is_there(key, sha256)  # so that nothing is sent in vain
        new = not there and store.put(key, _Watched(file, progress), sha256=sha256, facts={**facts, "sha256": sha256})
    return Pushed(url=store.url(key), sha256=sha256, new=new)


def push_unpacked(store: Store, path: Path, prefix: str, *, app: str, program: str, progress: Progress) -> Pushed:
    """Put the files of a bundle under a prefix, which ends in /; `release.json` last: with it all are there.

    Raises:
        ReleaseError: it is no bundle of `app`, or other files are there; what was sent is no release then.
        Refused: S3 refuses.
    """
    facts = _facts(path, app, program)
    if "manifest" not in facts:
        raise ReleaseError(f"{path} has no {MANIFEST}, whose presence says that all is there; push it as one file")
    sha256, url = facts["manifest"], store.url(prefix)
    if store.is_there(prefix + MANIFEST, sha256):
        return Pushed(url=url, sha256=sha256, new=False)
    try:
        manifest = _send_files(store, path, prefix, progress)
        store.put(prefix + MANIFEST, manifest, sha256=sha256, facts=facts)
    except (FlameError, KeyboardInterrupt) as exc:
        told = str(exc) or "broken off"
        raise ReleaseError(f"{told}; without {MANIFEST} what is under {url} is no release: push it again") from exc
    return Pushed(url=url, sha256=sha256, new=True)


def _send_files(store: Store, path: Path, prefix: str, progress: Progress) -> bytes:
    """Send all but the manifest, several at a time, and return that."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sending = _Sending(store, prefix, pool, progress)
        try:
            found = contents(path, sending.begin)
        except BaseException:  # who broke it off does not want to wait for what has not begun
            sending.broken.set()
            raise
    for each in sending.files.values():
        each.result()
    names = [name for name, entry in found.files.items() if isinstance(entry, File)]
    if linked := [name for name in names if name not in sending.files]:
        raise ReleaseError(f"{path}: {linked[0]} is a hard link, which only an archive can hold; replace it by a copy")
    return found.manifest or b""


class _Sending:
    """Files on their way by their names; once it is `broken` none begins."""

    def __init__(self, store: Store, prefix: str, pool: ThreadPoolExecutor, progress: Progress) -> None:
        self._store, self._prefix, self._pool, self._progress = store, prefix, pool, progress
        self._slots = threading.Semaphore(2 * AT_ONCE)  # what waits is in memory
        self.files, self.broken = dict[str, Future[None]](), threading.Event()

    def begin(self, name: str, content: bytes) -> None:
        """Send a file as soon as there is room, but for the manifest."""
        if name != MANIFEST and not self.broken.is_set():
            self._slots.acquire()
            self.files[name] = self._pool.submit(self._send, name, content)

    def _send(self, name: str, content: bytes) -> None:
        try:
            if not self.broken.is_set():
                self._store.put(self._prefix + name, content, sha256=hashlib.sha256(content).hexdigest(), facts={})
                self._progress(len(content))
        except BaseException:  # whatever it is, no other file shall be begun; it is raised again
            self.broken.set()
            raise
        finally:
            self._slots.release()


def _facts(path: Path, app: str, program: str) -> dict[str, str]:
    """Return what is said of a bundle beside it; of one that was built otherwise, its name alone."""
    found = contents(path)
    for finding in inspect(found, program):
        if finding.verdict is Verdict.FAILED:
            raise ReleaseError(f"{path}: {finding.seen}; {finding.remedy}")
    return facts_of(found.manifest) if found.manifest else {"name": app}


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


class _Watched:
    """A file that tells how many more bytes were read of it: fewer than none where it is begun again."""

    def __init__(self, file: IO[bytes], progress: Progress) -> None:
        self._file, self._progress, self._told = file, progress, 0

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._tell()
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def _tell(self) -> None:
        position = self._file.tell()
        self._progress(position - self._told)
        self._told = position
