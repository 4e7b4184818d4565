"""How far is a release's process shut in? Pure: which directives of systemd its unit has, and with what values."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .options import Check, flag, one_of, shown, suggestion, text

#: What the unit says where `sandbox` says nothing else: what a Celery worker, its libraries and the programs that its
#: tasks start can do with. docs/guarantees.md says why what is not here is not.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "CapabilityBoundingSet": (),
        "KeyringMode": "private",
        "LockPersonality": True,
        "NoNewPrivileges": True,
        "PrivateMounts": True,
        "PrivateTmp": True,
        "ProtectClock": True,
        "ProtectControlGroups": True,
        "ProtectHome": True,
        "ProtectHostname": True,
        "ProtectKernelLogs": True,
        "ProtectKernelModules": True,
        "ProtectKernelTunables": True,
        "ProtectProc": "invisible",
        "ProtectSystem": "strict",
        "RemoveIPC": True,
        "RestrictAddressFamilies": ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"),
        "RestrictNamespaces": True,
        "RestrictRealtime": True,
        "RestrictSUIDSGID": True,
        "SystemCallArchitectures": ("native",),
        "SystemCallErrorNumber": "EPERM",
        "SystemCallFilter": ("@system-service", "~@privileged"),
        "UMask": "0077",
    }
)
EXPECTED = "a dict of systemd's sandboxing directives by name"

_GROUPS = (
    "aio basic-io chown clock cpu-emulation debug default file-system io-event ipc keyring known memlock module mount"
    " network-io obsolete pkey privileged process raw-io reboot resources sandbox setuid signal swap sync"
    " system-service timer"
).replace(" ", "|")
_FAMILIES = "UNIX|INET6?|NETLINK|PACKET|VSOCK|ALG|CAN|BLUETOOTH|KEY|RDS|TIPC|XDP|SMC|IB|QIPCRTR"


def _list(pattern: str, expected: str, *, empty: bool = False) -> Check:
    """Accept a list of words that each match: none can end a line, or be a specifier, a quote or a variable."""
    compiled = re.compile(pattern)

    def check(value: Any) -> tuple[str, ...]:
        words = tuple(value) if isinstance(value, (list, tuple)) else ()
        good = all(isinstance(word, str) and compiled.fullmatch(word) for word in words)
        if not good or not isinstance(value, (list, tuple)) or not (words or empty):
            raise ValueError(f"a list of {expected}")
        return words

    return check


def _addresses(value: Any) -> Any:
    expected = "addresses and networks such as '169.254.169.254' or '10.0.0.0/8', or 'any', 'localhost'"
    words = _list(r"[0-9a-fA-F:./]+|any|localhost|link-local|multicast", expected)(value)
    for word in words:
        try:
            word in ("any", "localhost", "link-local", "multicast") or ipaddress.ip_network(word)
        except ValueError as exc:
            raise ValueError(f"a list of {expected} ({exc})") from exc
    return words


def _or_flag(check_other: Check) -> Check:
    """Accept True, or what `check_other` accepts."""

    def check(value: Any) -> Any:
        if value is True:
            return value
        try:
            return check_other(value)
        except ValueError as exc:
            raise ValueError(f"True, {exc}") from exc

    return check


_capabilities = _list(r"CAP_[A-Z_]+", "capabilities such as 'CAP_NET_ADMIN'", empty=True)
_paths = _list(
    r"(/(?!\.\.?(/|$))[A-Za-z0-9_.@:=,+-]+)+", "absolute paths of letters, digits and _ . @ : = , + -, without . and .."
)
#: Every directive that `sandbox` may name: how its value is checked. Each may be False: then the unit has it not.
DIRECTIVES: Mapping[str, Check] = MappingProxyType(
    {
        **{name: flag for name, value in DEFAULTS.items() if value is True},
        "AmbientCapabilities": _capabilities,
        "CapabilityBoundingSet": _capabilities,
        "DeviceAllow": _list(
            r"(/dev(/[A-Za-z0-9_.:-]+)+|(char|block)-[A-Za-z0-9_*-]+)( r?w?m?)?", "devices such as '/dev/kvm rw'"
        ),
        "DevicePolicy": one_of("auto", "closed", "strict"),
        "ExecPaths": _paths,
        "IPAddressAllow": _addresses,
        "IPAddressDeny": _addresses,
        "InaccessiblePaths": _paths,
        "KeyringMode": one_of("private", "shared", "inherit"),
        "MemoryDenyWriteExecute": flag,
        "NoExecPaths": _paths,
        "PrivateDevices": flag,
        "PrivateIPC": flag,
        "PrivateUsers": flag,
        "ProcSubset": one_of("all", "pid"),
        "ProtectHome": _or_flag(one_of("read-only", "tmpfs")),
        "ProtectProc": one_of("invisible", "noaccess", "ptraceable", "default"),
        "ProtectSystem": _or_flag(one_of("strict", "full")),
        "ReadOnlyPaths": _paths,
        "ReadWritePaths": _paths,
        "RestrictAddressFamilies": _list(f"~?AF_({_FAMILIES})|none", "address families such as 'AF_PACKET', or 'none'"),
        "RestrictNamespaces": _or_flag(_list(r"~?(cgroup|ipc|net|mnt|pid|user|uts)", "kinds such as 'user'")),
        "SupplementaryGroups": _list(r"[a-z_][a-z0-9_-]{0,30}", "groups of the image such as 'video'"),
        "SystemCallArchitectures": _list(r"native|x86|x86-64|x32|arm|arm64", "architectures such as 'native', 'x86'"),
        "SystemCallErrorNumber": text(r"E[A-Z0-9]{2,20}", "an error such as 'EPERM'"),
        "SystemCallFilter": _list(f"~?(@({_GROUPS})|[a-z][a-z0-9_]*)", "system calls and groups such as '@mount'"),
        "UMask": text("0?[0-7]{3}", "an octal text such as '0077'"),
    }
)


def sandbox(value: Any) -> dict[str, Any]:
    """Check what a user wants of the sandbox other than `DEFAULTS`."""
    if not isinstance(value, Mapping):
        raise ValueError(EXPECTED)
    return {_known(name): _checked(name, wanted) for name, wanted in value.items()}


def lines(wanted: Mapping[str, Any]) -> str:
    """Return the lines of the unit: `DEFAULTS` with what the user wants in their place."""
    found = sorted({**DEFAULTS, **wanted}.items())
    return "\n".join(f"{name}={word}" for name, value in found for word in _words(value))


def _known(name: Any) -> str:
    if name not in DIRECTIVES:
        raise ValueError(f"{EXPECTED} (not {shown(name)}{suggestion(name, DIRECTIVES)})")
    return str(name)


def _checked(name: str, value: Any) -> Any:
    if value is False:
        return value
    try:
        return DIRECTIVES[name](value)
    except ValueError as exc:
        words = str(exc) if DIRECTIVES[name] is flag else f"{exc}, or False"
        raise ValueError(f"{EXPECTED}, and {name!r} in it must be {words} (not {shown(value)})") from exc


def _words(value: Any) -> tuple[str, ...]:
    """Return the values of a directive, each for a line of its own: so a `~` is of one of them alone."""
    if isinstance(value, bool):
        return ("yes",) if value else ()
    return (value,) if isinstance(value, str) else value or ("",)
