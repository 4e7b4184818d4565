"""Where does the status page listen, and who can reach it there?"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

EXPECTED = "an address and a port such as '127.0.0.1:9809' or '[::1]:9809'; port 0 is any that is free"


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """A host, by name or by number, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine reaches it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and nothing else; of names only `localhost` is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def read_address(text: object) -> Address:
    """Read `host:port`.

    Raises:
        ValueError: it is none; says what was expected.
    """
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})", text) if isinstance(text, str) else None
    if match is None or int(match[2]) > 65535:
        raise ValueError(EXPECTED)
    host = match[1].strip("[]")
    if match[1].startswith("[") and not _is_ipv6(host):
        raise ValueError(EXPECTED)
    return Address(host=host, port=int(match[2]))


def host_of(header: str) -> str:
    """Return the host that a `Host` header names, without its port; empty where it names none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
