"""Which process of this machine holds a file?"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import LeaseError
from ..premises import make_own, must_be_own
from .base import kept, read_notes


class FileStore:
    """A lease that the kernel ends with the process that holds it.

    A record lock, not `flock`: the processes of a worker's pool are forks that outlive a killed parent, and would keep
    an inherited lock for as long.
    """

    good_for = float("inf")

    def __init__(self, path: Path) -> None:
        self._path, self._notes = path, path.with_name(f"{path.name}.notes")
        self._overrides = path.with_name(f"{path.name}.overrides")
        self._file = -1
        self.place = str(path)

    def take(self) -> bool:
        try:
            file = self._file if self._is_in_place() else self._open()
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(file)  # or what clears old files away would take it for one
        except BlockingIOError:
            return False
        except OSError as exc:
            raise LeaseError(f"{self.place}: {exc.strerror or exc}") from exc
        return True

    def give_up(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def left(self) -> float:
        # To close this file would let go of a lock that this process has on it: whoever has it does not ask.
        try:
            must_be_own(self._path.parent)
            with self._path.open("rb") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return 0.0
        except BlockingIOError:
            return float("inf")
        except OSError as exc:
            raise LeaseError(f"{self.place}: {exc.strerror or exc}") from exc
        return 0.0

    def notes(self) -> dict[str, str]:
        return _read(self._notes)

    def note(self, changes: Mapping[str, str | None]) -> None:
        _write(self._notes, {**self.notes(), **changes})

    def overrides(self) -> dict[str, str]:
        return _read(self._overrides)

    def override(self, changes: Mapping[str, str | None]) -> None:
        with _alone(self._overrides):
            _write(self._overrides, {**self.overrides(), **changes})

    def _open(self) -> int:
        self.give_up()
        make_own(self._path.parent)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        return self._file

    def _is_in_place(self) -> bool:
        """Tell whether the file that is open here is the one that another parent would open."""
        try:
            return self._file >= 0 and os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return False


def _read(path: Path) -> dict[str, str]:
    try:
        must_be_own(path.parent)
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise LeaseError(f"{path}: {exc.strerror or exc}") from exc
    return read_notes(text, str(path))


def _write(path: Path, changed: Mapping[str, str | None]) -> None:
    fresh = path.with_name(f"{path.name}.new")
    try:
        fresh.write_text(json.dumps(kept(changed)))
        fresh.replace(path)
    except OSError as exc:
        raise LeaseError(f"{path}: {exc.strerror or exc}") from exc


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep others from changing what they read meanwhile."""
    try:
        make_own(path.parent)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:  # to close it is not enough: a pool process forked meanwhile holds the same lock
                fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError as exc:
        raise LeaseError(f"{path}: {exc.strerror or exc}") from exc
