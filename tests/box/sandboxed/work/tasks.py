"""What do tasks do, and what must they not be able to do?"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import resource
import socket
import sqlite3
import ssl
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .app import app

CLONE_NEWUSER = 0x10000000


@app.task
def do(name: str, *args: Any) -> str:
    """Do one of the things below; return "done", or what kept it from being done."""
    try:
        THINGS[name](*args)
    except Exception as exc:  # noqa: BLE001  whatever it is, it is the answer
        return f"{type(exc).__name__}: {exc}"
    return "done"


def write_files() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
    database = sqlite3.connect(Path.home() / f"{os.getpid()}.db")
    database.execute("create table t (x)")
    database.close()
    Path(os.environ["STATE_DIRECTORY"], "state").write_text("x")


def run_programs() -> None:
    with tempfile.TemporaryDirectory() as here:
        script = Path(here, "script")
        script.write_text("#!/bin/sh\nexec nice -n 5 sh -c 'ulimit -n 64 && cat /proc/meminfo | wc -l'\n")
        script.chmod(0o755)
        lines = subprocess.run([script], capture_output=True, text=True, check=True).stdout
    assert int(lines) > 10, lines


def tune_itself() -> None:
    os.nice(1)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit - 1, hard))


def share() -> None:
    with multiprocessing.Semaphore():
        shared = multiprocessing.Array("i", 10)
    assert len(shared) == 10
    left, right = socket.socketpair()
    left.close()
    right.close()


def fork() -> None:
    """Have processes do a part of the work: with billiard, as Celery's own may have children."""
    import billiard  # type: ignore[import-untyped]

    with billiard.Pool(2) as pool:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]


def call_back() -> None:
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    ctypes.CDLL(None).qsort(numbers, 3, ctypes.sizeof(ctypes.c_int), kind(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3]


def make_code() -> None:
    """Map memory that can be written and run, as what compiles at run time does."""
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def calculate() -> None:
    import numpy as np

    assert np.linalg.svd(np.eye(200))[1].sum() == 200


def look_up() -> None:
    assert socket.getaddrinfo("localhost", 80)
    assert socket.if_nameindex()


def talk_tls(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as tls:
        tls.sendall(b"PING\r\n")
        assert tls.recv(7) == b"+PONG\r\n"


def write_release() -> None:
    Path("/srv/proj/release/bin/proj").write_text("")


def write_elsewhere() -> None:
    Path("/var/tmp/../lib/other").write_text("")


def read_environment_file() -> None:
    Path("/run/flame/env").read_text()


def read_environment_of_others() -> None:
    Path("/proc/1/environ").read_bytes()


def see_others() -> None:
    owners = {path.stat().st_uid for path in Path("/proc").glob("[0-9]*")}
    assert owners - {os.getuid()}, "no process of anybody else"


def make_namespace() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) and ctypes.get_errno())
    assert os.waitpid(pid, 0)[1] == 0, "refused"


def become_root() -> None:
    os.setuid(0)


THINGS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        write_files, run_programs, tune_itself, share, fork, call_back, make_code, calculate, look_up, talk_tls,
        write_release, write_elsewhere, read_environment_file, read_environment_of_others, see_others, make_namespace,
        become_root,
    )
}  # fmt: skip
