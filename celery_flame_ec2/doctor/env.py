"""Which values of `env` look like secrets that are given plainly? Pure; no value is ever told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..finding import Finding, ok, warning

_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|_PWD$|(^|_)PASS(_|$)|SECRET|TOKEN|CREDENTIAL|API_?KEY|(^|_)KEY(_|$)", re.IGNORECASE
)
#: Names of what is about a secret, and is none: where it lies, how it is called, how long it holds.
_ABOUT = re.compile(r"_(FILE|PATH|DIR|NAME|ARN|TTL|TIMEOUT|EXPIRY|EXPIRES)$", re.IGNORECASE)
#: What is one under any name: a private key, a password in a connection string, tokens of GitHub and Slack.
_VALUE = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|(^|[\s;?&])(password|passwd|pwd)=[^\s;&]"
    r"|\bgh[pousr]_\w{30}|\bgithub_pat_\w{30}|\bxox[abeoprs]-\w",
    re.IGNORECASE,
)


def examine(env: Mapping[str, Any]) -> Finding:
    """Tell which of a pool's secrets anyone could read who may read user data."""
    plain = sorted(_plain_secrets(env))
    if not plain:
        return ok("env", f"{len(env)} variables, none looks like a secret given plainly")
    told = f"{', '.join(plain)}: given plainly, and every process on a runner can read user data"
    return warning("env", told, 'give {"from_ssm": name} or {"from_secretsmanager": name} as the value')


def _plain_secrets(env: Mapping[str, Any]) -> Iterator[str]:
    for name, value in env.items():
        if not isinstance(value, str) or not value:
            continue
        named = _SECRET.search(name) and not _ABOUT.search(name)
        if named or _VALUE.search(value) or _has_password(value):
            yield name


def _has_password(value: str) -> bool:
    if "://" not in value:
        return False
    try:
        return bool(urlsplit(value).password)
    except ValueError:  # no URL after all
        return False
