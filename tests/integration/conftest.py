"""Which servers are up while these tests run?"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from tests.conftest import servers_or_skip
from tests.nursery import Nursery
from tests.servers import MotoServer, RabbitServer, RedisServer, Server

S = TypeVar("S", bound=Server)


def serve(factory: Callable[[], S]) -> Iterator[S]:
    """Run a server for as long as the caller iterates: for the one that a test wants for itself."""
    with servers_or_skip():
        server = factory()
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    yield from serve(RedisServer)


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[RabbitServer]:
    yield from serve(RabbitServer)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[MotoServer]:
    yield from serve(MotoServer)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as made:
        yield made


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis."""
    redis_server.talk(b"FLUSHALL\r\n")
    return redis_server.url


@pytest.fixture
def rabbit_url(rabbit_server: RabbitServer) -> str:
    """A RabbitMQ whose queues are not flushed: name them with `unique_name`."""
    return rabbit_server.url


@pytest.fixture
def aws_url(moto_server: MotoServer) -> str:
    """The endpoint of an AWS without anything in it."""
    moto_server.reset()
    return moto_server.url


@pytest.fixture
def sqs_url(moto_server: MotoServer, aws_url: str) -> str:
    """A broker URL of that AWS."""
    return moto_server.sqs_broker_url


@pytest.fixture
def unique_name() -> Callable[[str], str]:
    """A name no other test has used."""
    return lambda stem: f"{stem}-{uuid.uuid4().hex[:8]}"
