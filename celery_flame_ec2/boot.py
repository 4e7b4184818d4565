"""What does an instance boot with? Pure: values in, user data out."""

from __future__ import annotations

import base64
import functools
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from .config import Ec2Options
from .edition import Edition
from .errors import SettingsError
from .parent import Parent
from .script import bare, bare_python
from .unit import paths, program, units

#: A boot that failed says so in one line of the console, `flame: boot failed: <step>: <cause>`, and powers off.
#: Steps: boothook, arm, template, metadata, credentials, fetch, unpack, release, environment, start.
FAILURE_PREFIX = "flame: boot failed: "
#: EC2's bound on user data in bytes, before base64.
MAX_USER_DATA = 16384

_BOUNDARY = "==flame=="
#: zlib's numbers for gzip's format, and for the memory with which our user data becomes smallest.
_GZIP, _MEMORY = 31, 6
_PLACE = 'DOCUMENT="{}"'


def document(letter: Parent, options: Ec2Options, edition: Edition | None = None) -> dict[str, Any]:
    """Return the bootstrap's whole configuration, JSON-able; with an `edition` no other one of the bundle is run."""
    edition = edition or Edition(url=options.s3_bundle_url or "")
    return {
        "app": options.app,
        "bundle": options.s3_bundle_url,
        "env": dict(options.env),
        "etag": edition.etag,
        "letter": json.loads(base64.b64decode(letter.encode())),  # unpacked it is half the size, and legible
        "metadata_token_url": options.instance_metadata_token_url,
        "metadata_url": options.instance_metadata_url,
        "paths": paths(options),
        "prepared_by_template": False,
        "program": program(options),
        "region": options.region,
        "s3_endpoint": options.s3_service_endpoint,
        "sha256": options.s3_bundle_sha256 or edition.sha256,
        "units": units(options, letter.limits),
        "user": options.user,
        "version": edition.version,
    }


def masked(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with every value of `env` replaced; names stay, and so do references to secrets."""
    env = {name: value if isinstance(value, dict) else "***" for name, value in configuration["env"].items()}
    return {**configuration, "env": env}


def multipart(configuration: Mapping[str, Any], theirs: str = "") -> str:
    """Return the user data as text: the boothook that arms the power-off, the bootstrap with its document, `theirs`.

    `theirs` is a launch template's own user data as `userdata.part` gives it. It stands last, so that whatever it
    does, the power-off is armed; the bootstrap arms its timers and goes on when cloud-init has run it.
    """
    # A Python literal of ASCII JSON is one line that can end neither the string nor the MIME part.
    literal = repr(json.dumps({**configuration, "prepared_by_template": bool(theirs)}, sort_keys=True))
    bootstrap = _bootstrap().replace(_PLACE, f"DOCUMENT={literal}", 1)
    parts = [_part("boothook.sh", bare(_template("boothook.sh"))), _part("bootstrap.py", bootstrap)]
    return _message([*parts, theirs] if theirs else parts)


def user_data(configuration: Mapping[str, Any], theirs: str = "") -> bytes:
    """Return the same bytes for the same document: gzip'd, for the UserData of a launch. `theirs` as for `multipart`.

    Raises:
        SettingsError: it is larger than EC2 accepts.
    """
    packed = _packed(multipart(configuration, theirs))
    if len(packed) > MAX_USER_DATA:
        raise SettingsError([_too_large(len(packed), len(_packed(multipart(configuration))))])
    return packed


def failure(console: str) -> str | None:
    """Return `<step>: <cause>` from an instance's console output, or None where no boot failed."""
    for line in console.splitlines():
        _, found, rest = line.partition(FAILURE_PREFIX)
        if found:
            return rest.strip()
    return None


def _packed(text: str) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP, _MEMORY)
    return packer.compress(text.encode()) + packer.flush()


def _too_large(whole: int, ours: int) -> str:
    sizes = f"user data has {whole} bytes, EC2 takes {MAX_USER_DATA}"
    if whole == ours or ours > MAX_USER_DATA:
        remedy = 'shorten env, or replace long values with {"from_ssm": name} or {"from_secretsmanager": name}'
        return f"option 'env': {sizes}; {remedy}"
    sizes += f" (packed: {ours} ours, {whole - ours} the launch template's own)"
    return f"option 'launch_template_id': {sizes}; move some of the latter into the image, or into a file it fetches"


def _message(parts: Sequence[str]) -> str:
    boundary = _BOUNDARY
    while any(f"--{boundary}" in part for part in parts):  # a template may hold anything, our own user data too
        boundary = f"={boundary}"
    text = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{boundary}"\n\n{text}--{boundary}--\n'


def _part(name: str, text: str) -> str:
    return (
        'Content-Type: text/cloud-boothook; charset="us-ascii"\n'
        f'Content-Disposition: attachment; filename="{name}"\n\n{text}'
    )


@functools.cache  # reading Python takes 20 ms, and every launch needs it
def _bootstrap() -> str:
    return bare_python(_template("bootstrap.py"))


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("ascii")
