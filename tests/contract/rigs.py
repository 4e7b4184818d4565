"""Over what does a compute backend run in a test, and how is it made to fail?"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from celery_flame_ec2.backends.base import Backend
from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.backends.local import LocalBackend
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits
from celery_flame_ec2.simulate import Conditions
from celery_flame_ec2.testing.backend import MemoryBackend
from celery_flame_ec2.testing.clock import Clock
from celery_flame_ec2.testing.shortage import Shortage
from celery_flame_ec2.testing.world import World
from tests.servers import find_program

if TYPE_CHECKING:
    from tests.box.cloud import Cloud

POOLS = ("video", "audio")


class Rig(ABC):
    """A place where runners come from: any number of backends, for any number of owners, share it."""

    #: an id that this place could give, but did not
    stranger: str

    def __init__(self) -> None:
        self.owner = f"shop@{uuid.uuid4().hex[:8]}"
        self._made: list[Backend] = []
        self._skipped = 0.0

    def backend(self, owner: str = "") -> Backend:
        """Return a new backend, as another parent process would have it."""
        backend = self.make(owner or self.owner)
        self._made.append(backend)
        return backend

    def letter(self, *, pool: str = "video", warm: bool = False, owner: str = "") -> Parent:
        limits = Limits(max_lifetime=3600, shutdown_timeout=10)
        return Parent(
            owner=owner or self.owner, pool=pool, backend=self.settings(self.owner).backend, queues=(pool,),
            concurrency=1, limits=limits, warm=warm,
        )  # fmt: skip

    def later(self) -> None:
        """Let an hour pass for what is remembered of refusals."""
        self._skipped += 3600

    def ticks(self) -> float:
        return time.monotonic() + self._skipped

    def close(self) -> None:
        for backend in self._made:
            backend.terminate([runner.id for runner in backend.runners()])
            backend.close()

    @abstractmethod
    def settings(self, owner: str) -> Settings: ...

    @abstractmethod
    def make(self, owner: str) -> Backend: ...

    @abstractmethod
    def refusing(self) -> contextlib.AbstractContextManager[object]:
        """Let no launch succeed."""

    @abstractmethod
    def unreadable(self) -> contextlib.AbstractContextManager[object]:
        """Let no listing be complete."""


class Ec2Rig(Rig):
    stranger = "i-0123456789abcdef0"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__()
        self.cloud = cloud

    def settings(self, owner: str) -> Settings:
        options = Ec2Options(
            app="shop",
            s3_bundle_url=self.cloud.bundle_url,
            s3_service_endpoint=self.cloud.endpoint,
            region=self.cloud.region,
            ec2_service_endpoint=self.cloud.endpoint,
            image_id=self.cloud.image_id,
            subnet_id=self.cloud.subnet_ids,
            security_group_id=self.cloud.security_group_ids,
            instance_type=("t3.medium", "t3.micro"),
        )
        pools = tuple(PoolSettings(name=name, queues=(name,), ec2=options) for name in POOLS)
        return Settings(backend="ec2", owner=owner, pools=pools)

    def make(self, owner: str) -> Backend:
        return Ec2Backend(self.settings(owner), environ=self.cloud.environment(), ticks=self.ticks)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        self.cloud.fail("RunInstances", code="InsufficientInstanceCapacity", status=500, times=None)
        try:
            yield
        finally:
            self.cloud.heal()

    @contextlib.contextmanager
    def unreadable(self) -> Iterator[None]:
        self.cloud.fail("DescribeInstances", code="UnauthorizedOperation", status=403, times=None)
        try:
            yield
        finally:
            self.cloud.heal()


class LocalRig(Rig):
    stranger = "local-00000000"

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory, self._program = directory / "runners", directory / "child"
        self._program.symlink_to(find_program("sleep"))

    def settings(self, owner: str) -> Settings:
        return Settings(owner=owner, pools=tuple(PoolSettings(name=name, queues=(name,)) for name in POOLS))

    def make(self, owner: str) -> Backend:
        environ = {"PATH": os.environ["PATH"]}
        settings = self.settings(owner)
        command = [str(self._program), "600"]
        return LocalBackend(settings, command=command, directory=self._directory, environ=environ)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        away = self._program.rename(self._program.with_suffix(".away"))
        try:
            yield
        finally:
            away.rename(self._program)

    @contextlib.contextmanager
    def unreadable(self) -> Iterator[None]:
        (owned,) = self._directory.iterdir()
        path = owned / "local-half-written.json"
        with path.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # a runner that lives, and a record that nobody can read
            file.write(b"{")
            file.flush()
            yield
        path.unlink()


class MemoryRig(Rig):
    stranger = "i-ffffffff"

    def __init__(self) -> None:
        super().__init__()
        self._world = World(Clock(time.time()), Conditions(), seed=0)

    def settings(self, owner: str) -> Settings:
        return Settings(owner=owner, pools=tuple(PoolSettings(name=name, queues=(name,)) for name in POOLS))

    def make(self, owner: str) -> Backend:
        return MemoryBackend(self.settings(owner), self._world)

    def later(self) -> None:
        self._world.clock.now += 3600

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        with Shortage(code="InsufficientInstanceCapacity") as shortage:
            self._world.shortages.append(shortage)
            yield

    @contextlib.contextmanager
    def unreadable(self) -> Iterator[None]:
        self._world.unlistable = "ec2:DescribeInstances: UnauthorizedOperation"
        yield
        self._world.unlistable = ""
