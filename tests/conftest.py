"""What may a test see of the machine it runs on?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.servers import ServerMissing

#: no request leaves this machine: an AWS client without an explicit endpoint meets a closed port
AWS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def pytest_configure(config: pytest.Config) -> None:
    """Scrub the environment before any test module is imported."""
    for name in list(os.environ):
        ours = name.startswith(("FLAME_", "CELERY_", "AWS_")) or name in {"RELEASE_NAME", "C_FAKEFORK"}
        if ours and name != "FLAME_BOX_CACHE":
            del os.environ[name]
    os.environ.update(AWS)


@contextlib.contextmanager
def servers_or_skip() -> Iterator[None]:
    """Skip the test where a server it needs is not installed; in CI that is a failure."""
    try:
        yield
    except ServerMissing as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{exc}: apt-get install redis-server rabbitmq-server chromium prometheus")
