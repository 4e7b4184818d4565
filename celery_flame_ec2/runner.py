"""What is known of one runner: an instance and the Celery worker on it?"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class RunnerState(enum.Enum):
    """Where a runner stands, as far as backend and presence tell."""

    BOOTING = "booting"
    UP = "up"
    CORDONED = "cordoned"
    ENDING = "ending"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When a runner must end. All times in seconds; None means never.

    `idle_shutdown_after` counts from the moment nothing is active and nothing is reserved.
    `boot_timeout` is the time from launch to the worker's hello.
    `shutdown_timeout` is what running tasks get to finish in once the drain began. `end_on_rebalance` is whether a
    spot instance ends when EC2 recommends it, before it gives notice.
    """

    idle_shutdown_after: float | None = 30.0
    boot_timeout: float = 120.0
    shutdown_timeout: float = 30.0
    max_lifetime: float = 86400.0
    single_use: bool = False
    end_on_rebalance: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """One request for at most `count` runners of a pool; the token makes it idempotent and is on each runner's tags."""

    token: str
    pool: str
    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Runner:
    """One runner. Times are seconds since the epoch, by the backend's clock.

    A compute backend lists a runner as BOOTING (it cannot know more), or ENDING once its machine shuts down;
    presence tells the rest. `powered_off` is a machine that exists but does not run: it will never end itself;
    `shutting_down` one that is about to be gone, whoever began it. `launch` is the token of the launch it came of,
    `release` what it runs, as its tag says. One that `speaks` not runs a program that never says hello.
    """

    id: str
    pool: str
    launched_at: float
    state: RunnerState = RunnerState.BOOTING
    deadline: float | None = None
    warm: bool = False
    powered_off: bool = False
    shutting_down: bool = False
    active: int = 0
    instance_type: str | None = None
    market: str | None = None
    zone: str | None = None
    launch: str = ""
    release: str = ""
    speaks: bool = True
