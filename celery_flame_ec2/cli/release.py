"""What does an operator do with releases?"""

from __future__ import annotations

import os
import platform as machine
import subprocess
from pathlib import Path
from typing import Any

import click
from celery.bin.base import CeleryCommand, CeleryOption

from ..app_path import import_path


@click.group(name="release")
def release() -> None:
    """Build what runners run."""


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
    help="The .tar.gz to write. [default: PROJECT/dist/NAME-REVISION.tar.gz, by git]",
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
    help="The list of dependencies. [default: PROJECT's requirements.txt, else its pyproject.toml]",
)
@click.option(
    "--python",
    cls=CeleryOption,
    default=machine.python_version,
    help_group="Runner",
    help="The runners' full Python version: Debian 12 has 3.11.2, Ubuntu 24.04 has 3.12.3. [default: this one's]",
)
@click.option(
    "--platform",
    cls=CeleryOption,
    default=lambda: f"{machine.machine()}-manylinux_2_28",
    help_group="Runner",
    help="The runners' platform, as in aarch64-manylinux_2_28. [default: this machine's]",
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
    ctx: click.Context, /, project: Path, name: str | None, output: Path | None, app_path: str | None, **options: Any
) -> None:
    """Build the release of the application in PROJECT (this directory): code, dependencies, bin/NAME.

    All of src goes into it where the Celery app lies there, else all of PROJECT; never hidden files, caches,
    virtual environments, and what is in build, dist, tests and test at PROJECT's top.

    Prints the file's path, its size in bytes and its SHA-256.
    """
    from ..release import build as build_release

    app = ctx.obj.app
    name = name or _name(app, project)
    built = build_release(
        project,
        name=name,
        celery_app=app_path or _found(app),
        output=output or project / "dist" / f"{name}-{_revision(project)}.tar.gz",
        report=lambda text: click.echo(text, err=True),
        **options,
    )
    click.echo(f"{built.path}\n{built.size}\n{built.sha256}")


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
