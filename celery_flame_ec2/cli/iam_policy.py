"""What must IAM allow parent, runners and whoever deploys, with these settings?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import click
from celery import Celery
from celery.bin.base import CeleryCommand, handle_preload_options

from ..backends.ec2 import permissions
from ..backends.ec2.clients import Clients
from ..backends.ec2.permissions import ANY, DEPLOYER, DOCTOR, MOST, NO_ROLE, PARENT, RUNNER, Ground
from ..config import Settings
from ..errors import SettingsError
from ..lease import open_lease
from ..settings import settings_of

SQS = "the broker is SQS: what Celery itself asks of its queues, parent and runners need beside this"


def _account(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"\d{12}", value):
        raise click.BadParameter(f"an account has 12 digits, got {value!r}")
    return value


def _role(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"(arn:[\w-]+:iam::\d{12}:role/)?[\w+=,.@/-]+", value):
        raise click.BadParameter(f"expected a role's name or arn:aws:iam::ACCOUNT:role/NAME, got {value!r}")
    return value


@click.command(cls=CeleryCommand, name="iam-policy")
@click.option("--for", "who", type=click.Choice([PARENT, RUNNER, DEPLOYER]), help="Print only this one's policy.")
@click.option("--account", callback=_account, metavar="ID", help="The AWS account; where not given, any.")
@click.option("--role", callback=_role, metavar="NAME|ARN", help="The role in the runners' instance profile.")
@click.option("--doctor/--no-doctor", default=True, show_default=True, help="Let the parent run `flame doctor` too.")
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def iam_policy(
    ctx: click.Context, who: str | None, account: str | None, role: str | None, doctor: bool, **_: Any
) -> None:
    """Print the IAM policies that parent, runners and who pushes releases need, as JSON. Asks nothing of AWS.

    What the policies leave open is said on standard error.
    """
    app: Celery = ctx.obj.app
    grounds = list(_grounds(app, settings_of(app), account, role))
    policies = {
        PARENT: permissions.policy(grounds, PARENT, *[DOCTOR] * doctor),
        RUNNER: permissions.policy(grounds, RUNNER),
        DEPLOYER: permissions.policy(grounds, DEPLOYER),
    }
    click.echo(json.dumps(policies[who] if who else policies, indent=2))
    for sentence in (*permissions.unknowns(grounds), *_beside(app, policies)):
        click.echo(f"note: {sentence}", err=True)


def _grounds(app: Celery, settings: Settings, account: str | None, role: str | None) -> Iterator[Ground]:
    if settings.backend != "ec2":
        raise SettingsError([f"setting flame_backend is {settings.backend!r}, and its runners need no right of AWS"])
    clients, lease = Clients(), open_lease(app, settings).place
    for pool in settings.pools:
        region = pool.ec2.region or clients.region()
        yield Ground(
            pool=pool,
            owner=settings.owner,
            region=region or ANY,
            partition=clients.partition(region) if region else "aws",
            account=account or _account_in(pool.ec2.iam_instance_profile, role) or ANY,
            role=role or NO_ROLE,
            lease=lease if lease.startswith("s3://") else "",
            board=settings.board,
        )


def _account_in(*names: str | None) -> str | None:
    """Return the account that an ARN among these tells."""
    found = (re.match(r"arn:[\w-]+:iam::(\d{12}):", name or "") for name in names)
    return next((match[1] for match in found if match), None)


def _beside(app: Celery, policies: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    connection: Any = app.connection_for_read()
    if connection.transport_cls == "sqs":
        yield SQS
    for who, document in policies.items():
        if (size := permissions.size(document)) > MOST:
            yield f"the {who}'s policy has {size} characters, IAM takes {MOST} in one managed policy; split it in two"
