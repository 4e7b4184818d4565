"""Do operators pause pools and hold them at a number, from another process and by remote control?"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until
from tests.workers import Deployment, one_line_error

POOL = {"queues": ["celery"], "max": 3, "max_concurrency": 1, "idle_shutdown_after": 1.0}


def shown(work: Deployment) -> dict[str, object]:
    pool: dict[str, object] = json.loads(work.run("flame", "status", "--json").stdout)["pools"]["pool"]
    return pool


def test_a_pool_is_paused_and_held_at_a_number_and_the_next_parent_keeps_to_it(redis_url: str, tmp_path: Path) -> None:
    with Deployment(tmp_path, redis_url, flame_pools={"pool": POOL}, flame_lease=redis_url) as work:
        assert "pool: paused by" in work.run("flame", "pause").stdout
        server = work.start("server", "flame", "serve")
        for number in range(9):
            work.send("square", number, published_at=time.time() - 40)
        server.says(r"pool pool: hold: 9 waiting, .*; paused by \w+@")
        assert not work.runners()
        assert shown(work)["override"].items() >= {"paused": True, "wanted": None}.items()  # type: ignore[attr-defined]
        assert shown(work)["queues"][0]["oldest_wait"] > 40  # type: ignore[index]
        server.kill()

        following = work.start("following", "flame", "serve")
        following.says(r"pool pool: hold: 9 waiting, .*; paused by \w+@")
        assert "from 0 (min) to 3 (max) or 'auto', got '4'" in one_line_error(work.run("flame", "scale", "pool", "4"))
        assert "did you mean 'pool'?" in one_line_error(work.run("flame", "pause", "pol"))
        assert work.run("flame", "scale", "pool", "2").stdout.startswith("pool: held at 2 and paused by ")
        assert work.run("flame", "resume").stdout.startswith("pool: held at 2 by ")
        wait_until(lambda: work.numbers("square") == list(range(9)), what="all tasks done", timeout=60)
        following.says(r"launch 2: .*; held at 2 by ")
        work.has_runners(2)  # they do not idle out
        assert work.run("flame", "scale", "pool", "auto").stdout == "pool: as its policy decides\n"
        following.says("pool pool: no longer held at 2 by ")
        assert shown(work)["override"] is None


def test_remote_control_shows_and_pauses_the_parent_that_acts(
    rabbit_url: str, tmp_path: Path, unique_name: Callable[[str], str]
) -> None:
    queue = unique_name("control")
    pools = {"pool": {**POOL, "queues": [queue]}}
    with Deployment(tmp_path, rabbit_url, flame_pools=pools, task_default_queue=queue) as work:
        parent = work.worker("--autoscale=1,1", "-Q", unique_name("own"), name="parent")
        parent.says("this parent acts")
        plain = work.worker("-c", "1", "-Q", unique_name("own"), name="plain")
        seen = json.loads(work.run("inspect", "flame", "--json", "-t", "10").stdout)
        by_worker = {name.split("@")[0]: reply for name, reply in seen.items()}
        assert by_worker["plain"] is None
        assert by_worker["parent"]["acts"] is True
        assert by_worker["parent"]["pools"]["pool"]["queues"][0]["name"] == queue

        said = work.run("control", "flame_scale", "pool", "9", "-t", "10")
        assert "'max_concurrency'" not in said.stdout
        assert "from 0 (min) to 3 (max) or 'auto', got '9'" in said.stdout
        work.run("control", "flame_pause", "-t", "10")
        parent.says("pool pool: paused by celery control")
        work.send("square", 1, queue=queue)
        parent.says("; paused by celery control")
        assert not work.runners()
        work.run("control", "flame_resume", "pool", "-t", "10")
        work.run("control", "flame_scale", "pool", "1", "-t", "10")
        parent.says("pool pool: held at 1 by celery control")
        wait_until(lambda: work.numbers("square") == [1], what="the task done", timeout=60)
        assert "flame" not in plain.output
