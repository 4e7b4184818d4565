"""Which user data of a launch template's own can go to cloud-init beside ours, and in what form? Pure."""

from __future__ import annotations

import base64
import gzip
import zlib

#: What cloud-init knows a text by, as it looks for it: without leading blanks, in lower case
#: (INCLUSION_TYPES_MAP in cloudinit/handlers/__init__.py). Longer names begin with one of these.
STARTS = (b"#!", b"#cloud-config", b"#cloud-boothook", b"#include", b"#part-handler", b"## template: jinja")
#: What else is found in user data, by its start.
FOREIGN = {
    b"<powershell": "it is a script for Windows",
    b"<script": "it is a script for Windows",
    b"[": "it is TOML, as for Bottlerocket",
}
#: What names the part on the instance, and so in cloud-init's messages.
NAME = "launch-template"

_GZIP = b"\x1f\x8b"
_MIME = b"mime-version:"
_MIME_WITHIN = 4096  #: bytes in which cloud-init looks for it


def part(raw: bytes) -> str:
    """Return a launch template's user data as one part of a MIME multipart, headers first; "" where it is empty.

    A multipart goes in whole, as a part that has parts; of anything else cloud-init finds the kind by its start.

    Raises:
        ValueError: cloud-init cannot run it; says what it is, with no word out of it.
    """
    data = _unpacked(raw)
    start = data.lstrip().lower()
    if not start:
        return ""
    if start.startswith(STARTS):
        return _plain(data)
    if _MIME in data[:_MIME_WITHIN].lower():
        return _whole(data)
    known = (words for sign, words in FOREIGN.items() if start.startswith(sign))
    raise ValueError(next(known, "it begins with nothing that cloud-init knows"))


def _unpacked(raw: bytes) -> bytes:
    if not raw.startswith(_GZIP):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as exc:
        raise ValueError(f"it looks like gzip and cannot be unpacked ({exc})") from exc


def _whole(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError as exc:
        raise ValueError("it is a MIME multipart that is not UTF-8") from exc


def _plain(data: bytes) -> str:
    """Wrap a text; in base64 where the way through a mail parser could change a byte of it."""
    safe = data.isascii() and b"\r" not in data
    encoding = "" if safe else "Content-Transfer-Encoding: base64\n"
    text = data.decode() if safe else base64.encodebytes(data).decode()
    return f'Content-Type: text/plain\n{encoding}Content-Disposition: attachment; filename="{NAME}"\n\n{text}'
