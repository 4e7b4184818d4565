"""Can runners that are processes of this machine be found, adopted and ended, whatever happens to their parent?"""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_flame_ec2.backends.local import LocalBackend
from celery_flame_ec2.config import read_settings
from celery_flame_ec2.errors import BackendError, LaunchError
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import RunnerState
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
        wait_until(launched.is_set, what="all launches returning")
        wait_until(lambda: not backend.runners(), what="all runners gone")
    finally:
        for pid in forked:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_another_parent_finds_the_runners_and_can_end_them(sleepers: LocalBackend, tmp_path: Path) -> None:
    launched = sleepers.launch(LETTER, 2)
    other = opened(tmp_path, "sleep", "300")
    assert set(other.runners()) == set(launched) == set(sleepers.runners())
    other.terminate([launched[0].id])
    wait_until(lambda: other.runners() == launched[1:], what="one runner being gone")
    wait_until(lambda: sleepers.runners() == launched[1:], what="its own parent seeing that too")


def test_a_runner_is_what_it_was_launched_as(tmp_path: Path) -> None:
    backend = opened(tmp_path, "sh", "-c", "env; ls -l /proc/$$/fd; exec sleep 300", env={"COLOUR": "$(red) 'é'\nb"})
    warm = dataclasses.replace(LETTER, warm=True)
    (runner,) = backend.launch(warm, 1)
    try:
        assert (runner.pool, runner.warm, runner.state) == ("pool", True, RunnerState.BOOTING)
        assert runner.deadline == pytest.approx(runner.launched_at + 86400 + 30)
        said = wait_until(lambda: backend.last_words(runner.id), what="its output")
        assert "COLOUR=$(red) 'é'\nb" in said
        assert f"FLAME_PARENT={warm.encode()}" in said
        assert f"FLAME_RUNNER_ID={runner.id}" in said
    finally:
        backend.terminate([runner.id])


def test_a_runner_lives_as_long_as_any_of_its_processes(tmp_path: Path) -> None:
    # A pool process goes on with its task when the worker's main process is killed; it is still the runner's.
    backend = opened(tmp_path, "sh", "-c", "sleep 300 & echo $!; wait")
    (runner,) = backend.launch(LETTER, 1)
    left = int(wait_until(lambda: backend.last_words(runner.id), what="the second process"))
    os.kill(os.getpgid(left), signal.SIGKILL)
    wait_until(lambda: not _runs(os.getpgid(left)), what="the main process gone")
    assert backend.runners() == (runner,)
    backend.terminate([runner.id])
    wait_until(lambda: not backend.runners(), what="the runner gone")
    assert not _runs(left)


def test_ending_what_is_gone_or_never_was_is_no_error(sleepers: LocalBackend) -> None:
    (runner,) = sleepers.launch(LETTER, 1)
    for _ in range(3):
        sleepers.terminate([runner.id, "local-00000000"])
    wait_until(lambda: not sleepers.runners(), what="the runner gone")
    sleepers.terminate([runner.id])


def test_a_runner_that_ended_leaves_its_last_words_and_no_process(tmp_path: Path) -> None:
    backend = opened(tmp_path, "sh", "-c", "echo begun; echo over >&2; exit 3")
    (runner,) = backend.launch(LETTER, 1)
    wait_until(lambda: not backend.runners(), what="the runner gone")
    assert backend.last_words(runner.id) == "begun\nover"
    assert not [child for child in _children(os.getpid()) if _state(child) == "Z"]


def test_nothing_of_it_can_be_read_by_other_users(sleepers: LocalBackend, tmp_path: Path) -> None:
    sleepers.launch(LETTER, 1)
    for path in (tmp_path / "test", *(tmp_path / "test").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_directory_that_others_can_write_to_is_refused(sleepers: LocalBackend, tmp_path: Path) -> None:
    sleepers.launch(LETTER, 1)
    for directory in (tmp_path, tmp_path / "test"):
        directory.chmod(0o777)
        _refused(tmp_path)
        directory.chmod(0o700)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(sleepers: LocalBackend, tmp_path: Path) -> None:
    sleepers.launch(LETTER, 1)
    for directory in (tmp_path, tmp_path / "test"):
        os.chown(directory, 12345, 12345)
        _refused(tmp_path)
        os.chown(directory, 0, 0)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "test").symlink_to(tmp_path / "elsewhere")
    _refused(tmp_path)


def test_a_command_that_does_not_exist_is_a_launch_error(tmp_path: Path) -> None:
    backend = opened(tmp_path, "/no/such/celery")
    with pytest.raises(LaunchError, match="/no/such/celery"):
        backend.launch(LETTER, 1)
    assert backend.runners() == ()
    assert not list((tmp_path / "test").glob("*.new"))


def test_what_cannot_be_read_is_unknown_and_not_nothing(sleepers: LocalBackend, tmp_path: Path) -> None:
    (runner,) = sleepers.launch(LETTER, 1)
    file = tmp_path / "test" / f"{runner.id}.json"
    written = file.read_text()
    file.write_text("{")
    with pytest.raises(BackendError, match=runner.id):
        sleepers.runners()
    file.write_text(written)


def test_a_secret_that_only_an_instance_can_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"\(PASSWORD\)"):
        opened(tmp_path, "true", env={"PASSWORD": {"from_ssm": "/proj/password"}}).launch(LETTER, 1)


def _refused(directory: Path) -> None:
    """Neither launched in, nor listed: a file somebody else put there could name any process as a runner."""
    backend = opened(directory, "true")
    with pytest.raises(LaunchError, match="must be a directory of this user"):
        backend.launch(LETTER, 1)
    with pytest.raises(BackendError, match="must be a directory of this user"):
        backend.runners()


def _runs(pid: int) -> bool:
    return _state(pid) not in {"", "Z"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
