"""What does systemd run on a runner, and when does it end it? Pure: settings in, units out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from importlib import resources

from .config import Ec2Options
from .runner import Limits
from .sandbox import lines

#: Seconds a later means of ending waits for the earlier one.
MARGIN = 30
#: Of a program that never says hello: its start is enough, and it may end well all the same, or at max_lifetime.
NO_HELLO = """\
ExecStartPost=+/bin/sh /run/flame/report begun
ExecStopPost=+/bin/sh /run/flame/report over
"""


def units(options: Ec2Options, limits: Limits) -> dict[str, str]:
    """Return the units that the bootstrap writes, by name."""
    stop = math.ceil(limits.shutdown_timeout) + MARGIN
    life = math.ceil(limits.max_lifetime) + stop
    return {
        "flame-release.service": _release(options, stop, life),
        "flame-hello.timer": _timer("flame-deadman.service", math.ceil(limits.boot_timeout)),
        "flame-age.timer": _timer("flame-lifetime.service", math.ceil(limits.boot_timeout) + life + stop),
        "poweroff.target.d/flame.conf": f"[Unit]\nJobTimeoutSec={stop + MARGIN}\nJobTimeoutAction=poweroff-force\n",
    }


def program(options: Ec2Options) -> str:
    """Return the program that the release is started with: a path in the release, or an absolute one."""
    return _start(options)[0]


def paths(options: Ec2Options) -> list[str]:
    """Return what must be on the instance: where one is missing systemd starts nothing, not even the unit's report."""
    found = (value for name, value in options.sandbox.items() if name.endswith("Paths") and value)
    return sorted({path for value in found for path in value})


def command_line(words: Iterable[str]) -> str:
    """Return words as ExecStart= takes them, each as it is; the `:` before the first means that none is a variable.

    See "Command lines" in systemd.service(5), "Quoting" in systemd.syntax(7) and "Specifiers" in systemd.unit(5).
    """
    return ":" + " ".join(map(_quoted, words))


def _release(options: Ec2Options, stop: int, life: int) -> str:
    release = f"/srv/{options.app}/release"
    text = (resources.files(__package__) / "templates" / "release.service").read_text("ascii")
    return text.format(
        app=options.app,
        user=options.user,
        start=command_line(_in(release, _start(options))),
        hello="" if options.hello == "worker" else NO_HELLO,
        stop=f"ExecStop=-{command_line(_in(release, options.stop_command))}\n" if options.stop_command else "",
        stop_seconds=stop,
        # A worker ends itself at max_lifetime; a program is told by this alone.
        life_seconds=life if options.hello == "worker" else life - stop,
        sandbox=lines(options.sandbox),
    )


def _start(options: Ec2Options) -> tuple[str, ...]:
    return options.start_command or (f"bin/{options.app}", "start")


def _in(release: str, words: tuple[str, ...]) -> tuple[str, ...]:
    first, *rest = words
    return (first if first.startswith("/") else f"{release}/{first}", *rest)


def _quoted(word: str) -> str:
    escaped = re.sub(r'([\\"])', r"\\\1", word).replace("%", "%%")
    return '"' + re.sub(r"[\x01-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", escaped) + '"'


def _timer(service: str, seconds: int) -> str:
    return f"[Unit]\nDefaultDependencies=no\n[Timer]\nOnBootSec={seconds}\nAccuracySec=1\nUnit={service}\n"
