"""What of the sandbox a user may change, how, and what is refused with which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_flame_ec2.sandbox import DEFAULTS, DIRECTIVES, lines, sandbox

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5
)
GOOD: dict[str, Any] = {
    "DeviceAllow": ["/dev/kvm rw", "char-nvidia*"],
    "IPAddressDeny": ["169.254.169.254", "fd00:ec2::254"],
    "ReadWritePaths": ["/data", "/mnt/a-b_c.d"],
    "RestrictAddressFamilies": ["AF_UNIX", "AF_INET", "AF_PACKET"],
    "RestrictNamespaces": ["user", "mnt"],
    "SystemCallFilter": ["@system-service", "~@privileged", "chown"],
}


def found(**wanted: Any) -> list[str]:
    return lines(sandbox(wanted)).splitlines()


def test_without_a_wish_the_unit_says_the_defaults() -> None:
    assert "MemoryDenyWriteExecute=yes" not in found()
    assert {"NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "UMask=0077"} <= set(found())


def test_false_takes_a_directive_away_and_leaves_the_others() -> None:
    for name in DEFAULTS:
        rest = found(**{name: False})
        assert rest == [line for line in found() if line.partition("=")[0] != name]


def test_a_wish_stands_in_place_of_the_default() -> None:
    families = [line for line in found(**GOOD) if line.startswith("RestrictAddressFamilies")]
    assert families == [f"RestrictAddressFamilies=AF_{name}" for name in ("UNIX", "INET", "PACKET")]
    assert {"DeviceAllow=/dev/kvm rw", "ReadWritePaths=/data", "SystemCallFilter=~@privileged"} <= set(found(**GOOD))


def test_every_default_is_one_that_a_user_may_name_too() -> None:
    assert found(**{name: list(v) if isinstance(v, tuple) else v for name, v in DEFAULTS.items()}) == found()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("strict", "a dict of systemd's sandboxing directives by name"),
        ({"PrivatTmp": True}, "(not 'PrivatTmp'; did you mean 'PrivateTmp'?)"),
        ({"ExecStartPre": ["/bin/x"]}, "(not 'ExecStartPre'"),
        ({"PrivateTmp": "yes"}, "and 'PrivateTmp' in it must be True or False (not 'yes')"),
        ({"PrivateTmp": None}, "and 'PrivateTmp' in it must be True or False (not None)"),
        ({"ReadWritePaths": "/data"}, "'ReadWritePaths' in it must be a list of absolute paths"),
        ({"ReadWritePaths": []}, "'ReadWritePaths' in it must be a list of absolute paths"),
        ({"InaccessiblePaths": ["/var/../etc"]}, "without . and .."),
        ({"InaccessiblePaths": ["/etc/."]}, "without . and .."),
        ({"ReadWritePaths": ["data"]}, "or False (not ['data'])"),
        ({"ReadWritePaths": ["/data %H"]}, "or False (not ['/data %H'])"),
        ({"ReadWritePaths": ["/data\nExecStartPre=/x"]}, "a list of absolute paths"),
        ({"ProtectSystem": "mostly"}, "'ProtectSystem' in it must be True, one of 'strict', 'full', or False"),
        ({"RestrictAddressFamilies": ["AF_INTE"]}, "a list of address families such as 'AF_PACKET'"),
        ({"SystemCallFilter": ["@sytem-service"]}, "a list of system calls and groups"),
        ({"IPAddressDeny": ["10.0.0.1/8"]}, "10.0.0.1/8 has host bits set"),
        ({"UMask": "0088"}, "'UMask' in it must be an octal text such as '0077', or False"),
    ],
)
def test_what_systemd_would_not_understand_is_refused_with_name_and_value(wanted: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        sandbox(wanted)


@given(st.dictionaries(st.sampled_from(sorted(DIRECTIVES)) | st.text(), ANYTHING, max_size=3))
def test_no_value_reaches_the_unit_that_systemd_would_read_as_more_than_itself(wanted: dict[str, Any]) -> None:
    try:
        text = lines(sandbox(wanted))
    except ValueError:
        return
    for line in text.split("\n"):
        assert re.fullmatch(r"[A-Za-z]+=[A-Za-z0-9_.@:=,+~/* -]*", line)
        assert line.partition("=")[0] in DIRECTIVES


def test_the_table_in_the_documentation_names_every_directive_and_its_default() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "guarantees.md").read_text()
    section = page.partition("## The sandbox")[2].partition("\n## ")[0]
    rows = [re.findall(r"^\| (.*?) \| (.*?) \|", line) for line in section.splitlines() if line.startswith("| `")]
    told = {name: row[0][1] for row in rows for name in re.findall(r"`(\w+)`", row[0][0])}
    assert set(told) == set(DIRECTIVES)
    assert {name for name, default in told.items() if default != "not set"} == set(DEFAULTS)
    for name, value in DEFAULTS.items():
        words = " ".join(line.partition("=")[2] for line in lines({}).splitlines() if line.startswith(f"{name}="))
        assert told[name] == (f"`{words}`" if words else "none") if value is not True else "yes", name
