"""What does one round cost a parent, in CPU time of its process, while its fleet is steady?"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from celery import Celery

from benchmarks.fleet import fleet
from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings
from celery_flame_ec2.lease import open_lease
from celery_flame_ec2.presence import BEAT, REPEAT
from celery_flame_ec2.queues import Measurement
from celery_flame_ec2.runner import Runner
from celery_flame_ec2.service import LISTED_TTL, LONGEST_TTL, Service
from celery_flame_ec2.watch import Watch

OWNER = "bench@redis/0"
WARM_UP = 7  #: rounds until every runner has spoken, and every library is loaded


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU time of one round, in ms, by what it is spent on; a listing's share is spread over the time it holds."""

    queues: int
    runners: int
    measuring: float
    hearing: float
    listing: float
    deciding: float

    @property
    def total(self) -> float:
        return self.measuring + self.hearing + self.listing + self.deciding

    @property
    def most(self) -> float:
        """Return the same for a fleet whose runners have news at every beat."""
        return self.total + self.hearing * (REPEAT / BEAT - 1)


class Meter:
    """CPU seconds of this process by what they are spent on, from the round `WARM_UP` on, for `rounds` rounds."""

    def __init__(self, rounds: int) -> None:
        self._last, self.round = WARM_UP + rounds, 0
        self.spent: Counter[str] = Counter()
        self.words = 0
        self._began = 0.0
        self.on_end: Callable[[], None] = int

    def begin_round(self) -> None:
        self.round += 1
        if self.round == WARM_UP:
            self.spent.clear()
            self.words, self._began = 0, time.process_time()
        if self.round == self._last:
            self.spent["all"] = time.process_time() - self._began
            self.on_end()

    def now(self) -> float:
        """Count words by this: every word that is heard asks once what time it is."""
        self.words += 1
        return time.time()

    @contextmanager
    def spending(self, on: str) -> Iterator[None]:
        began = time.process_time()
        yield
        if self.round < self._last:
            self.spent[on] += time.process_time() - began


class MeteredWatch(Watch):
    """A parent's own eyes and ears, and what they cost."""

    def __init__(self, app: Celery, meter: Meter) -> None:
        super().__init__(app, owner=OWNER, clock=meter.now)
        self._meter = meter

    def measure(self, queues: Sequence[str]) -> Measurement:
        with self._meter.spending("measuring"):
            return super().measure(queues)

    def listen(self, seconds: float) -> bool:
        with self._meter.spending("hearing"):
            return super().listen(seconds)

    def catch_up(self) -> None:
        self._meter.begin_round()
        with self._meter.spending("hearing"):
            super().catch_up()


class MeteredBackend(Ec2Backend):
    """The backend itself, and what listing costs."""

    def __init__(self, settings: Settings, meter: Meter) -> None:
        super().__init__(settings, environ={})
        self._meter = meter

    def runners(self) -> tuple[Runner, ...]:
        with self._meter.spending("listing"):
            return super().runners()


def cost(broker: str, queues: int, runners: int, rounds: int) -> Cost:
    """Run one parent for so many rounds, or as long as its listing holds. Each queue is a pool; every runner works."""
    rounds = max(rounds, int(min(LONGEST_TTL, 2 * LISTED_TTL * runners)))
    pools = [f"pool-{number}" for number in range(queues)]
    with fleet(broker, OWNER, pools, runners) as endpoint:
        meter = Meter(rounds)
        settings = _settings(pools, runners, endpoint)
        app = Celery(broker=broker, set_as_current=False)
        service = Service(
            app, settings, MeteredBackend(settings, meter), lease=open_lease(app, settings),
            watch=MeteredWatch(app, meter),
            # a listing holds for so many rounds, however long they take on this machine
            monotonic=lambda: meter.round * settings.interval,
        )  # fmt: skip
        meter.on_end = service.stop
        service.run()
    return _cost(meter, queues, runners, rounds)


def _settings(pools: Sequence[str], runners: int, endpoint: str) -> Settings:
    options = Ec2Options(
        app="bench", s3_bundle_url="s3://releases/bench.tar.gz", region="eu-central-1", image_id="ami-00000001",
        subnet_id=("subnet-0000000a",), security_group_id=("sg-00000001",), ec2_service_endpoint=endpoint,
        s3_service_endpoint=endpoint,
    )  # fmt: skip
    each = -(-runners // len(pools))
    made = (PoolSettings(name=name, queues=(name,), max=each, max_concurrency=1, ec2=options) for name in pools)
    return Settings(backend="ec2", owner=OWNER, pools=tuple(made))


def _cost(meter: Meter, queues: int, runners: int, rounds: int) -> Cost:
    parts = {name: 1000 * seconds / rounds for name, seconds in meter.spent.items()}
    deciding = parts["all"] - parts["measuring"] - parts["hearing"] - parts["listing"]
    # A parent that cannot keep up hears fewer words than there are; what counts is what it would have to spend.
    hearing = 1000 * meter.spent["hearing"] / meter.words * runners / REPEAT
    return Cost(
        queues=queues, runners=runners, measuring=parts["measuring"], hearing=hearing, listing=parts["listing"],
        deciding=deciding,
    )  # fmt: skip
