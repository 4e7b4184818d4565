#!/usr/bin/env python3
"""Run what lies around this file: `start` runs the worker as a FLAME child, `celery ...` any other Celery command."""

import json
import os
import shutil
import site
import sys
import types
from pathlib import Path


def main() -> None:
    root = Path(__file__).resolve().parent.parent
    manifest = json.loads((root / "release.json").read_text(encoding="utf-8"))
    need_python(manifest["python"])
    sys.argv[1:] = ["-A", manifest["celery_app"], *command(sys.argv[1:])]
    see_only(root)
    from celery.__main__ import main as celery

    celery()


def need_python(built_for: str) -> None:
    """Go on as the Python the release was built for, or say that there is none."""
    minor = ".".join(built_for.split(".")[:2])
    own = "{}.{}".format(*sys.version_info)
    if own == minor:
        return
    other = shutil.which(f"python{minor}")
    if other and Path(other).resolve() != Path(sys.executable).resolve():
        os.execv(other, [other, *sys.argv])  # noqa: S606 - no shell is what we want
    sys.exit(
        f"{sys.argv[0]}: this release is built for Python {minor}, and {sys.executable} is Python {own}; "
        f"install python{minor} here, or build the release with --python {own}"
    )


def command(words: "list[str]") -> "list[str]":
    """Return the Celery command that our own command stands for."""
    if words[:1] == ["start"]:
        return ["flame", "child", *words[1:]]
    if words[:1] == ["celery"]:
        return words[1:]
    sys.stderr.write(f"usage: {sys.argv[0]} start [option ...]\n       {sys.argv[0]} celery [word ...]\n")
    sys.exit(2)


def see_only(root: Path) -> None:
    """Import from the release and the standard library; what else the machine has installed stays out."""
    lib = root / "lib"
    rest = [path for path in sys.path[1:] if Path(path).name not in {"site-packages", "dist-packages"}]
    sys.path[:] = [str(root / "app"), str(lib), *rest]
    site.addsitedir(str(lib))
    if not (lib / "click_repl").is_dir():
        sys.modules["click_repl"] = Promptless("click_repl")


class Promptless(types.ModuleType):
    """Stands for click_repl, which Celery imports at every start for the prompt of `celery amqp`.

    The real one is two thirds of a small release and takes more than half of the time until Celery is imported.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


if __name__ == "__main__":
    main()
