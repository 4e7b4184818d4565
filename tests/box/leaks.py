"""Where on a runner, and in what a parent writes, is a secret to be found that was planted?"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tests.box.box import Box

NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--")
NEEDLES = "/tmp/needles"
#: Prints what is to be searched, as who may see it: root what is written down, any other user what he can read.
PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "journal": ((), "journalctl --all --no-pager --output export | grep --text --quiet --fixed-strings -f {needles}"),
    "command lines": ((), "cat /proc/[0-9]*/cmdline | grep --text --quiet --fixed-strings -f {needles}"),
    "environments others may read": (
        NOBODY, "cat /proc/[0-9]*/environ 2>/dev/null | grep --text --quiet --fixed-strings -f {needles}"
    ),
    "units": (
        NOBODY, "{{ systemctl show '*'; systemctl cat 'flame*'; }} | grep --text --quiet --fixed-strings -f {needles}"
    ),
    "files others may read": (NOBODY, "{grep} | grep --invert-match --line-regexp {needles} | grep ."),
}  # fmt: skip
#: Every file with a needle in it; not what the kernel makes up, and not what was there before the boot.
GREP = (
    "find / \\( -path /proc -o -path /sys \\) -prune -o -type f -newerct @{since}"
    " -exec grep --files-with-matches --text --fixed-strings --no-messages -f {needles} {{}} + 2>/dev/null"
)
#: What is packed in base64, as user data is in a request.
PACKED = re.compile(r"H4sI[A-Za-z0-9+/]{40,}={0,2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Needle:
    """A secret, and all texts it would be found as: itself, and what base64 makes of it wherever it begins."""

    text: str = field(default_factory=lambda: f"hunted{secrets.token_hex(12)}")

    @property
    def forms(self) -> tuple[str, ...]:
        raw = self.text.encode()
        shifted = (base64.b64encode(b"x" * skip + raw).decode() for skip in range(3))
        return (self.text, *(form[4 * (skip > 0) : -4] for skip, form in enumerate(shifted)))

    def is_in(self, text: str) -> bool:
        """Tell whether it is in a text, or in what is packed there."""
        return any(form in part for part in (text, *_unpacked(text)) for form in self.forms)


def found_in(texts: Mapping[str, str], needles: Mapping[str, Needle]) -> set[tuple[str, str]]:
    """Return which needle, by name, is in which text."""
    return {(name, place) for place, text in texts.items() for name, needle in needles.items() if needle.is_in(text)}


def on_instance(box: Box, instance: str, needle: Needle) -> set[str]:
    """Return where on a runner a needle is to be found by who should not: in writing, or by another user."""
    _hide(box, instance, needle.forms)
    found, grep = set(), _grep(box, instance)
    for place, (user, script) in PLACES.items():
        command = script.format(needles=NEEDLES, grep=grep)
        if box.run(instance, *user, "sh", "-c", command).returncode == 0:
            found.add(place)
    return found


def files(box: Box, instance: str, needle: Needle) -> dict[str, str]:
    """Return every file that holds a needle, with its mode and owner."""
    _hide(box, instance, needle.forms)
    listed = box.run(instance, "sh", "-c", _grep(box, instance)).stdout.splitlines()
    paths = sorted({*listed} - {NEEDLES})
    return {path: box.run(instance, "stat", "--format=%a %U", path).stdout.strip() for path in paths}


def _grep(box: Box, instance: str) -> str:
    return GREP.format(needles=NEEDLES, since=box.instance(instance).launched)


def _hide(box: Box, instance: str, forms: Iterable[str]) -> None:
    """Leave what is looked for where only grep, which reads it as nobody, finds it."""
    packed = base64.b64encode("\n".join(forms).encode()).decode()
    script = f"umask 077; echo {packed} | base64 --decode >{NEEDLES}; chown nobody {NEEDLES}"
    done = box.run(instance, "sh", "-c", script)
    assert done.returncode == 0, done.stderr


def _unpacked(text: str) -> Iterable[str]:
    for packed in PACKED.findall(text):
        try:
            yield gzip.decompress(base64.b64decode(packed)).decode(errors="replace")
        except (OSError, EOFError, binascii.Error):  # it only looked so
            continue
