"""How do you watch instances boot? `python -m tests.box` opens a box and shows what happens in it until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from tests.box.box import Box
from tests.box.burst import CELERY, Burst, build_release
from tests.box.history import Transition
from tests.box.rootfs import BoxUnusable
from tests.servers import RedisServer, ServerMissing
from tests.workers import Program

TASKS = 100

#: what every guest says at boot and nobody asked
NOISE = ("[  OK  ]", "         ", "ci-info", "systemd 2", "Detected ")


class Screen:
    """Lines with the seconds since the start and the instance they are about."""

    def __init__(self) -> None:
        self._started = time.time()

    def transition(self, event: Transition) -> None:
        self.line(event.instance_id, f"=> {event.state} ({event.cause})", event.time)

    def console(self, instance_id: str, text: str) -> None:
        if text.strip() and not text.startswith(NOISE) and "ci-info:" not in text:
            self.line(instance_id, text, time.time())

    def line(self, who: str, text: str, when: float) -> None:
        print(f"{when - self._started:7.2f}  {who:20} {text}", flush=True)


def usage(burst: Burst) -> str:
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in burst.environ.items())
    flood = "from proj.tasks import nap; [nap.delay(0.5) for _ in range(100)]"
    return f"""
{exports}

The box is open, and `celery -A proj.app worker --autoscale=2,1` is at work. With the lines above, in another terminal:

    {sys.executable} -c {shlex.quote(flood)}
    {CELERY[0]} -m celery -A proj.app flame status

A first burst of {TASKS} tasks begins now. Ctrl-C closes the box.
"""


def watch() -> None:
    screen = Screen()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flame-box-example-")))
        print("building the example project's release ...", flush=True)
        bundle = build_release(directory / "proj.tar.gz")
        redis = stack.enter_context(RedisServer())
        box = stack.enter_context(Box(on_transition=screen.transition, on_line=screen.console))
        for name in box.removed:
            print(f"cleaned up after box {name}, which was killed")
        url = box.upload(bundle, "proj/1.tar.gz")
        burst = stack.enter_context(
            Burst(box, directory, broker=redis.url, results=redis.url, bundle_url=url, pool={"idle_shutdown_after": 10})
        )
        parent = burst.parent("worker", "--autoscale=2,1")
        print(usage(burst), flush=True)
        burst.flood(TASKS, 0.5)
        with contextlib.suppress(KeyboardInterrupt):
            follow(parent, screen)
        print("\nclosing: the parent stops, every guest's power is cut", flush=True)
    launched = len(box.instances())
    print(
        f"closed: {launched} instances were launched, at most {box.peak} at once; none is left, and no file of theirs"
    )


def follow(parent: Program, screen: Screen) -> NoReturn:
    """Show what the parent decides, for ever."""
    shown = 0
    while True:
        lines = [line for line in parent.output.splitlines() if "pool burst: " in line]
        for line in lines[shown:]:
            screen.line("parent", line.partition("pool burst: ")[2], time.time())
        shown = len(lines)
        time.sleep(0.2)


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # a profile of the user's own has no part in this
    try:
        watch()
    except (BoxUnusable, ServerMissing) as exc:
        print(f"The box cannot be opened: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
