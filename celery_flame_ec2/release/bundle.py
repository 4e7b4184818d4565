"""How does a project become one file that a runner can start?"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from . import archive, sources
from .manifest import NAME, Manifest, files_in
from .progress import Progress
from .revision import revision
from .scratch import scratch
from .sources import Dependencies
from .target import Target, choose
from .wheels import Installer, Uv, needed

#: Who needs whom for something no runner does: AWS is the parent's business, click-repl is the prompt of `celery amqp`.
_NOT_FOR_A_RUNNER = frozenset({("celery-flame-ec2", "boto3"), ("celery", "click-repl")})
#: What an installer notes in `*.dist-info` about its own work; it names paths and times of the machine that built.
_NOTES = frozenset({"INSTALLER", "RECORD", "REQUESTED", "direct_url.json", "uv_build.json", "uv_cache.json"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A built bundle. `size` in bytes; `packages` maps names to versions."""

    path: Path
    name: str
    size: int
    sha256: str
    packages: Mapping[str, str]


def build(
    project: Path,
    *,
    name: str,
    celery_app: str,
    output: Path,
    target: Target | None = None,
    requirements: Path | None = None,
    environment: bool = False,
    full: bool = False,
    progress: Progress | None = None,
) -> Release:
    """Build the release of `project` at `output`: the same bytes for the same project, versions and target.

    `celery_app` is what `celery -A` takes; `target` what runners have, where that is not what this machine has;
    `requirements` another list of dependencies than the project's own; `environment` takes the versions installed
    here; `full` keeps what only a parent needs.

    Raises:
        ReleaseError: it cannot be built; nothing is left behind.
    """
    project, output, target = project.resolve(), output.resolve(), target or choose()
    progress = progress or Progress()
    _check(project, name, celery_app, output)
    dependencies = sources.dependencies(project, requirements, installed=environment)
    with scratch() as directory:
        stage, notes = directory / "stage", directory / "notes"
        notes.mkdir()
        installer = Uv(target, project, notes)
        progress.say(f"copying {project}")
        sources.copy(project, _module(celery_app), stage / "app", without=(output, directory.resolve()))
        packages = _install(installer, dependencies, stage / "lib", full=full, progress=progress)
        _check_contents(stage, celery_app, dependencies, packages)
        compiled = _compile(stage, target, progress)
        _write_start(stage, name)
        about = {"name": name, "celery_app": celery_app, "git": revision(project), "compiled": compiled}
        _write_manifest(stage, target, packages, about)
        archive.pack(stage, output, progress)
    return _built(output, name, packages)


def _write_manifest(stage: Path, target: Target, packages: Mapping[str, str], about: Mapping[str, Any]) -> None:
    runs_on: dict[str, Any] = {"python": target.python, "platform": target.platform}
    manifest = Manifest(packages=packages, files=files_in(stage), **runs_on, **about)
    (stage / NAME).write_text(manifest.encode(), encoding="utf-8")


def _built(output: Path, name: str, packages: Mapping[str, str]) -> Release:
    content = output.read_bytes()
    return Release(
        path=output, name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), packages=packages
    )


def _check(project: Path, name: str, celery_app: str, output: Path) -> None:
    if not project.is_dir():
        raise ReleaseError(f"{project} is not a directory; name the one that holds the application")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", name):
        raise ReleaseError(f"a release cannot be named {name!r}: lower-case letters, digits, - and _, at most 63")
    if not re.fullmatch(r"[^\W\d]\w*([.:][^\W\d]\w*)*", celery_app):
        raise ReleaseError(f"{celery_app!r} is not the path of a Celery app; it looks like proj.app:app")
    if not output.name.endswith(archive.SUFFIXES):
        raise ReleaseError(f"a release is called {', '.join(archive.SUFFIXES)}, and {output.name} is not")


def _module(celery_app: str) -> str:
    return celery_app.partition(":")[0]


def _install(
    installer: Installer, dependencies: Dependencies, lib: Path, *, full: bool, progress: Progress
) -> dict[str, str]:
    progress.say(f"resolving {dependencies}")
    resolved = installer.resolve(dependencies)
    wanted = needed(resolved, () if full else _NOT_FOR_A_RUNNER)
    left_out = [package.name or package.line for package in resolved if package not in wanted]
    if left_out:
        progress.say(f"leaving out what no runner needs: {', '.join(left_out)}")
    installer.install(wanted, lib, progress)
    packages = {dist.name: dist.version for dist in importlib.metadata.distributions(path=[str(lib)])}
    _prune(lib)
    return dict(sorted(packages.items()))


def _prune(lib: Path) -> None:
    shutil.rmtree(lib / "bin", ignore_errors=True)  # scripts that start an interpreter of the machine that built
    (lib / ".lock").unlink(missing_ok=True)
    for note in lib.glob("*.dist-info/*"):
        if note.name in _NOTES:
            note.unlink()
    for package in filter(Path.is_dir, lib.iterdir()):
        _prune_package(package)


def _prune_package(package: Path) -> None:
    for cache in [*package.rglob("__pycache__")]:
        shutil.rmtree(cache)
    tests = [path for path in package.rglob("tests") if path.is_dir()]
    if tests and not _imports_tests(package, tests):
        for path in tests:
            shutil.rmtree(path, ignore_errors=True)  # one may lie inside another


def _imports_tests(package: Path, tests: list[Path]) -> bool:
    importing = re.compile(rb"^[ \t]*(?:from|import)[ \t]+(?:[\w.]*\.)?tests\b|import[ \t(]+tests\b", re.MULTILINE)
    return any(
        importing.search(module.read_bytes())
        for module in package.rglob("*.py")
        if not any(module.is_relative_to(path) for path in tests)
    )


def _check_contents(stage: Path, celery_app: str, dependencies: Dependencies, packages: Mapping[str, str]) -> None:
    if "celery-flame-ec2" not in packages:
        raise ReleaseError(
            f"{dependencies} does not ask for celery-flame-ec2, without which no runner can start; add it"
        )
    if not any(sources.holds(stage / part, _module(celery_app)) for part in ("app", "lib")):
        raise ReleaseError(
            f"the release would not hold {celery_app}: the project has no {_module(celery_app).partition('.')[0]}, "
            "neither at its top nor in src"
        )


def _compile(stage: Path, target: Target, progress: Progress) -> bool:
    """Byte-compile everything, so that no runner has to; tell whether a Python that can do it was found."""
    interpreter = _interpreter(target.minor)
    if interpreter is None:
        progress.say(f"not compiling: there is no python{target.minor} here, so runners start some seconds later")
        return False
    # Files that cannot be compiled are no reason to stop: packages ship templates and code for other versions. What is
    # compiled depends on which strings the interpreter knows: it may know nothing of this machine.
    command = [interpreter, "-S", "-s", "-m", "compileall", "-f", "--invalidation-mode", "unchecked-hash", "-s"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with (
        progress.bar(f"compiling with {interpreter}", sum(1 for _ in stage.rglob("*.py"))) as advance,
        subprocess.Popen(
            [*command, stage, stage], cwd=stage, env=environ | {"PYTHONHASHSEED": "0"}, stdout=subprocess.PIPE
        ) as compiling,
    ):
        for line in compiling.stdout or ():
            advance(line.startswith(b"Compiling "))
    return True


def _interpreter(minor: str) -> str | None:
    for candidate in (sys.executable, shutil.which(f"python{minor}")):
        if candidate and _minor_of(candidate) == minor:
            return candidate
    return None


def _minor_of(interpreter: str) -> str:
    asked = [interpreter, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _write_start(stage: Path, name: str) -> None:
    script = stage / "bin" / name
    script.parent.mkdir()
    script.write_bytes(importlib.resources.files("celery_flame_ec2").joinpath("templates", "start.py").read_bytes())
    script.chmod(0o755)
