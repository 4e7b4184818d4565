#!/usr/bin/env python3
"""Run what lies around this file: see `usage`. Standard library only, Python 3.9 or newer."""

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import site
import sys
import types
from pathlib import Path

USAGE = """\
usage: {0} start [option ...]    run the worker of a FLAME child
       {0} status                tell what of this release runs here; 0, or 3 where nothing does
       {0} stop                  have it finish its tasks, and wait until it ended
       {0} celery [word ...]     run any command of Celery
"""
NOT_RUNNING = 3
#: What machines are called that can run each other's programs.
SAME = {"arm64": "aarch64", "amd64": "x86_64"}


def main() -> None:
    word, words = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    if word == "status" and not words:
        sys.exit(status())
    if word == "stop" and not words:
        sys.exit(stop())
    if word not in ("start", "celery"):
        sys.stderr.write(USAGE.format(sys.argv[0]))
        sys.exit(2)
    root = Path(__file__).resolve().parent.parent
    manifest = json.loads((root / "release.json").read_text(encoding="utf-8"))
    need_machine(manifest["platform"])
    need_python(manifest["python"])
    if word == "start":
        words = ["flame", "child", *words]
    sys.argv[1:] = ["-A", manifest["celery_app"], *words]
    see_only(root)
    with Path(__file__).open("rb"):  # by this `status` knows the process, whatever that calls itself
        run_celery()


def run_celery() -> None:
    """Run the command that sys.argv holds, as `celery` does."""
    from celery import maybe_patch_concurrency

    if "multi" not in sys.argv:
        maybe_patch_concurrency()
    gc.disable()  # nothing that is imported is garbage
    from celery.bin.celery import main as celery

    gc.freeze()  # what no collection touches, a worker shares with its pool's processes
    gc.enable()
    sys.exit(celery())


def need_machine(platform: str) -> None:
    """Go on where the release's compiled parts can run."""
    built_for, here = platform.partition("-")[0], os.uname().machine
    if SAME.get(built_for, built_for) != SAME.get(here, here):
        sys.exit(
            f"{sys.argv[0]}: this release is built for {built_for}, and this machine is {here}; "
            f"launch instances of the other architecture, or build the release with --platform {here}"
        )


def need_python(built_for: str) -> None:
    """Go on as the Python the release was built for, or say that there is none."""
    minor = ".".join(built_for.split(".")[:2])
    own = "{}.{}".format(*sys.version_info)
    if own == minor:
        return
    other = shutil.which(f"python{minor}")
    if other and Path(other).resolve() != Path(sys.executable).resolve():
        os.execv(other, [other, *sys.argv])  # noqa: S606 - no shell is what we want
    sys.exit(
        f"{sys.argv[0]}: this release is built for Python {minor}, and {sys.executable} is Python {own}; "
        f"install python{minor} here, or build the release with --python {own}"
    )


def see_only(root: Path) -> None:
    """Import from the release and the standard library; what else the machine has installed stays out."""
    lib = root / "lib"
    rest = [path for path in sys.path[1:] if Path(path).name not in {"site-packages", "dist-packages"}]
    sys.path[:] = [str(root / "app"), str(lib), *rest]
    site.addsitedir(str(lib))
    if not (lib / "click_repl").is_dir():
        sys.modules["click_repl"] = Promptless("click_repl")


class Promptless(types.ModuleType):
    """Stands for click_repl, which Celery imports at every start for the prompt of `celery amqp`.

    The real one is two thirds of a small release and takes more than half of the time until Celery is imported.
    """

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def status() -> int:
    """Print a line for each worker of this release."""
    running = workers()
    for pid in running:
        print(described(pid))
    if not running:
        print("not running" if os.geteuid() == 0 else "nothing runs that this user may see; root may see all")
    return 0 if running else NOT_RUNNING


def stop() -> int:
    """Have every worker drain, as on any SIGTERM; return when all are over."""
    asked = []
    for pid in workers():
        with contextlib.suppress(ProcessLookupError):  # it is over
            asked.append(os.pidfd_open(pid))
            signal.pidfd_send_signal(asked[-1], signal.SIGTERM)
            print(f"asked to drain and end: pid {pid}", flush=True)
    for over in asked:
        select.select([over], [], [])
    return 0 if asked else status()


def workers() -> "list[int]":
    """Return the processes that this file started, without those that they started themselves."""
    own = Path(__file__).resolve()
    pids = {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal() and own in opened(entry)}
    return sorted(pid for pid in pids if parent_of(pid) not in pids)


def opened(process: Path) -> "set[Path]":
    try:
        return {file.readlink() for file in (process / "fd").iterdir()}
    except OSError:  # it is over, or another user's
        return set()


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    return 0


def described(pid: int) -> str:
    """Return what a worker says of itself in the file that it says hello with."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        hello = next((each[17:] for each in variables if each.startswith(b"FLAME_HELLO_FILE=")), None)
        if hello is None:
            return f"running: pid {pid}"
        said = json.loads(Path(os.fsdecode(hello)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"starting: pid {pid}"
    why = f" ({said['reason']})" if said["reason"] else ""
    return f"{said['state']}{why}: pid {pid}, worker {said['worker']}"


if __name__ == "__main__":
    main()
