"""How does a directory become one file, the same bytes every time?"""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from ..errors import ReleaseError
from .progress import Progress

SUFFIXES = (".tar.gz", ".tgz", ".tar.zst")

#: Seconds since the epoch, 1980-01-01: the earliest time every archive format can hold.
_MTIME = 315532800
#: Unpacking costs the same at every level; 9 gains 1 % over 6 and packs five times as long, 1 is 15 % larger.
_LEVEL = 6
_ZSTD_LEVEL = 10


def pack(directory: Path, output: Path, progress: Progress) -> None:
    """Write `directory` as a .tar.gz or .tar.zst, as `output` is called; it appears only when it is complete.

    Raises:
        ReleaseError: `output` cannot be written.
    """
    paths = list(_sorted_tree(directory))
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (
            partial.open("wb") as file,
            _compressed(file, zst=output.suffix == ".zst") as compressed,
            progress.bar(f"packing {output}", len(paths)) as advance,
        ):
            _write(directory, paths, compressed, advance)
        partial.replace(output)
    except OSError as exc:
        raise ReleaseError(f"cannot write {output}: {exc.strerror or exc}") from exc
    finally:
        with contextlib.suppress(OSError):  # where it could not be made it cannot be looked for either
            partial.unlink()


def _compressed(file: IO[bytes], *, zst: bool) -> AbstractContextManager[Any]:
    if not zst:
        return gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0)
    try:
        import zstandard
    except ImportError as exc:
        raise ReleaseError(
            'a .tar.zst is written with zstandard, which is not here: pip install "celery-flame-ec2[release]"'
        ) from exc
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(file, closefd=False)


def _write(directory: Path, paths: list[Path], file: IO[bytes], advance: Callable[[int], None]) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for path in paths:
            _add(tar, path, path.relative_to(directory).as_posix())
            advance(1)


def _sorted_tree(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _sorted_tree(path)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.mtime = _MTIME
    if path.is_symlink():
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(path), 0o777  # noqa: PTH115 - as written
        tar.addfile(member)
    elif path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
    else:
        status = path.stat()
        member.size, member.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
        with path.open("rb") as content:
            tar.addfile(member, content)
