"""Any environment, from the settings to the process: through user data and the bootstrap, as systemd reads its file."""

from __future__ import annotations

import email
import gzip
import json
import os
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from celery_flame_ec2 import boot
from celery_flame_ec2.config import Ec2Options, read_settings
from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.templates import bootstrap
from tests.environments import NONCHARACTERS, environments, values

LETTER = Parent(owner="shop@redis/0", pool="video", backend="ec2", queues=("video",), concurrency=2)
FUZZ = int(os.environ.get("FUZZ", "1000"))  #: examples: FUZZ=10000 by hand
BLANK, NEWLINE = " \t\r\n", "\r\n"


def environment_file(text: str) -> dict[str, str]:
    """Read a file as systemd.exec(5) says under EnvironmentFile=.

    Lines of NAME=VALUE, empty ones and those that begin with ; or # left out. Outside of quotes a backslash takes the
    meaning off what follows, in single quotes it is a backslash, in double quotes it does so with \\ " ` and $ alone.
    Before the end of a line it goes with that. Quotes may begin anywhere in a value; blanks around a value are dropped.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if text[at] in BLANK:
            at += 1
        elif text[at] in "#;":
            while at < len(text) and text[at] not in NEWLINE:
                at += 1 + (text[at] == "\\")
        else:
            name, _, _ = text[at:].partition("=")
            at += len(name) + 1
            found[name.rstrip()], at = _value(text, at)
    return found


def _value(text: str, at: int) -> tuple[str, int]:
    """Return the value that begins here, and where its line ends."""
    value, solid = "", 0  # how much of it no blank at the end is dropped from
    while at < len(text) and text[at] in " \t":
        at += 1
    while at < len(text) and text[at] not in NEWLINE:
        if text[at] in "'\"":
            inner, at = _quoted(text, at)
            value += inner
            solid = len(value)
            continue
        if text[at] == "\\":
            at += 1
            value += "" if text[at] in NEWLINE else text[at]
            solid = len(value)
        else:
            value += text[at]
        at += 1
    return value[:solid] + value[solid:].rstrip(BLANK), at


def _quoted(text: str, at: int) -> tuple[str, int]:
    quote, value, at = text[at], "", at + 1
    while text[at] != quote:
        if quote == '"' and text[at] == "\\":
            at += 1
            kept = "" if text[at] in '"\\`$\n' else "\\"
            value += "" if text[at] == "\n" else kept + text[at]
        else:
            value += text[at]
        at += 1
    return value, at + 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1\n# B=2\n; C=3\\\nstill\n\nD = 4 5 \n", {"A": "1", "D": "4 5"}),
        ('A=a\\\nb\nB=\'a\\n"\'\nC="a\\n\\"\\$\\\nb"\n', {"A": "ab", "B": 'a\\n"', "C": 'a\\n"$b'}),
        ("A= x'  y '\" z\" \nB=\\ x\\ \n", {"A": "x  y  z", "B": " x "}),
    ],
)
def test_the_reader_of_these_tests_reads_as_systemd_documents(text: str, found: dict[str, str]) -> None:
    assert environment_file(text) == found


def shipped(user_data: bytes) -> dict[str, Any]:
    """Read the document as the bootstrap does that cloud-init unpacks."""
    _, hook, part = email.message_from_bytes(gzip.decompress(user_data)).walk()
    source = cast(bytes, part.get_payload(decode=True)).decode("ascii")
    (line,) = (line for line in source.splitlines() if line.startswith("DOCUMENT="))
    scope: dict[str, Any] = {}
    exec(line, scope)
    assert hook.get_filename() == "boothook.sh"
    return cast(dict[str, Any], json.loads(scope["DOCUMENT"]))


@settings(deadline=None, max_examples=FUZZ, suppress_health_check=list(HealthCheck))
@given(environments)
@example({"A": "\\", "B": 'a\\"b', "C": "a\\\nb\n", "D": "$(x) `y` ${Z}", "E": " \t\r ", "F": "", "G": "\\n"})
@example({"DOCUMENT": '\nDOCUMENT="{}"', "PATH": "'''", "a": "\n--==flame==--\n"})
def test_any_environment_that_the_settings_take_is_what_systemd_reads(env: dict[str, str]) -> None:
    options = Ec2Options(app="proj", s3_bundle_url="s3://releases/proj/1.tar.gz", env=accepted(env))
    document = shipped(boot.user_data(boot.document(LETTER, options)))
    variables = bootstrap.resolved(document["env"], cast(bootstrap.Aws, None))
    assert environment_file(bootstrap.environment_file(variables).decode()) == env


def accepted(env: dict[str, str]) -> Any:
    """Return an environment as the settings give it."""
    pools = {"video": {"queues": ["video"], "env": env}}
    read = read_settings({"flame_pools": pools}, app_name="p", broker_urls=("redis://10.0.0.1/0",), environ={})
    return read.pools[0].ec2.env


@given(values, st.sampled_from("\0" + NONCHARACTERS), values)
def test_what_systemd_takes_for_no_text_is_refused_by_settings_and_bootstrap(before: str, bad: str, after: str) -> None:
    with pytest.raises(SettingsError, match="'A' in it must be text that an environment can hold"):
        accepted({"A": before + bad + after})
    with pytest.raises(bootstrap.Refused, match=r"^the value of A has a character that no environment can hold$"):
        bootstrap.resolved({"A": before + bad + after}, cast(bootstrap.Aws, None))
