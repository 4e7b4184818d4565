"""Which broker do the runners of a cell live on, and what has it still got?"""

from __future__ import annotations

import functools
import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import boto3
from amqp.exceptions import NotFound
from celery import Celery
from redis import Redis

from tests.servers import LastingRedisServer, MotoServer, RabbitServer, Server

#: Seconds for which a broker that cannot keep its messages over a restart does not answer instead.
SILENCE = 3.0


class Broker(ABC):
    """A real server, and what the test needs to know of it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return self.server.url

    def conf(self, ending: str) -> dict[str, Any]:
        """Return what runners of this broker are configured with."""
        return {"broker_url": self.url}

    @abstractmethod
    def left(self, queue: str) -> int:
        """Return how many messages there are, waiting or held."""

    def held(self, runner_id: str) -> frozenset[str] | None:
        """Return the ids of the tasks a runner holds; None where the broker does not say."""
        return None

    def handed(self, queue: str) -> frozenset[str]:
        """Return the ids of the tasks that the broker handed over and forgot, and that nobody noted as held since."""
        return frozenset()

    def is_full(self, runner_id: str, slots: int) -> bool:
        """Tell whether a runner takes nothing more at the moment; so where nobody can know."""
        return True

    def restart(self) -> None:
        """End the server and start it again, with all that it held."""
        self.server.restart()


class RedisBroker(Broker):
    """Redis; what a runner holds stands under keys of its own."""

    server: LastingRedisServer

    @functools.cached_property
    def _client(self) -> Redis:
        return Redis.from_url(self.url)

    def left(self, queue: str) -> int:
        held = sum(int(self._client.hlen(key)) for key in self._client.scan_iter("flame:held:*"))
        return int(self._client.llen(queue)) + held

    def held(self, runner_id: str) -> frozenset[str]:
        keys = self._client.scan_iter(f"flame:held:*:{runner_id}")
        return frozenset(_task(json.loads(text)[0]) for key in keys for text in self._client.hvals(key))

    def handed(self, queue: str) -> frozenset[str]:
        return handed_over(self.server.writes(), queue)

    def is_full(self, runner_id: str, slots: int) -> bool:
        return len(self.held(runner_id)) >= slots


class RabbitBroker(Broker):
    """RabbitMQ; it takes a consumer for dead that misses heartbeats."""

    def conf(self, ending: str) -> dict[str, Any]:
        return {**super().conf(ending), "broker_heartbeat": 4 if ending == "cut-off" else 60}

    def left(self, queue: str) -> int:
        with Celery("left", broker=self.url, set_as_current=False).connection_for_read() as connection:
            try:
                return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
            except NotFound:
                return 0


class SqsBroker(Broker):
    """SQS, played by moto; what a dead consumer held comes back when its visibility timeout is over."""

    server: MotoServer

    @property
    def url(self) -> str:
        return self.server.sqs_broker_url

    def conf(self, ending: str) -> dict[str, Any]:
        visible = 60 if ending in {"idle", "told", "single-use", "lifetime", "spot", "sigterm"} else 10
        options = {
            "region": "eu-central-1", "is_secure": False, "visibility_timeout": visible,
            "wait_time_seconds": 1, "polling_interval": 0.2,
        }  # fmt: skip
        return {**super().conf(ending), "broker_transport_options": options}

    def left(self, queue: str) -> int:
        client = boto3.client("sqs", endpoint_url=self.server.url)
        try:
            found: Mapping[str, str] = client.get_queue_attributes(
                QueueUrl=client.get_queue_url(QueueName=queue)["QueueUrl"], AttributeNames=["All"]
            )["Attributes"]
        except client.exceptions.QueueDoesNotExist:
            return 0
        return sum(int(found[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible", "Delayed"))

    def restart(self) -> None:
        """Do not answer for a while: moto keeps nothing over a restart, and SQS has none that its users could see."""
        with self.server.paused():
            time.sleep(SILENCE)


def handed_over(writes: Iterable[Sequence[bytes]], queue: str) -> frozenset[str]:
    """Return the ids of the tasks that Redis took off a queue, and that since then were neither held nor put back."""
    waiting: deque[str] = deque()
    handed: set[str] = set()
    for command, key, *texts in (words for words in writes if len(words) > 1):
        if key == queue.encode() and command in {b"LPUSH", b"RPUSH"}:
            tasks = [_task(json.loads(text)) for text in texts]
            (waiting.extendleft if command == b"LPUSH" else waiting.extend)(tasks)
            handed.difference_update(tasks)
        elif key == queue.encode() and command == b"RPOP":
            handed.add(waiting.pop())
        elif key.startswith(f"flame:held:{queue}:".encode()) and command == b"HSET":
            handed.discard(_task(json.loads(texts[1])[0]))
    return frozenset(handed)


def _task(message: Any) -> str:
    return str(message["headers"]["id"])


def make_broker(name: str) -> Broker:
    """Return a broker whose server is still to be started."""
    if name == "redis":
        return RedisBroker(LastingRedisServer())
    return RabbitBroker(RabbitServer()) if name == "rabbitmq" else SqsBroker(MotoServer())
