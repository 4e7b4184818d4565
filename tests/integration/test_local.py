"""Can runners that are processes of this machine be found, adopted and ended, whatever happens to their parent?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_flame_ec2.backends.local import LocalBackend
from celery_flame_ec2.config import read_settings
from celery_flame_ec2.parent import Parent
from tests.waiting import wait_until

LETTER = Parent(owner="test", pool="pool", backend="local", queues=("celery",), concurrency=1)


def opened(directory: Path, *command: str, env: dict[str, object] | None = None) -> LocalBackend:
    conf = {"flame_owner": "test", "flame_pools": {"pool": {"queues": ["celery"], "env": env or {}}}}
    settings = read_settings(conf, app_name="test", broker_urls=("redis://127.0.0.1/0",), environ={})
    return LocalBackend(settings, command=command, directory=directory, environ={"PATH": os.environ["PATH"]})


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[LocalBackend]:
    """A backend whose runners sleep; all are ended after the test."""
    backend = opened(tmp_path, "sleep", "300")
    yield backend
    backend.terminate([runner.id for runner in backend.runners()])


def test_a_fork_in_the_middle_of_a_launch_neither_holds_it_up_nor_keeps_the_runner_alive(tmp_path: Path) -> None:
    # A worker with --autoscale forks on its main thread whenever it likes, also while the service launches.
    backend = opened(tmp_path, "true")
    launched = threading.Event()

    def launch() -> None:
        for _ in range(30):
            backend.launch(LETTER, 1)
        launched.set()

    threading.Thread(target=launch, daemon=True).start()
    forked = []
    try:
        for _ in range(300):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            forked.append(pid)
        wait_until(launched.is_set, what="all launches returning", timeout=10)
        wait_until(lambda: not backend.runners(), what="all runners gone", timeout=10)
    finally:
        for pid in forked:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
