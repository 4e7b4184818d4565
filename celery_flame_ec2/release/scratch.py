"""Where does a release lie while it is built or read?"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import ReleaseError


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give an empty directory, which is gone afterwards.

    Raises:
        ReleaseError: there can be none, or it is full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="flame-release-") as directory:
            yield Path(directory)
    except OSError as exc:
        raise ReleaseError(f"cannot work in {tempfile.gettempdir()}: {exc}; let TMPDIR name a place with room") from exc
