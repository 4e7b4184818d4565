"""What does one look at 1, 10 and 100 queues cost, beside kombu's passive declare and a bare redis-py pipeline?

    python -m benchmarks.queues [--rounds 200] [--json figures.json]

Starts its own redis-server and rabbitmq-server. The variants take turns within each round, so a busy machine slows all
of them alike. Every queue holds one message, the only case in which kombu's passive declare works on Redis.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from celery_flame_ec2.broker import open_connection
from celery_flame_ec2.queues import measure
from tests.servers import RabbitServer, RedisServer

SIZES = (1, 10, 100)
AIM = {("redis", 10): 1.5, ("redis", 100): 10.0}  #: ms
Look = Callable[[], object]


def redis_looks(app: Celery, url: str, queues: Sequence[str]) -> dict[str, Look]:
    client = redis.Redis.from_url(url)

    def bare() -> object:
        with client.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.llen(queue)
            return pipe.execute()

    return {**common_looks(app, queues), "bare pipeline": bare}


def common_looks(app: Celery, queues: Sequence[str]) -> dict[str, Look]:
    ours: Any = open_connection(app, timeout=5)
    channel: Any = app.connection_for_read().default_channel
    return {
        "measure": lambda: measure(ours, queues),
        "passive declare": lambda: [channel.queue_declare(queue, passive=True) for queue in queues],
    }


def medians(looks: dict[str, Look], rounds: int) -> dict[str, float]:
    """Return the median of each in milliseconds."""
    taken: dict[str, list[float]] = {name: [] for name in looks}
    for _ in range(rounds):
        for name, look in looks.items():
            began = time.perf_counter()
            look()
            taken[name].append((time.perf_counter() - began) * 1000)
    return {name: statistics.median(times) for name, times in taken.items()}


def figures(broker: str, url: str, rounds: int) -> Iterator[dict[str, Any]]:
    app = Celery(broker=url, set_as_current=False)
    for size in SIZES:
        queues = [f"queue-{number}" for number in range(size)]
        for queue in queues:
            app.send_task("work", queue=queue)
        looks = redis_looks(app, url, queues) if broker == "redis" else common_looks(app, queues)
        yield {"broker": broker, "queues": size, "aim": AIM.get((broker, size)), "ms": medians(looks, rounds)}


def show(row: dict[str, Any]) -> None:
    ms, aim = row["ms"], row["aim"]
    cells = [f"{name} {value:7.2f} ms" for name, value in ms.items()]
    ratios = [f"{ms['measure'] / value:.2f} x {name}" for name, value in ms.items() if name != "measure"]
    verdict = "" if aim is None else f" | aim {aim:g} ms: {'met' if ms['measure'] <= aim else 'MISSED'}"
    print(f"{row['broker']:8} {row['queues']:3} queues | {' | '.join(cells)} | measure = {', '.join(ratios)}{verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path, default=os.environ.get("JSON"), help="also write the figures to this file")
    options = parser.parse_args()
    rows = []
    for broker, server_class in (("redis", RedisServer), ("rabbitmq", RabbitServer)):
        with server_class() as server:
            for row in figures(broker, server.url, options.rounds):
                show(row)
                rows.append(row)
    if options.json:
        libraries = {name: version(name) for name in ("celery", "kombu", "redis", "amqp")}
        machine = {"python": platform.python_version(), "cpus": os.cpu_count(), **libraries}
        Path(options.json).write_text(
            json.dumps({"machine": machine, "rounds": options.rounds, "rows": rows}, indent=2)
        )


if __name__ == "__main__":
    main()
