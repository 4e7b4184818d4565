"""Where does a release lie while it is built or read?"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import NoRoom


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty directory, which is gone afterwards.

    Raises:
        NoRoom: there can be none, or it is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="flame-release-") as directory:
            yield Path(directory)
    except OSError as exc:
        why = exc.strerror or exc
        raise NoRoom(f"cannot work in {tempfile.gettempdir()}: {why}; let TMPDIR name a place with room") from exc
