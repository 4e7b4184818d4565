"""What does the status page look like while a burst runs? `python -m tests.screenshots` writes pictures of it to docs/.

Runners are processes of this machine; the broker is a Redis of its own.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.browser import Browser
from tests.servers import RedisServer
from tests.waiting import wait_until
from tests.workers import ROOT, Deployment

#: File, width, height and scheme of each picture.
SHOTS = (("page.png", 900, 1250, False), ("page-dark.png", 900, 720, True), ("page-phone.png", 390, 844, False))
POOLS = {
    "video": {
        "queues": ["video", "video-long"],
        "max": 6,
        "max_concurrency": 2,
        "idle_shutdown_after": 4,
        "target_wait": 4,
    },
    "mail": {"queues": ["mail"], "max": 3, "max_concurrency": 4, "idle_shutdown_after": 4, "target_wait": 4},
}
#: Seconds after each flood, and tasks of each by queue.
EVERY, FLOODS = 10.0, ({"video": 90, "mail": 30}, {"video-long": 40, "mail": 60}, {"video": 300, "mail": 90})


def main(directory: Path) -> None:
    """Run the burst, and take the pictures at its height."""
    conf: dict[str, Any] = {"flame_pools": POOLS, "flame_owner": "proj@broker.internal", "flame_interval": 0.5}
    conf["flame_policy"] = "celery_flame_ec2.policy:plan"
    with contextlib.ExitStack() as stack:
        run, broker = stack.enter_context(tempfile.TemporaryDirectory()), stack.enter_context(RedisServer())
        browser = stack.enter_context(Browser())
        work = stack.enter_context(Deployment(Path(run), broker.url, **conf))
        server = work.start("server", "flame", "serve", "--http", "127.0.0.1:0")
        (url,) = server.says(r"status page on (http://\S+)")
        for flood in FLOODS:
            for queue, count in flood.items():
                for number in range(count):
                    work.send("square", number, 1.0, queue=queue)
            time.sleep(EVERY)
        wait_until(lambda: _up(url) >= 5, what="runners that are up", timeout=120)
        for name, width, height, dark in SHOTS:
            browser.size(width, height, dark=dark)
            browser.open(url)
            browser.shows("live;")
            browser.picture(directory / name)


def _up(url: str) -> int:
    with urllib.request.urlopen(f"{url}status.json", timeout=10) as answer:
        return sum(pool["states"]["up"] for pool in json.load(answer)["pools"].values())


if __name__ == "__main__":
    main(ROOT / "docs")
