"""What becomes of a launch in memory whose answer gets lost?"""

from __future__ import annotations

import pytest

from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.errors import LaunchError, LaunchUnclear
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.simulate import Conditions
from celery_flame_ec2.testing.backend import MemoryBackend
from celery_flame_ec2.testing.clock import Clock
from celery_flame_ec2.testing.shortage import Shortage
from celery_flame_ec2.testing.world import World

SETTINGS = Settings(owner="shop@redis/0", pools=(PoolSettings(name="video", queues=("video",)),))
LETTER = Parent(owner="shop@redis/0", pool="video", backend="local", queues=("video",), concurrency=1)


@pytest.fixture
def world() -> World:
    return World(Clock(), Conditions(), seed=0)


@pytest.fixture
def backend(world: World) -> MemoryBackend:
    return MemoryBackend(SETTINGS, world)


def unclear(world: World, backend: MemoryBackend, shortage: Shortage) -> str:
    """Launch three while this holds, and return the token of the launch that was not answered."""
    world.shortages.append(shortage)
    with pytest.raises(LaunchUnclear) as failure:
        backend.launch(LETTER, 3)
    (token,) = failure.value.tokens
    return token


def test_asked_again_it_gives_the_runners_that_came_of_it_and_no_more(world: World, backend: MemoryBackend) -> None:
    token = unclear(world, backend, Shortage(code="RequestTimeout", unanswered=True, times=2))
    with pytest.raises(LaunchUnclear):
        backend.ask_again(token)
    assert backend.ask_again(token) == backend.runners()
    assert len(backend.runners()) == 3
    assert backend.ask_again(token) is None


def test_one_that_never_arrived_is_carried_out_when_it_is_asked_for_again(world: World, backend: MemoryBackend) -> None:
    token = unclear(world, backend, Shortage(code="InternalError", times=1))
    assert backend.runners() == ()
    assert len(backend.ask_again(token) or ()) == 3


def test_asked_again_it_may_be_refused_for_good(world: World, backend: MemoryBackend) -> None:
    token = unclear(world, backend, Shortage(code="InternalError", times=1))
    world.shortages.append(Shortage(code="UnauthorizedOperation"))
    with pytest.raises(LaunchError, match="UnauthorizedOperation"):
        backend.ask_again(token)
    assert backend.ask_again(token) is None
