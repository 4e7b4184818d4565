"""What can Prometheus ask, and what does it mean?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import PageError
from ..overview import Overview, PoolOverview
from .tally import Durations, Tally

#: Values of a metric by its labels' values: a number, or durations.
Values = Iterator[tuple[tuple[str, ...], Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric: `kind` as Prometheus has it, and where its values are found. What is not known has none."""

    name: str
    kind: str
    labels: tuple[str, ...] = ()
    doc: str
    values: Callable[[Overview, Tally], Values]


def of_pools(value: Callable[[PoolOverview], float | None]) -> Callable[[Overview, Tally], Values]:
    """Return what finds one number of each pool."""

    def values(overview: Overview, _: Tally) -> Values:
        found = ((pool.name, value(pool)) for pool in overview.pools)
        yield from (((name,), number) for name, number in found if number is not None)

    return values


def _billed(overview: Overview, _: Tally) -> Values:
    """Yield the bill of each pool where this parent acts: in a sum that of who stands by would count twice."""
    if overview.acts:
        yield from (((pool.name,), pool.cost.seconds) for pool in overview.pools)


def of_queues(field: str) -> Callable[[Overview, Tally], Values]:
    """Return what finds one number of each queue."""

    def values(overview: Overview, _: Tally) -> Values:
        for pool in overview.pools:
            for queue in pool.queues:
                if (number := getattr(queue, field)) is not None:
                    yield (pool.name, queue.name), number

    return values


def of_counts(counts: Callable[[Tally], Any]) -> Callable[[Overview, Tally], Values]:
    """Return what finds counts by one label's value, or by several."""

    def values(_: Overview, tally: Tally) -> Values:
        for key, number in counts(tally).items():
            yield (key if isinstance(key, tuple) else (key,)), number

    return values


def _states(overview: Overview, _: Tally) -> Values:
    for pool in overview.pools:
        yield from (((pool.name, state), count) for state, count in pool.states.items())


METRICS = (
    Metric(name="flame_info", kind="gauge", labels=("owner", "backend"),
           doc="Always 1; its labels say which deployment this is.",
           values=lambda overview, _: iter([((overview.owner, overview.backend), 1)])),
    Metric(name="flame_acting", kind="gauge", doc="1 for the parent that acts, 0 for one that stands by.",
           values=lambda overview, _: iter([((), float(bool(overview.acts)))])),
    Metric(name="flame_last_tick_timestamp_seconds", kind="gauge", doc="When the last round was over.",
           values=lambda overview, _: iter([((), overview.at)])),
    Metric(name="flame_tick_seconds", kind="histogram", doc="How long rounds took; `_count` is how many.",
           values=lambda _, tally: iter([((), tally.ticks)])),
    Metric(name="flame_runners_known", kind="gauge", doc="0 while the compute backend does not list all runners.",
           values=lambda overview, _: iter([((), float(overview.runners_unknown is None))])),
    Metric(name="flame_queues_known", kind="gauge", labels=("pool",),
           doc="0 while the broker does not tell what waits.",
           values=of_pools(lambda pool: float(pool.unknown is None))),
    Metric(name="flame_queue_tasks", kind="gauge", labels=("pool", "queue"), doc="Tasks that wait.",
           values=of_queues("waiting")),
    Metric(name="flame_queue_held_tasks", kind="gauge", labels=("pool", "queue"),
           doc="Tasks that consumers took and have not acknowledged, where the broker tells it by queue.",
           values=of_queues("held")),
    Metric(name="flame_queue_oldest_wait_seconds", kind="gauge", labels=("pool", "queue"),
           doc="For how long the oldest task waits; on Redis, where publishers write `published_at`.",
           values=of_queues("oldest_wait")),
    Metric(name="flame_running_tasks", kind="gauge", labels=("pool",), doc="Tasks that run on runners.",
           values=of_pools(lambda pool: pool.running)),
    Metric(name="flame_runners", kind="gauge", labels=("pool", "state"),
           doc="Runners: `booting`, `up`, `cordoned` or `ending`.", values=_states),
    Metric(name="flame_runners_unclear", kind="gauge", labels=("pool",),
           doc="Runners that may exist: of launches nobody knows the outcome of.",
           values=of_pools(lambda pool: pool.unclear)),
    Metric(name="flame_runners_min", kind="gauge", labels=("pool",), doc="The pool's `min`.",
           values=of_pools(lambda pool: pool.min)),
    Metric(name="flame_runners_max", kind="gauge", labels=("pool",), doc="The pool's `max`.",
           values=of_pools(lambda pool: pool.max)),
    Metric(name="flame_launches_total", kind="counter", labels=("pool",), doc="Runners that were launched.",
           values=of_counts(lambda tally: tally.launches)),
    Metric(name="flame_launch_failures_total", kind="counter", labels=("pool", "cause"),
           doc="Launches that brought no runner up, by cause.", values=of_counts(lambda tally: tally.failures)),
    Metric(name="flame_launch_failures_in_row", kind="gauge", labels=("pool",),
           doc="Launches that failed since one went well.",
           values=of_pools(lambda pool: pool.breaker.failed if pool.breaker else 0)),
    Metric(name="flame_launch_pause_seconds", kind="gauge", labels=("pool",),
           doc="In how many seconds the next launch may be tried.",
           values=of_pools(lambda pool: pool.breaker.retry_in if pool.breaker else 0.0)),
    Metric(name="flame_boot_seconds", kind="histogram", labels=("pool",), doc="From a runner's launch to its hello.",
           values=of_counts(lambda tally: tally.boots)),
    Metric(name="flame_boot_phase_seconds", kind="histogram", labels=("pool", "phase"),
           doc="What parts of that took, of runners that tell.", values=of_counts(lambda tally: tally.phases)),
    Metric(name="flame_runners_ended_total", kind="counter", labels=("pool", "reason"),
           doc="Runners that are gone, by the reason they gave.", values=of_counts(lambda tally: tally.endings)),
    Metric(name="flame_billed_runner_seconds_total", kind="counter", labels=("pool",),
           doc="Seconds that runners are billed for, ended ones too; told by the parent that acts, and passed on.",
           values=_billed),
)  # fmt: skip


class Metrics:
    """Renders all metrics with prometheus_client, from a registry of its own."""

    def __init__(self, latest: Callable[[], Overview | None], tally: Tally) -> None:
        """Load the library now, not when pool processes may be forked in the middle of it.

        Raises:
            PageError: it is not installed.
        """
        try:
            self._library: Any = importlib.import_module("prometheus_client")
            self._families: Any = importlib.import_module("prometheus_client.core")
        except ImportError as exc:
            raise PageError("metrics need prometheus_client: pip install 'celery-flame-ec2[metrics]'") from exc
        self._latest, self._tally = latest, tally
        self._registry = self._library.CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    @property
    def kind(self) -> str:
        """Return the content type of what is rendered."""
        return str(self._library.CONTENT_TYPE_LATEST)

    def render(self) -> bytes:
        """Return all metrics as Prometheus reads them; of the overview none before the first round."""
        return bytes(self._library.generate_latest(self._registry))

    def collect(self) -> Iterator[Any]:
        """Yield each metric with its values, for the registry."""
        overview = self._latest()
        if overview is not None:
            for metric in METRICS:
                yield self._family(metric, metric.values(overview, self._tally))

    def _family(self, metric: Metric, values: Iterable[tuple[tuple[str, ...], Any]]) -> Any:
        make = getattr(self._families, f"{metric.kind.capitalize()}MetricFamily")
        family = make(metric.name, metric.doc, labels=metric.labels)
        for labels, value in values:
            if isinstance(value, Durations):
                family.add_metric(labels, buckets=value.buckets, sum_value=value.sum)
            else:
                family.add_metric(labels, value)
        return family
