"""How is S3 asked for a lease or a board: once, and without waiting for it too long?"""

from __future__ import annotations

from typing import Any

import boto3.session
from botocore.config import Config
from botocore.session import Session


def open_client(
    region: str | None,
    endpoint: str | None,
    *,
    connect_timeout: float,
    read_timeout: float,
    core: Session | None = None,
) -> Any:
    """Return a client that asks once, with these bounds in seconds; nothing is asked yet. `core` is botocore's part.

    Raises:
        BotoCoreError, ValueError: there can be none with this region or endpoint.
    """
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent_extra="celery-flame-ec2",
    )
    make: Any = boto3.session.Session(botocore_session=core).client
    return make("s3", region_name=region, endpoint_url=endpoint, config=config)
