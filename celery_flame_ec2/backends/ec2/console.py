"""What of a console is worth telling? Pure: what a machine printed in, its last lines out."""

from __future__ import annotations

import re

from ...boot import FAILURE_PREFIX

LAST_LINES = 30
#: Escape sequences, and the control characters that would let an instance write into a log what it likes.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: A machine that powers off prints dozens of these after the line that tells why.
_ROUTINE = re.compile(r"\s*\[ *OK *\]|\s{8,}(Starting|Stopping|Unmounting|Mounting|Deactivating)\b")


def last_lines(output: str, count: int = LAST_LINES) -> str:
    """Return the last lines that say something: no escape sequences, no blank lines, no routine of systemd's.

    The line that says why a boot failed is kept however much came after it.
    """
    lines = (_ESCAPES.sub("", line).rstrip() for line in re.split(r"\r\n|\n|\r", output))
    telling = [line for line in lines if line and not _ROUTINE.match(line)]
    first = len(telling) - count
    return "\n".join(line for at, line in enumerate(telling) if at >= first or FAILURE_PREFIX in line)
