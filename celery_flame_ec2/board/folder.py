"""What is pinned to a board that is a directory of this machine?"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import BoardError
from ..premises import make_own, must_be_own
from .base import MOST_BYTES, Change, Pin, read_orders, write_orders

#: Bytes of a runner's text that are read: more than one of ours has.
LONGEST_TEXT = 1000


class Folder:
    """A board for runners that are processes of this machine: a file for each, and one for the orders."""

    open_to_all = True

    def __init__(self, path: Path) -> None:
        self._path, self._words, self._orders = path, path / "words", path / "orders"
        self.place = str(path)

    def pin(self, pin: Pin) -> None:
        with self._telling():
            make_own(self._path.parent, self._path, self._words)
            _replace(self._words / pin.runner_id, pin.text.encode())

    def pins(self) -> list[Pin]:
        with self._telling():
            return list(self._found())

    def take_down(self, pins: Collection[Pin]) -> None:
        with self._telling():
            for pin in pins:
                (self._words / pin.runner_id).unlink(missing_ok=True)

    def cordoned(self) -> frozenset[str]:
        with self._telling():
            try:
                with self._orders.open("rb") as file:
                    return read_orders(file.read(MOST_BYTES), str(self._orders))
            except FileNotFoundError:
                return frozenset()

    def order(self, change: Change) -> None:
        with self._telling():
            make_own(self._path.parent, self._path)
            with self._orders.with_name("orders.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _replace(self._orders, write_orders(change(self.cordoned())))

    def _found(self) -> Iterator[Pin]:
        try:
            files = os.scandir(self._words)
        except FileNotFoundError:  # nobody has spoken yet
            return
        with files:
            for file in files:
                if not file.name.startswith(".") and file.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError), Path(file.path).open("rb") as opened:
                        text = opened.read(LONGEST_TEXT).decode("ascii", "replace")
                        yield Pin(runner_id=file.name, text=text)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with contextlib.suppress(FileNotFoundError):  # nobody has spoken yet
                must_be_own(self._path.parent, self._path, self._words)
            yield
        except OSError as exc:
            raise BoardError(f"{self.place}: {exc.strerror or exc}") from exc


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it sees the former content or this one."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    fresh.replace(path)
