"""What of a project goes into its release?"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReleaseError

_NEVER = (".*", "__pycache__", "*.pyc", "*.pyo", "*.egg-info", "node_modules")
_NOT_AT_THE_TOP = ("build", "dist", "tests", "test")
_UV_LOCK = "uv.lock"
_LOCKS = (_UV_LOCK, "pylock.toml")
_FOREIGN_LOCKS = ("poetry.lock", "pdm.lock", "Pipfile.lock")
_LISTS = ("requirements.txt", "pyproject.toml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependencies:
    """What says which packages a project needs, and in which versions.

    `listed` is a requirements file or pyproject.toml, and None where all that is pinned is needed. Versions are those
    of `locked` (uv.lock, pylock.toml), or where `installed` those of this environment, or else the newest that fit.
    """

    listed: Path | None
    locked: Path | None = None
    installed: bool = False

    def __str__(self) -> str:
        pinned = "this environment" if self.installed else str(self.locked or "")
        return f"{self.listed} with the versions of {pinned}" if self.listed and pinned else str(self.listed or pinned)


def dependencies(project: Path, chosen: Path | None = None, *, installed: bool = False) -> Dependencies:
    """Return what the project depends on: by the `chosen` file, else by what of the project says it most exactly.

    Raises:
        ReleaseError: nothing says it, or a lock file that uv cannot read says it more exactly.
    """
    if chosen and not chosen.is_file():
        raise ReleaseError(f"there is no {chosen}; name the file that lists the dependencies (--requirements)")
    if installed:
        if chosen and _is_lock(chosen):
            raise ReleaseError(f"versions are either those of {chosen} or those of this environment; leave one out")
        return Dependencies(listed=_resolved(chosen or _list_of(project)), installed=True)
    file = chosen or next(_files(project, _LOCKS), None)
    if file and _is_lock(file):
        return Dependencies(listed=_resolved(_list_beside(file)), locked=file.resolve())
    return Dependencies(listed=_resolved(file) or _only_list(project))


def _resolved(path: Path | None) -> Path | None:
    return path.resolve() if path else None


def _files(directory: Path, names: Iterable[str]) -> Iterator[Path]:
    return (directory / name for name in names if (directory / name).is_file())


def _is_lock(file: Path) -> bool:
    return file.name == _UV_LOCK or re.fullmatch(r"pylock(\.[^.]+)?\.toml", file.name) is not None


def _list_of(directory: Path) -> Path | None:
    return next(_files(directory, _LISTS), None)


def _list_beside(lock: Path) -> Path | None:
    """Return what a lock file is of: uv's is of the pyproject.toml beside it and of nothing else."""
    if lock.name != _UV_LOCK:
        return _list_of(lock.parent)
    for path in _files(lock.parent, ["pyproject.toml"]):
        return path
    raise ReleaseError(f"there is no pyproject.toml beside {lock}, which it is of")


def _only_list(project: Path) -> Path:
    found = _list_of(project)
    if found is None or found.name == "pyproject.toml":
        for foreign in _files(project, _FOREIGN_LOCKS):
            raise ReleaseError(
                f"uv cannot read {foreign}: export it to requirements.txt, or name the file that lists the "
                "dependencies without its versions (--requirements)"
            )
    if found is None:
        raise ReleaseError(
            f"{project} has no uv.lock, pylock.toml, requirements.txt or pyproject.toml; name the file that lists "
            "the dependencies (--requirements), or take what is installed here (--environment)"
        )
    return found.resolve()


def holds(directory: Path, module: str) -> bool:
    """Tell whether `module` (dotted) can be imported from `directory`; only its first name is looked at."""
    first = module.partition(".")[0]
    return (directory / first).is_dir() or any(directory.glob(f"{first}.*"))


def copy(project: Path, module: str, destination: Path, *, without: Collection[Path]) -> None:
    """Copy the code that `module` belongs to: all of `src` where it lies there, else the project directory.

    Hidden files, caches, virtual environments, what `build`, `dist`, `tests` and `test` at the top hold, and what is in
    `without` stay behind.

    Raises:
        ReleaseError: a file cannot be read, or a symbolic link leads to where no runner can follow.
    """
    source = project / "src" if holds(project / "src", module) else project
    try:
        shutil.copytree(
            source, destination, symlinks=True, ignore=_left_out(project, without), copy_function=shutil.copy
        )
    except shutil.Error as exc:
        path, _, why = exc.args[0][0]
        raise ReleaseError(f"cannot copy {path} into the release: {why}") from exc
    except OSError as exc:
        raise ReleaseError(f"cannot copy {exc.filename or source} into the release: {exc.strerror or exc}") from exc
    for link in _dead_links(destination):
        raise ReleaseError(
            f"{source / link.relative_to(destination)} is a symbolic link to {os.readlink(link)}, "  # noqa: PTH115 - as written
            "which the release does not hold; replace it by a copy"
        )


def _left_out(project: Path, without: Collection[Path]) -> Callable[[str, list[str]], set[str]]:
    def ignore(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        patterns = _NEVER + (_NOT_AT_THE_TOP if here == project else ())
        return {
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            or (here / name / "pyvenv.cfg").exists()
            or here / name in without
        }

    return ignore


def _dead_links(root: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(root):
        for path in (Path(directory, name) for name in folders + files):
            if path.is_symlink() and not _leads_inside(path, root.resolve()):
                yield path


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # dangling, or a circle
        return False
