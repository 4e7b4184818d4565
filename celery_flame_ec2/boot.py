"""What does an instance boot with? Pure: values in, user data out."""

from __future__ import annotations

import ast
import base64
import functools
import gzip
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

from .config import Ec2Options
from .errors import SettingsError
from .parent import Parent
from .runner import Limits

#: A boot that failed says so in one line of the console, `flame: boot failed: <step>: <cause>`, and powers off.
#: Steps: boothook, arm, metadata, credentials, fetch, unpack, release, environment, start.
FAILURE_PREFIX = "flame: boot failed: "
#: EC2's bound on user data in bytes, before base64.
MAX_USER_DATA = 16384
#: Seconds a later means of ending waits for the earlier one.
MARGIN = 30

_BOUNDARY = "==flame=="
_PLACE = 'DOCUMENT = "{}"'


def document(letter: Parent, options: Ec2Options) -> dict[str, Any]:
    """Return the bootstrap's whole configuration, JSON-able."""
    return {
        "app": options.app,
        "bundle": options.s3_bundle_url,
        "env": dict(options.env),
        "letter": json.loads(base64.b64decode(letter.encode())),  # unpacked it is half the size, and legible
        "metadata_token_url": options.instance_metadata_token_url,
        "metadata_url": options.instance_metadata_url,
        "region": options.region,
        "s3_endpoint": options.s3_service_endpoint,
        "sha256": options.s3_bundle_sha256,
        "units": _units(options, letter.limits),
        "user": options.user,
    }


def masked(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with every value of `env` replaced; names stay, and so do references to secrets."""
    env = {name: value if isinstance(value, dict) else "***" for name, value in configuration["env"].items()}
    return {**configuration, "env": env}


def multipart(configuration: Mapping[str, Any]) -> str:
    """Return the user data as text: the boothook that arms the power-off, then the bootstrap with its document."""
    # A Python literal of ASCII JSON is one line that can end neither the string nor the MIME part.
    literal = repr(json.dumps(configuration, sort_keys=True))
    bootstrap = _bootstrap().replace(_PLACE, f"DOCUMENT = {literal}", 1)
    parts = _part("boothook.sh", _bare(_template("boothook.sh"))) + _part("bootstrap.py", bootstrap)
    return f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{_BOUNDARY}"\n\n{parts}--{_BOUNDARY}--\n'


def user_data(configuration: Mapping[str, Any]) -> bytes:
    """Return the same bytes for the same document: gzip'd, for the UserData of a launch.

    Raises:
        SettingsError: it is larger than EC2 accepts.
    """
    packed = gzip.compress(multipart(configuration).encode(), 9, mtime=0)
    if len(packed) > MAX_USER_DATA:
        remedy = 'shorten env, or replace long values with {"from_ssm": name} or {"from_secretsmanager": name}'
        raise SettingsError([f"option 'env': user data has {len(packed)} bytes, EC2 takes {MAX_USER_DATA}; {remedy}"])
    return packed


def failure(console: str) -> str | None:
    """Return `<step>: <cause>` from an instance's console output, or None where no boot failed."""
    for line in console.splitlines():
        _, found, rest = line.partition(FAILURE_PREFIX)
        if found:
            return rest.strip()
    return None


def _units(options: Ec2Options, limits: Limits) -> dict[str, str]:
    stop = math.ceil(limits.shutdown_timeout) + MARGIN
    life = math.ceil(limits.max_lifetime) + stop
    release = _template("release.service").format(
        app=options.app, user=options.user, stop_seconds=stop, life_seconds=life
    )
    return {
        "flame-release.service": release,
        "flame-hello.timer": _timer("flame-deadman.service", math.ceil(limits.boot_timeout)),
        "flame-age.timer": _timer("flame-lifetime.service", math.ceil(limits.boot_timeout) + life + stop),
        "poweroff.target.d/flame.conf": f"[Unit]\nJobTimeoutSec={stop + MARGIN}\nJobTimeoutAction=poweroff-force\n",
    }


def _timer(service: str, seconds: int) -> str:
    return f"[Unit]\nDefaultDependencies=no\n[Timer]\nOnBootSec={seconds}\nAccuracySec=1\nUnit={service}\n"


def _part(name: str, text: str) -> str:
    return (
        f'--{_BOUNDARY}\nContent-Type: text/cloud-boothook; charset="us-ascii"\n'
        f'Content-Disposition: attachment; filename="{name}"\n\n{text}\n'
    )


@functools.cache  # reading Python takes 20 ms, and every launch needs it
def _bootstrap() -> str:
    return _bare(_undocumented(_template("bootstrap.py")))


def _undocumented(source: str) -> str:
    """Return Python source with docstrings emptied."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            text = node.body[0]
            first, last = text.lineno - 1, text.end_lineno or text.lineno
            lines[first:last] = [" " * text.col_offset + '""'] + [""] * (last - first - 1)
    return "\n".join(lines)


def _bare(source: str) -> str:
    """Return a script without blank lines and comment lines, its first one apart: with the above a third less."""
    first, *lines = source.splitlines()
    return "\n".join([first, *(line for line in lines if line.strip() and not line.lstrip().startswith("#"))])


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("ascii")
