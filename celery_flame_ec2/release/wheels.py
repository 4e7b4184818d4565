"""Which packages does a release need, and how do they get into a directory?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from ..errors import ReleaseError
from .pins import PACKAGERS, pins_of_environment, pins_of_export, pins_of_lock, read_toml
from .progress import Progress
from .sources import Dependencies
from .target import Target

_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)(?:==| @ )")
_NO_WHEEL = re.compile(
    r"(?:Because|and|that) (?:only |all versions of )?`?([A-Za-z0-9][\w.-]*)\S* ha(?:s|ve) no (?:usable )?wheels"
    r"|Building source distributions for `([\w.-]+)` is disabled"
    r"|Failed to (?:download and )?build `([\w.-]+)=="
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One resolved requirement. `name` is None where only a path is known; `wanted_by` holds names of packages,
    and whatever the resolver says of a requirement the project itself lists."""

    line: str
    name: str | None
    wanted_by: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """Where a package comes from: `built` from source, as its user chose; `path` where that is on this machine."""

    name: str
    built: bool
    path: str | None = None


class Installer(Protocol):
    """Resolves and installs for a machine that is not this one."""

    def resolve(self, dependencies: Dependencies) -> list[Package]:
        """Return everything the dependencies come to. Raises ReleaseError."""

    def install(self, packages: Sequence[Package], directory: Path, progress: Progress) -> None:
        """Unpack the packages' wheels into `directory`. Raises ReleaseError."""


def needed(packages: Sequence[Package], without: Collection[tuple[str, str]]) -> list[Package]:
    """Return the packages that are still wanted when no (package, dependency) of `without` counts. Pure."""
    known = {package.name for package in packages}
    kept: set[str | None] = {None}
    while found := {
        package.name
        for package in packages
        if package.name not in kept
        and any(wish not in known or wish in kept for wish in package.wanted_by if (wish, package.name) not in without)
    }:
        kept |= found
    return [package for package in packages if package.name in kept]


class Uv:
    """Has uv do it. Paths in the requirements are relative to `project`; `scratch` is an empty directory of ours."""

    def __init__(self, target: Target, project: Path, scratch: Path) -> None:
        self._target, self._project, self._program = target, project, find_uv()
        self._scratch, self._built, self._pins = scratch, list[str](), tuple[str, ...]()
        # setuptools would build in the source's own `build`, and ship what lies there from modules long deleted
        self._build = scratch / "build.cfg"
        self._build.write_text(f"[build]\nbuild_base = {scratch}\n[egg_info]\negg_base = {scratch}\n")

    def resolve(self, dependencies: Dependencies) -> list[Package]:
        listed, self._pins = self._files(dependencies)
        words = ("compile", str(listed), *self._pins)
        # here and in `install`: uv's cache alone would not notice a changed module of a source
        locked = read_lock(self._pip(*words, "--format", "pylock.toml", "--refresh"))
        self._built = [one.name for one in locked if one.built]
        wheels = [word for one in locked if not one.built for word in ("--only-binary", one.name)]
        named = {self._resolved(one.path): one.name for one in locked if one.path}
        packages = [
            self._with_name(package, named)
            for package in parse(self._pip(*words, "--no-header", "--annotation-style", "split", *wheels))
        ]
        return needed(packages, {(f"-r {listed}", tool) for tool in PACKAGERS} if not dependencies.listed else ())

    def _files(self, dependencies: Dependencies) -> tuple[Path, tuple[str, ...]]:
        """Return the file that lists what is needed, and words that have uv keep to its versions and hashes."""
        pins = self._scratch / "pins.txt"
        if lines := self._pinned(dependencies):
            pins.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        elif "--hash=" in (dependencies.listed or pins).read_text(encoding="utf-8", errors="replace"):
            pins = dependencies.listed or pins
        else:
            return dependencies.listed or pins, ()
        return dependencies.listed or pins, ("--constraints", str(pins))

    def _pinned(self, dependencies: Dependencies) -> list[str]:
        if dependencies.installed:
            return pins_of_environment()
        if dependencies.locked is None:
            return []
        if dependencies.locked.name != "uv.lock":
            return pins_of_lock(dependencies.locked)
        place = ("--project", str(dependencies.locked.parent), "--python", sys.executable)
        return pins_of_export(self._run("export", "--locked", "--no-dev", "--no-emit-project", *place))

    def _with_name(self, package: Package, named: Mapping[Path, str]) -> Package:
        if package.name:
            return package
        path = self._resolved(unquote(package.line.removeprefix("file://")))
        name = named[path]
        return replace(package, name=name, line=f"{name} @ {path.as_uri()}")

    def _resolved(self, path: str) -> Path:
        return (self._project / path).resolve()

    def install(self, packages: Sequence[Package], directory: Path, progress: Progress) -> None:
        directory.mkdir()
        listed = self._scratch / "wanted.txt"
        listed.write_text("".join(f"{package.line}\n" for package in packages))
        anew = [word for name in self._built for word in ("--no-binary", name, "--refresh-package", name)]
        into = ("--target", str(directory), "-r", str(listed), *self._pins)
        with progress.bar(f"installing {len(packages)} packages", len(packages)) as advance:
            done = 0

            def look() -> None:
                nonlocal done
                there = len(list(directory.glob("*.dist-info")))
                advance(there - done)
                done = there

            self._pip("install", "--no-deps", "--only-binary", ":all:", *anew, *into, look=look)
            look()

    def _pip(self, *words: str, look: Callable[[], None] = lambda: None) -> str:
        machine = ("--python-version", self._target.python, "--python-platform", self._target.platform)
        return self._run("pip", *words, *machine, "--python", sys.executable, look=look)

    def _run(self, *words: str, look: Callable[[], None] = lambda: None) -> str:
        environ = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1", "DIST_EXTRA_CONFIG": str(self._build)}
        with subprocess.Popen(
            [self._program, *words, "--quiet"],
            cwd=self._project, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as uv:  # fmt: skip
            told, complained = _outcome(uv, look)
        if uv.returncode:
            raise ReleaseError(explain(complained, self._target))
        return told


def _outcome(running: subprocess.Popen[str], look: Callable[[], None]) -> tuple[str, str]:
    """Return what a program printed when it is over; until then look ten times a second at what it does."""
    while True:
        try:
            return running.communicate(timeout=0.1)
        except subprocess.TimeoutExpired:
            look()


def find_uv() -> str:
    """Return the path of uv.

    Raises:
        ReleaseError: it is not installed.
    """
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):  # installed in another way, or not at all
        if program := shutil.which("uv"):
            return program
    raise ReleaseError('a release is built with uv, which is not here: pip install "celery-flame-ec2[release]"')


def read_lock(text: str) -> list[Locked]:
    """Read what of uv's pylock.toml tells where packages come from."""
    return [
        Locked(
            name=package["name"],
            built="vcs" in package or bool(source and not str(source.get("path", source.get("url"))).endswith(".whl")),
            path=source.get("path"),
        )
        for package in read_toml("pylock.toml", text).get("packages", [])
        for source in [package.get("directory") or package.get("archive") or {}]
    ]


def parse(text: str) -> list[Package]:
    """Read what `uv pip compile --annotation-style split` prints. Pure."""
    packages: list[tuple[str, set[str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if not line.startswith("#"):
            packages.append((line.removeprefix("-e "), set()))
        elif packages and (reason := re.sub(r"^#\s*(via\b)?\s*", "", line)) and not reason.startswith("-c "):
            packages[-1][1].add(reason)
    return [
        Package(line=line, name=name[1] if (name := _NAMED.match(line)) else None, wanted_by=frozenset(wanted_by))
        for line, wanted_by in packages
    ]


def explain(stderr: str, target: Target) -> str:
    """Return in one line what stopped uv. Pure."""
    if match := _NO_WHEEL.search(" ".join(stderr.split())):
        package = next(filter(None, match.groups()))
        return (
            f"{package} has no wheel for {target}, and a release takes nothing else from an index: "
            "choose a version that has one, another --platform or --python, or list its source by path"
        )
    told = re.split(r"\n\s*(?:hint:|For more information|\[possible values)", stderr)[0]
    words = re.sub(r"\s*(?:cause:|[╰├]─▶|error:|\u00d7)\s*", " ", told).split()
    return f"uv cannot gather the dependencies for {target}: {' '.join(words) or 'it said nothing'}"
