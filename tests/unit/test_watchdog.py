"""The worker's signs of life: what systemd is told, how often, and what happens where it does not listen."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_flame_ec2.parent import Parent
from celery_flame_ec2.watchdog import PATIENCE, PULSE, Watchdog, open_watchdog


def letter(backend: str = "ec2") -> Parent:
    return Parent(owner="o", pool="p", backend=backend, queues=("q",), concurrency=1)


@pytest.fixture(params=["a path", "an abstract name"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "a path" else f"@flame-{secrets.token_hex(8)}"


@pytest.fixture
def systemd(address: str) -> Iterator[socket.socket]:
    """What listens in systemd's place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0"))
        listening.setblocking(False)
        yield listening


def heard(systemd: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(systemd.recv(1024).decode())
        except BlockingIOError:
            return found


def fill(address: str) -> None:
    """Send until the one that listens can take no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, contextlib.suppress(BlockingIOError):
        filler.setblocking(False)
        while True:
            filler.sendto(b"x", address.replace("@", "\0"))


def test_each_sign_says_after_which_silence_to_kill(systemd: socket.socket, address: str) -> None:
    Watchdog(address).pulse()
    assert heard(systemd) == [f"WATCHDOG=1\nWATCHDOG_USEC={int(PATIENCE * 1e6)}"]


def test_a_sign_is_given_now_and_again(systemd: socket.socket, address: str) -> None:
    moments = [0.0, PULSE - 1, PULSE, PULSE + 1, 2 * PULSE]
    watchdog = Watchdog(address, clock=iter(moments).__next__)
    for _ in moments:
        watchdog.pulse()
    assert len(heard(systemd)) == 3
    assert PULSE < PATIENCE / 10


def test_where_nobody_listens_it_goes_on_and_says_so_once(
    address: str, caplog: pytest.LogCaptureFixture, systemd: socket.socket
) -> None:
    gone, back = Watchdog("/nowhere/notify"), Watchdog(address)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            gone.pulse()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    back.pulse()
    assert heard(systemd)


def test_a_sign_that_was_not_taken_is_given_again_at_once(systemd: socket.socket, address: str) -> None:
    watchdog = Watchdog(address)
    fill(address)
    watchdog.pulse()
    assert "WATCHDOG" not in "".join(heard(systemd))
    watchdog.pulse()
    assert "WATCHDOG" in "".join(heard(systemd))


def test_what_a_task_starts_does_not_find_the_address() -> None:
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "HOME": "/"}
    assert open_watchdog(letter(), environ) is not None
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:9999"}])
def test_without_an_address_there_is_no_watchdog(environ: dict[str, str]) -> None:
    assert open_watchdog(letter(), environ) is None


def test_a_local_runner_does_not_speak_for_the_unit_of_its_parent() -> None:
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify"}
    assert open_watchdog(letter("local"), environ) is None
    assert environ == {"NOTIFY_SOCKET": "/run/systemd/notify"}
