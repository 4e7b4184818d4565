"""What log lines carry for machines, and when there is none."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2 import log, signals
from celery_flame_ec2.log import KEYS, OURS, JsonFormatter, write_json
from celery_flame_ec2.override import Override
from celery_flame_ec2.policy import Demand
from celery_flame_ec2.presence import Word
from celery_flame_ec2.runner import Runner, RunnerState
from tests.unit.test_pool import NOW, ListBackend, do_round, heard, new_pool, see
from tests.unit.test_service import Deployed, up

PACKAGE = Path(log.__file__).parent
PAGE = PACKAGE.parent / "docs" / "logs.md"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler of the root logger writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("text: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger(OURS).setLevel(logging.INFO)
    yield written
    logging.getLogger(OURS).setLevel(logging.NOTSET)
    logging.getLogger().removeHandler(handler)


def test_our_lines_are_json_with_stable_keys_and_those_of_others_stay(lines: io.StringIO) -> None:
    write_json()
    write_json()  # by each parent of a process
    pool = new_pool(ListBackend())
    pool.overrule(Override(paused=True, by="ann"))
    logging.getLogger("celery").warning("another's")
    ours, others = lines.getvalue().splitlines()
    said = json.loads(ours)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", said.pop("at"))
    assert said == {
        "level": "INFO", "logger": "celery_flame_ec2.pool", "message": "pool video: paused by ann",
        "event": "override", "pool": "video", "reason": "paused by ann",
    }  # fmt: skip
    assert others == "text: another's"


def test_an_exception_stays_on_the_line() -> None:
    try:
        raise ZeroDivisionError("a\nb")
    except ZeroDivisionError:
        record = logging.LogRecord("other", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info())
    said = json.loads(JsonFormatter().format(record))
    assert said["message"] == "it failed"
    assert "ZeroDivisionError: a\nb" in said["exception"]


def test_what_happens_to_a_runner_is_told_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    backend = ListBackend()
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=4))
    (runner,) = backend.living
    see(pool, [runner], up(runner, NOW + 30), NOW + 30, hears=True)
    ending = Word(runner_id=runner.id, pool="video", owner="o", state=RunnerState.ENDING, reason="idle for 30 s")
    see(pool, [runner], {runner.id: ending}, NOW + 90, hears=True)
    see(pool, [], {}, NOW + 95, hears=True)
    told = [{key: value for key in KEYS if (value := vars(each).get(key)) is not None} for each in caplog.records]
    reason = "4 waiting, 0 running want 1"
    assert told == [
        {"event": "decided", "pool": "video", "reason": reason, "count": 1},
        {"event": "launched", "pool": "video", "reason": reason, "count": 1, "runners": ["r0"]},
        {"event": "up", "pool": "video", "runner": "r0", "seconds": 30.0},
        {"event": "ended", "pool": "video", "runner": "r0", "reason": "idle for 30 s", "seconds": 95.0},
    ]


def test_thirty_quiet_rounds_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    work = Deployed(min=1, max=2)
    service, watching, lease = work.parent()
    watching.waiting = 0
    work.rounds(service, 10, lease)
    (runner,) = work.backend.living
    work.clock.now += 1

    def round_with_a_word() -> None:
        watching.words = up(runner, work.clock())
        watching.since = work.clock() - 600
        work.rounds(service, 5, lease)

    round_with_a_word()
    caplog.clear()
    caplog.set_level(logging.INFO)
    for _ in range(30):
        round_with_a_word()
    assert [record.getMessage() for record in caplog.records] == []
    work.backend.living = []
    work.rounds(service, 60, lease)
    assert caplog.records, "something happened"


def test_every_event_and_key_stands_in_the_docs_and_none_that_is_not_there() -> None:
    source = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    said = set(re.findall(r'"event": "(\w+)"', source)) | set(re.findall(r'_say\(\s*"(\w+)", ', source))
    said |= {each.replace(" ", "_") for each in re.findall(r'self\._log\("([\w ]+)"', source)}
    said |= {"up", "cordon", "uncordon", "cordoned", "uncordoned"}  # named by what they are told with
    documented = re.findall(r"^\| `(\w+)`", PAGE.read_text(), flags=re.MULTILINE)
    events = {each for each in documented if each not in (*KEYS, "at", "level", "logger", "message", "exception")}
    signal_names = {name for name, value in vars(signals).items() if isinstance(value, signals.Signal)}
    assert events == said | signal_names
    assert set(KEYS) <= set(documented)
    assert signal_names <= set(documented)


def test_a_pool_that_shrinks_says_by_how_many_and_why() -> None:
    pool = new_pool(ListBackend())
    words: dict[str, Any] = {}
    runners = [Runner(id=f"r{number}", pool="video", launched_at=NOW) for number in range(3)]
    for each in runners:
        words |= up(each, NOW)
    see(pool, runners, words, NOW, hears=True)
    with heard(signals.pool_shrank) as shrank, heard(signals.runner_ended) as ended:
        see(pool, runners[2:], words, NOW + 9, hears=True)
    assert [(call["sender"], call["count"], call["reason"]) for call in shrank] == [("video", 2, "it gave no reason")]
    assert [call["runner"].id for call in ended] == ["r0", "r1"]
