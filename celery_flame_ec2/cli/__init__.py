"""What can an operator ask of flame? `celery -A proj flame ...`"""

from __future__ import annotations

from typing import Any

import click

from ..errors import FlameError
from .child import child
from .cordon import cordon, uncordon
from .doctor import doctor
from .iam_policy import iam_policy
from .reap import reap
from .record import record
from .release import release
from .serve import serve
from .show import plan, user_data
from .simulate import simulate_
from .status import status


class FlameGroup(click.Group):
    """A group whose commands end in one line and exit code 1 when flame knows what went wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except FlameError as exc:
            raise click.ClickException(str(exc)) from exc


@click.group(cls=FlameGroup)
def flame() -> None:
    """Let workers burst past this machine: launch, watch and end runners."""


for command in (
    serve,
    child,
    plan,
    status,
    cordon,
    uncordon,
    doctor,
    user_data,
    reap,
    release,
    iam_policy,
    simulate_,
    record,
):
    flame.add_command(command)
