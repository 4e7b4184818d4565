"""What can an operator ask of flame? `celery -A proj flame ...`"""

from __future__ import annotations

import importlib
from typing import Any

import click

from .. import remote  # noqa: F401  so that `celery inspect` and `celery control` know of flame
from ..errors import FlameError

#: The commands, each with its module and its name there. Imported by who asks for them: a runner that starts would
#: spend a third of its time on those of an operator.
COMMANDS = {
    "child": ("child", "child"),
    "cordon": ("cordon", "cordon"),
    "doctor": ("doctor", "doctor"),
    "iam-policy": ("iam_policy", "iam_policy"),
    "pause": ("override", "pause"),
    "plan": ("show", "plan"),
    "reap": ("reap", "reap"),
    "record": ("record", "record"),
    "release": ("release", "release"),
    "resume": ("override", "resume"),
    "scale": ("override", "scale"),
    "serve": ("serve", "serve"),
    "simulate": ("simulate", "simulate_"),
    "status": ("status", "status"),
    "uncordon": ("cordon", "uncordon"),
    "user-data": ("show", "user_data"),
}


class FlameGroup(click.Group):
    """A group whose commands end in one line and exit code 1 when flame knows what went wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  as click calls it
        """Return the commands' names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command; None where there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f".{module}", __name__), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FlameError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=FlameGroup)
def flame() -> None:
    """Let workers burst past this machine: launch, watch and end runners."""
