"""Do a parent's lines and signals tell what happens, and never a secret?"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import ROOT, WORK, Deployment

from .conftest import serve

POOL = {"queues": ["celery"], "max": 2, "max_concurrency": 1, "idle_shutdown_after": 1.0}
PASSWORD, PLANTED = "br0ker-passw0rd", "pl4nted-in-env"
#: Prints each signal with the names of what it brings.
SPY = """
def spy(name):
    def heard(signal, sender, **told):
        print("HEARD", name, sorted(told), flush=True)
    return heard

for each in ("runner_launched", "pool_grew", "runner_up", "runner_ended", "pool_shrank", "launch_failed"):
    getattr(signals, each).connect(spy(each), weak=False)
"""


def test_lines_are_json_where_asked_for_and_none_holds_a_secret(tmp_path: Path) -> None:
    pools = {"pool": {**POOL, "env": {"API_KEY": PLANTED}}}
    for broker in serve(lambda: RedisServer(password=PASSWORD)):
        url = broker.url
        with Deployment(tmp_path, url, flame_pools=pools, flame_log_format="json", flame_lease=url) as work:
            server = work.start("server", "flame", "serve", "-l", "DEBUG")
            for number in range(4):
                work.send("square", number, 0.2)
            server.says('"event": "ended"', times=1)
            (ended, *_) = (json.loads(line) for line in server.output.splitlines() if '"event": "ended"' in line)
            log = work.runner_log(ended["runner"])
            said = [work.run("flame", "status"), work.run("flame", "status", "--json"), work.run("flame", "pause")]
            broker.stop()
            server.says('"event": "trouble"', times=2)  # of broker and lease
            said += [work.run("flame", "status"), work.run("flame", "plan"), work.run("flame", "resume")]
            output = server.output
        told = [output, log, *(each.stdout + each.stderr for each in said)]
    assert {"pool", "reason", "seconds", "message"} <= ended.keys()
    assert '"event": "ending"' in log
    assert '"owner"' in told[3]
    assert said[-1].returncode != 0
    assert not [text for text in told if PASSWORD in text or PLANTED in text]


def test_the_documented_receivers_hear_each_signal_of_a_burst(redis_url: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "logs.md").read_text()
    (example,) = re.findall(r"<!-- example: a test runs it -->\n```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "listening.py").write_text(f"from {WORK.partition(':')[0]} import app\n{example}\n{SPY}")
    pools = {"pool": POOL, "broken": {**POOL, "queues": ["broken"], "env": {"PYTHONHOME": "/nowhere"}}}
    with Deployment(tmp_path, redis_url, app="listening:app", flame_pools=pools) as work:
        server = work.start("server", "flame", "serve")
        for number in range(2):
            work.send("square", number, 0.2)
        work.send("square", 2, queue="broken")
        wait_until(lambda: work.numbers("square") == [0, 1], what="the tasks of the pool that works", timeout=60)
        server.says(r"pool shrank by \d: idle for")
        server.says(r"HEARD launch_failed")
        told = dict(re.findall(r"HEARD (\w+) (\[.*\])", server.output))
        output = server.output
    assert {name: json.loads(words.replace("'", '"')) for name, words in told.items()} == {
        "runner_launched": ["reason", "runner"],
        "pool_grew": ["count", "reason"],
        "runner_up": ["phases", "runner", "seconds"],
        "runner_ended": ["kind", "reason", "runner"],
        "pool_shrank": ["count", "reason"],
        "launch_failed": ["kind", "reason"],
    }
    assert re.search(r"pool grew by \d: \d waiting", output)
    assert re.search(r"pool: local-\w+ took [\d.]+ s to boot", output)


@pytest.mark.parametrize("words", [("flame", "serve"), ("flame", "status"), ("flame", "doctor")])
def test_a_broker_that_refuses_a_password_is_named_without_it(
    words: tuple[str, ...], rabbit_url: str, tmp_path: Path
) -> None:
    wrong = rabbit_url.replace("://guest:guest@", f"://guest:{PASSWORD}@")
    assert wrong != rabbit_url
    with Deployment(tmp_path, wrong, flame_pools={"pool": POOL}) as work:
        ended = work.run(*words)
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "127.0.0.1" in said
    assert PASSWORD not in said
