"""Which files of a project go into its release?"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ReleaseError

_NEVER = (".*", "__pycache__", "*.pyc", "*.pyo", "*.egg-info", "node_modules")
_NOT_AT_THE_TOP = ("build", "dist", "tests", "test")


def requirements(project: Path, chosen: Path | None) -> Path:
    """Return the file that lists what the project depends on.

    Raises:
        ReleaseError: there is none.
    """
    for path in [chosen] if chosen else [project / "requirements.txt", project / "pyproject.toml"]:
        if path.is_file():
            return path.resolve()
    missing = f"there is no {chosen}" if chosen else f"{project} has neither requirements.txt nor pyproject.toml"
    raise ReleaseError(f"{missing}; name the file that lists the dependencies (--requirements)")


def holds(directory: Path, module: str) -> bool:
    """Tell whether `module` (dotted) can be imported from `directory`; only its first name is looked at."""
    first = module.partition(".")[0]
    return (directory / first).is_dir() or any(directory.glob(f"{first}.*"))


def copy(project: Path, module: str, destination: Path, *, without: Path) -> None:
    """Copy the code that `module` belongs to: all of `src` where it lies there, else the project directory.

    Hidden files, caches, virtual environments, what `build`, `dist`, `tests` and `test` at the top hold, and the file
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


def _left_out(project: Path, without: Path) -> Callable[[str, list[str]], set[str]]:
    def ignore(directory: str, names: list[str]) -> set[str]:
        here = Path(directory)
        patterns = _NEVER + (_NOT_AT_THE_TOP if here == project else ())
        return {
            name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            or (here / name / "pyvenv.cfg").exists()
            or here / name == without
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
