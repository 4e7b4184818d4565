"""Is every block of code accounted for, and can be run or read?"""

from __future__ import annotations

import configparser
import contextlib
import io
import json
import logging
import sys
from typing import Any

import hcl2
import pytest
import yaml
from celery import Celery
from celery.app.defaults import NAMESPACES, flatten

from celery_flame_ec2.config import PREFIX
from celery_flame_ec2.settings import settings_of

from .pages import Block, blocks
from .reader import SHOWN

#: Languages that other tests of this package, or the site's own build, account for.
COMMANDS = {"sh", "console"}
READ_HERE = {"hcl", "json", "yaml", "ini", "toml"}
SAMPLES = {"", "text"}
#: Blocks that are neither run nor parsed here: page and first words, and who does it, or why nobody.
ELSEWHERE = {
    ("docs/commands.md", "flame "): "`python docs/commands.py` prints them, see tests/unit/test_docs.py",
    ("docs/deciding.md", "pool video: launch 5: 12 waiting, 4 running on runners, 2 free here;"): "a line of a log",
    ("docs/logs.md", "pool video: launch 5: 12 waiting, 4 running on runners; 0.25 a second arrive"): "lines of a log",
    (
        "docs/launching.md",
        "  breaker  OPEN: 3 launches failed; the next in 14 s; i-0abc did not come up: fetch: no such bundle",
    ): "a part of `flame status`",
    (
        "docs/policy-benchmark.md",
        "1. no peer is better than our default on both",
    ): "`make docs-policy` prints it",
    ("docs/policy-benchmark.md", "boot 60 s, 4 slots a runner; waits in s"): "`make docs-policy` prints it",
    ("docs/release.md", "Error: docopt has no wheel"): "tests/integration/test_release.py refuses this package",
    ("docs/release.md", "up: pid 512, worker flame-i-0abc@ip-10-0-0-7"): "`bin/<app> status` where workers run",
    ("docs/simulate.md", "                   measured  simulated  ratio"): "`make bench-confirm` measured it",
    ("docs/status.md", "shop  local  "): "`flame status` of a deployment that has been up for long",
}
#: Its examples stand in a module that runs, word for word; see tests/unit/test_testing_docs.py.
TESTING = "docs/testing.md"
#: Its examples run in a process that Django is set up in; see test_django.py.
DJANGO = "docs/django.md"
PYTHON = [block for block in blocks("python") if block.page not in {TESTING, DJANGO}]
#: What a snippet may take for granted: it stands in a module of an application, beside what the README begins with.
ENVIRONMENT = {"FLAME_HTTP_TOKEN": "0123456789abcdef", "RELEASE_NAME": "proj"}


def accounted(block: Block) -> bool:
    if not block.language and block.page in SHOWN:
        return True
    known = COMMANDS | READ_HERE | {"python"}
    return block.language in known or block.language.startswith("{") or _elsewhere(block) is not None


def _elsewhere(block: Block) -> tuple[str, str] | None:
    return next((key for key in ELSEWHERE if block.page == key[0] and block.head.startswith(key[1])), None)


def test_every_block_is_run_or_read_or_named_with_a_reason() -> None:
    assert [
        f"{block}: {block.language or 'no language'}: {block.head}" for block in blocks() if not accounted(block)
    ] == []


def test_no_reason_is_left_of_a_block_that_is_gone() -> None:
    assert set(ELSEWHERE) == {_elsewhere(block) for block in blocks(*SAMPLES)} - {None}


@pytest.mark.parametrize("block", blocks(*READ_HERE), ids=str)
def test_a_block_of_data_can_be_read(block: Block) -> None:
    read = {"hcl": hcl2.loads, "json": json.loads, "yaml": yaml.safe_load, "ini": _ini, "toml": _toml}
    assert read[block.language](block.text)


def _ini(text: str) -> list[str]:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    return parser.sections()


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Celery:
    """The application that the README makes."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made = Celery("proj", broker="redis://broker.internal:6379/0", set_as_current=False)
    for block in blocks("python"):
        if block.page == "README.md":
            exec(block.text, {"app": made})
    return made


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_an_example_in_python_runs_and_what_it_sets_is_accepted(
    block: Block, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    before, space = dict(app.conf.changes), dict[str, Any](app=app)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(block.text, str(block), "exec"), space)
        _configure(app, space)
        settings_of(app)
        _hears_what_is_sent(app, caplog)
    strange = {name for name in app.conf.changes if name not in before and not _is_setting(name)}
    assert strange == set(), "neither Celery nor flame has these settings"


def _configure(app: Celery, space: dict[str, Any]) -> None:
    """Take names of a configuration module, ours or under Django's namespace, for what they are."""
    for name, value in space.items():
        plain = name.removeprefix("CELERY_").lower() if name.isupper() else name
        if plain == f"{PREFIX}ec2":
            value = {**app.conf.flame_ec2, **value}
        if plain.startswith(PREFIX) or name.startswith("CELERY_"):
            app.conf[plain] = value


def _is_setting(name: str) -> bool:
    return name.startswith(PREFIX) or name in {known for known, _ in flatten(NAMESPACES)}  # ours were read already


def _hears_what_is_sent(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """Receivers of Celery's signals that an example connects do not fail."""
    with caplog.at_level(logging.ERROR, logger="celery.utils.dispatch"):
        app.conf.broker_url = "memory://"
        app.send_task("nap")
    assert not [record.getMessage() for record in caplog.records if "Signal handler" in record.getMessage()]
