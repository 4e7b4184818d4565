"""The release's unit: what it starts and stops, word for word, and what it is shut in by."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from celery_flame_ec2 import unit
from celery_flame_ec2.config import Ec2Options, read_settings
from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.runner import Limits

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
ODD = [
    "",
    ";",
    "#",
    "%n%%",
    "$HOME ${X} $$",
    "a\"b'c\\",
    "\\x41\\n",
    " \t\r\n",
    "\x01\x7f\x85\u2028\ufeff",
    "-@+!:|",
    "🔥",
]


def read(line: str) -> list[str]:
    """Read the words of a command line behind its prefix as systemd does: extract_first_word, unit_full_printf."""
    found, rest = [], line
    while rest:
        rest = rest.removeprefix(" ")
        assert rest[0] == '"'
        word, position = "", 1
        while rest[position] != '"':
            if rest[position] != "\\":
                word, position = word + rest[position], position + 1
            elif rest[position + 1] == "x":
                word, position = word + chr(int(rest[position + 2 : position + 4], 16)), position + 4
            else:
                assert rest[position + 1] in '\\"'
                word, position = word + rest[position + 1], position + 2
        assert "%" not in word.replace("%%", "")
        found.append(word.replace("%%", "%"))
        rest = rest[position + 1 :]
    return found


@given(st.lists(words))
@example(ODD)
def test_systemd_reads_back_every_word_of_a_command(given_words: list[str]) -> None:
    line = unit.command_line(["/srv/proj/release/run", *given_words])
    assert line.startswith(":")  # no environment variable is looked for in it
    assert not set(line) & set(map(chr, [*range(32), 127]))  # none that ends the line
    assert read(line[1:]) == ["/srv/proj/release/run", *given_words]


def release(**options: Any) -> list[str]:
    return unit.units(Ec2Options(app="proj", **options), Limits())["flame-release.service"].splitlines()


def test_a_command_is_of_the_releases_directory_unless_its_path_is_absolute() -> None:
    assert 'ExecStart=:"/srv/proj/release/bin/proj" "start"' in release()
    assert 'ExecStart=:"/srv/proj/release/run.sh" "a b"' in release(start_command=("run.sh", "a b"))
    assert 'ExecStart=:"/usr/bin/perl" "work.pl"' in release(start_command=("/usr/bin/perl", "work.pl"))
    assert unit.program(Ec2Options(app="proj")) == "bin/proj"
    assert unit.program(Ec2Options(app="proj", start_command=("/usr/bin/perl", "work.pl"))) == "/usr/bin/perl"


def test_a_stop_command_that_fails_is_no_failure_of_the_release() -> None:
    assert 'ExecStop=-:"/srv/proj/release/bin/stop" "now"' in release(stop_command=("bin/stop", "now"))
    assert not [line for line in release() if line.startswith("ExecStop=")]


def test_a_program_that_says_no_hello_is_taken_at_its_start() -> None:
    added = [line for line in release(hello="start") if line not in release()]
    assert [line.partition("=")[0] for line in added] == ["ExecStartPost", "ExecStopPost", "RuntimeMaxSec"]
    lines = release(hello="start")
    assert lines.index(added[1]) < lines.index("ExecStopPost=+/bin/sh /run/flame/report release")


def test_a_program_that_says_no_hello_is_told_to_end_at_max_lifetime_and_not_later() -> None:
    limits = Limits(max_lifetime=7200.0, shutdown_timeout=3600.0)
    seconds = {"start": 7200, "worker": 7200 + 3600 + unit.MARGIN}
    for hello, expected in seconds.items():
        written = unit.units(Ec2Options(app="proj", hello=hello), limits)["flame-release.service"]
        assert f"\nRuntimeMaxSec={expected}\n" in written


def test_what_a_user_wants_of_the_sandbox_is_in_the_unit() -> None:
    lines = release(sandbox={"PrivateTmp": False, "ReadWritePaths": ("/data",)})
    assert "ReadWritePaths=/data" in lines
    assert "PrivateTmp=yes" in release()
    assert "PrivateTmp=yes" not in lines


def test_no_line_of_the_unit_is_said_twice_but_those_that_add_up() -> None:
    names = [line.partition("=")[0] for line in release() if "=" in line]
    twice = {name for name, same in itertools.groupby(sorted(names)) if len(list(same)) > 1}
    assert twice == {"RestrictAddressFamilies", "SystemCallFilter"}


def problems(**options: Any) -> str:
    pools = {"flame_pools": {"p": {"queues": "q", **options}}}
    with pytest.raises(SettingsError) as caught:
        read_settings(pools, app_name="x", broker_urls=("redis://h/0",), environ={})
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    "command",
    ["bin/proj start", [], [""], ["../x"], ["a/../../x"], ["/"], ["a//b"], ["a b"], ["$HOME/x"], ["%h/x"], ["-x", 1],
     ["run", "\0"], ["run", "\ud800"], ["run", "\ufffe"], ["@/usr/bin/x y"], ["./x"]],
)  # fmt: skip
def test_a_command_is_a_list_of_words_with_a_plain_path_first(command: Any) -> None:
    for name in ("start_command", "stop_command"):
        assert f"pool 'p': option '{name}' must be a list of words" in problems(**{name: command})


def test_a_directive_nobody_knows_is_refused_with_what_was_meant() -> None:
    words = "pool 'p': option 'sandbox' must be a dict of systemd's sandboxing directives by name (not 'PrivatTmp'; did"
    assert words in problems(sandbox={"PrivatTmp": True})
