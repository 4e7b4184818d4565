"""How is AWS asked, and what becomes of its errors?"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BackendError
from ...forks import lock_against_forks
from .refusals import Refusal, refusal

if TYPE_CHECKING:
    from botocore.session import Session
    from mypy_boto3_ec2 import EC2Client

CONNECT_TIMEOUT = 3.0  #: seconds
READ_TIMEOUT = 15.0  #: seconds; a listing by tag of a large account takes half of it
LAUNCH_TIMEOUT = 20.0  #: seconds in which a launch must be answered
ATTEMPTS = 3


class Refused(BackendError):
    """Raised when AWS said no, or nothing; `refusal` is what that means."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(str(refusal))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a pool's instances live. `endpoint` is None for the region's own."""

    region: str
    endpoint: str | None = None


class Clients:
    """Connections to AWS, each made when it is first used: the SDK is slow to import and slow to start."""

    def __init__(
        self, *, launch_timeout: float = LAUNCH_TIMEOUT, read_timeout: float = READ_TIMEOUT, attempts: int = ATTEMPTS
    ) -> None:
        self._launch_timeout, self._read_timeout, self._attempts = launch_timeout, read_timeout, attempts
        self._session: Session | None = None
        # A worker forks pool processes while the service asks on its own thread. One forked in the middle of an import
        # would wait for ever at its own import of the same.
        self._loading = lock_against_forks()
        self._made: dict[tuple[str, Place], Any] = {}

    def region(self) -> str | None:
        """Return the region that environment or configuration files name."""
        region: str | None = self._opened().get_config_variable("region")
        return region

    def partition(self, region: str) -> str:
        """Return the partition that a region is in, such as "aws-cn"."""
        partition: str = self._opened().get_partition_for_region(region)
        return partition

    def launching(self, place: Place) -> EC2Client:
        """Return a client that sends each request once: EC2's capacity errors look to the SDK like server faults."""
        client: EC2Client = self._client("ec2", place, attempts=1, read_timeout=self._launch_timeout)
        return client

    def ec2(self, place: Place) -> EC2Client:
        """Return a client for what may be sent again: describing and terminating."""
        client: EC2Client = self._client("ec2", place, attempts=self._attempts, read_timeout=self._read_timeout)
        return client

    def ssm(self, place: Place) -> Any:
        """Return a client for parameters in the same region."""
        return self._client("ssm", Place(region=place.region), attempts=self._attempts, read_timeout=self._read_timeout)

    def s3(self, place: Place) -> Any:
        """Return a client for what is kept in S3."""
        return self.other("s3", place)

    def other(self, service: str, place: Place) -> Any:
        """Return a client of any other service, such as "sts", for what may be asked again."""
        return self._client(service, place, attempts=self._attempts, read_timeout=self._read_timeout)

    def renew(self) -> None:
        """Begin anew, with the credentials that are to be found now: the SDK reads files and environment once."""
        self.close()
        self._session = None

    def close(self) -> None:
        """Close every connection."""
        for client in self._made.values():
            client.close()
        self._made.clear()

    def _client(self, service: str, place: Place, *, attempts: int, read_timeout: float) -> Any:
        key = (f"{service} {attempts}", place)
        if key not in self._made:
            with self._loading:  # the SDK imports parts of itself for some services
                self._made[key] = self._make(service, place, attempts, read_timeout)
        return self._made[key]

    def _make(self, service: str, place: Place, attempts: int, read_timeout: float) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            retries={"total_max_attempts": attempts, "mode": "standard"},
            user_agent_extra="celery-flame-ec2",
        )
        make: Any = self._opened().create_client
        try:
            return make(service, region_name=place.region, endpoint_url=place.endpoint, config=config)
        except ValueError as exc:  # also how botocore refuses an endpoint or a region
            raise BackendError(f"no {service} client for region {place.region!r}: {exc}") from exc

    def _opened(self) -> Session:
        if self._session is None:
            with self._loading:
                from ...sdk import lean_session

            # At DEBUG it logs each request's body, and a launch's holds the values of `env`.
            logging.getLogger("botocore.endpoint").setLevel(logging.INFO)
            self._session = lean_session()
        return self._session


def sdk_errors() -> tuple[type[Exception], ...]:
    """Return what the SDK raises; an answer it cannot parse is not among its own errors."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return BotoCoreError, ClientError, ResponseParserError


@contextlib.contextmanager
def asking(action: str) -> Iterator[None]:
    """Turn what the SDK raises while it does `action` (such as "ec2:RunInstances") into one line of ours: Refused."""
    try:
        yield
    except sdk_errors() as exc:
        raise Refused(refusal(exc, action)) from exc
