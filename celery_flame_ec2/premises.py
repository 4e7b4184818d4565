"""Where does this user keep files on this machine, and can nobody else put others there?"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from pathlib import Path


def premises() -> Path:
    """Return the directory of this machine and user."""
    return Path(tempfile.gettempdir()) / f"celery-flame-{os.getuid()}"


def file_name(owner: str) -> str:
    """Return how files of one deployment are named."""
    return re.sub(r"[^\w.@-]", "-", owner)


def own_file(owner: str, kind: str) -> Path:
    """Return a path of this machine and user that is of one deployment."""
    return premises() / f"{file_name(owner)}.{kind}"


def make_own(*directories: Path) -> None:
    """Make what is missing of these directories, each in the one before.

    Raises:
        OSError: it cannot be made, or is not this user's alone.
    """
    for directory in directories:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        must_be_own(directory)


def must_be_own(*directories: Path) -> None:
    """Look whether others can put files or links there: in a shared /tmp anybody may make a directory of any name.

    Raises:
        FileNotFoundError: there is no such directory.
        PermissionError: it is not this user's alone, or a link.
    """
    for directory in directories:
        status = directory.lstat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022 or not stat.S_ISDIR(status.st_mode):
            raise PermissionError(
                f"{directory} must be a directory of this user that others cannot write to: chmod 700 it, or remove "
                "what is there, or set TMPDIR"
            )
