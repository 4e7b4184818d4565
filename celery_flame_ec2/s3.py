"""How is S3 asked for a lease or a board: once, and without waiting for it too long?"""

from __future__ import annotations

from typing import Any

from botocore.config import Config
from botocore.session import Session

from .sdk import lean_session


def open_client(
    region: str | None,
    endpoint: str | None,
    *,
    connect_timeout: float,
    read_timeout: float,
    core: Session | None = None,
) -> Any:
    """Return a client that asks once, with these bounds in seconds; nothing is asked yet. It is made by
    the SDK's session `core`, or a new one.

    Raises:
        BotoCoreError, ValueError: there can be none with this region or endpoint.
    """
    config = Config(
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent_extra="celery-flame-ec2",
    )
    make: Any = (core or lean_session()).create_client
    return make("s3", region_name=region, endpoint_url=endpoint, config=config)
