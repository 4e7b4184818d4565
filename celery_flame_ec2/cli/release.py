"""What does an operator do with releases?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from ..app_path import import_path
from ..release.progress import Progress
from ..release.target import IMAGES
from .shelf import check, list_, progress, prune, push


@click.group(name="release")
def release() -> None:
    """Build what runners run, put it into S3, and look after it there."""


for command in (push, check, list_, prune):
    release.add_command(command)


@release.command(cls=CeleryCommand)
@click.argument("project", type=click.Path(path_type=Path, exists=True, file_okay=False), default=".")
@click.option(
    "--name",
    cls=CeleryOption,
    help_group="Release",
    help="Runners start bin/NAME. [default: the option app of flame_ec2, RELEASE_NAME, or PROJECT's name]",
)
@click.option(
    "--output",
    cls=CeleryOption,
    type=click.Path(path_type=Path, dir_okay=False),
    help_group="Release",
    help="The .tar.gz or .tar.zst to write. [default: PROJECT/dist/NAME-REVISION.tar.gz, by git]",
)
@click.option(
    "--zst",
    cls=CeleryOption,
    is_flag=True,
    help_group="Release",
    help="Write a .tar.zst: smaller and faster to unpack, for images that have zstd.",
)
@click.option(
    "--app-path",
    cls=CeleryOption,
    help_group="Release",
    help="Where runners import the Celery app from, as in proj.app:app. [default: where -A found it]",
)
@click.option(
    "--requirements",
    cls=CeleryOption,
    type=click.Path(path_type=Path, dir_okay=False),
    help_group="Release",
    help="What lists the dependencies: a requirements file, pyproject.toml, uv.lock or pylock.toml. "
    "[default: PROJECT's uv.lock, pylock.toml, requirements.txt or pyproject.toml, the first there is]",
)
@click.option(
    "--environment",
    cls=CeleryOption,
    is_flag=True,
    help_group="Release",
    help="Take the versions installed here; and all that is installed, where PROJECT lists no dependencies.",
)
@click.option(
    "--image",
    cls=CeleryOption,
    help_group="Runner",
    help=f"The runners' image, which says Python and C library: {', '.join(IMAGES)}.",
)
@click.option(
    "--python",
    cls=CeleryOption,
    help_group="Runner",
    help="The runners' full Python version, as in 3.11.2. [default: the image's, else this one's]",
)
@click.option(
    "--platform",
    cls=CeleryOption,
    help_group="Runner",
    help="The runners' architecture, x86_64 or arm64, or full platform, as in aarch64-manylinux_2_28. "
    "[default: this machine's architecture, and the image's C library]",
)
@click.option(
    "--full",
    cls=CeleryOption,
    is_flag=True,
    help_group="Runner",
    help="Keep what only a parent or a prompt needs (boto3, click-repl).",
)
@click.pass_context
def build(
    ctx: click.Context,
    /,
    project: Path,
    name: str | None,
    output: Path | None,
    zst: bool,
    app_path: str | None,
    image: str | None,
    python: str | None,
    platform: str | None,
    **options: Any,
) -> None:
    """Build the release of the application in PROJECT (this directory): code, dependencies, bin/NAME.

    All of src goes into it where the Celery app lies there, else all of PROJECT; never hidden files, caches,
    virtual environments, and what is in build, dist, tests and test at PROJECT's top.

    Prints the file's path, its size in bytes and its SHA-256.
    """
    from ..release.bundle import build as build_release
    from ..release.target import choose

    if zst and output:
        raise click.UsageError("--output says by its name what is written: leave --zst out")
    app = ctx.obj.app
    name = name or _name(app, project)
    built = build_release(
        project,
        name=name,
        celery_app=app_path or _found(app),
        output=output or project / "dist" / f"{name}-{_revision(project)}.tar.{'zst' if zst else 'gz'}",
        target=choose(image=image, python=python, platform=platform),
        progress=Shown(),
        **options,
    )
    click.echo(f"{built.path}\n{built.size}\n{built.sha256}")


class Shown(Progress):
    """Is shown on stderr: as lines, and as bars where that is a terminal."""

    def say(self, text: str) -> None:
        """Print it."""
        click.echo(text, err=True)

    @contextmanager
    def bar(self, label: str, length: int) -> Iterator[Callable[[int], None]]:
        """Show a bar where it can be seen, and else at least its label."""
        if not sys.stderr.isatty():
            self.say(label)
        with progress(label, length) as tell:
            yield tell


def _name(app: Any, project: Path) -> str:
    chosen = (app.conf.get("flame_ec2") or {}).get("app") or os.environ.get("RELEASE_NAME")
    return str(chosen or project.resolve().name.lower())


def _found(app: Any) -> str:
    if found := import_path(app):
        return found
    raise click.UsageError("no imported module holds the Celery app: give it with celery -A, or say --app-path")


def _revision(project: Path) -> str:
    asked = ["git", "-C", str(project), "describe", "--always", "--dirty", "--tags"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git here
        told = ""
    return told.replace("/", "-") or "local"
