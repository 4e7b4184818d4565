"""What Prometheus is told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from celery_flame_ec2 import signals
from celery_flame_ec2.errors import FAILURE_KINDS, PageError
from celery_flame_ec2.lifetime import ENDING_KINDS
from celery_flame_ec2.overview import BreakerOverview, CostOverview, Overview, QueueOverview
from celery_flame_ec2.page.metrics import METRICS, Metrics
from celery_flame_ec2.page.tally import BOOT_BUCKETS, Tally
from tests.overviews import NOON, overview, pool

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def tally() -> Iterator[Tally]:
    counting = Tally(["video", "audio"])
    counting.connect()
    yield counting
    counting.disconnect()


def read(shown: Overview | None, tally: Tally) -> Samples:
    """Return what a Prometheus makes of the metrics."""
    text = Metrics(lambda: shown, tally).render().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_the_overview_is_told_by_pool_queue_and_state(tally: Tally) -> None:
    queues = (QueueOverview(name="a", waiting=7, held=3, oldest_wait=12.5), QueueOverview(name="b", waiting=0))
    states = {"booting": 2, "up": 3, "cordoned": 0, "ending": 1}
    breaker = BreakerOverview(failed=4, cause="no capacity", at=NOON, retry_in=37.5)
    samples = read(overview(pool(queues=queues, states=states, running=9, breaker=breaker, unclear=1)), tally)

    assert value(samples, "flame_queue_tasks", pool="video", queue="a") == 7
    assert value(samples, "flame_queue_tasks", pool="video", queue="b") == 0
    assert value(samples, "flame_queue_held_tasks", pool="video", queue="a") == 3
    assert value(samples, "flame_queue_oldest_wait_seconds", pool="video", queue="a") == 12.5
    assert value(samples, "flame_running_tasks", pool="video") == 9
    assert {state: value(samples, "flame_runners", pool="video", state=state) for state in states} == states
    assert value(samples, "flame_runners_unclear", pool="video") == 1
    assert value(samples, "flame_runners_max", pool="video") == 10
    assert value(samples, "flame_launch_failures_in_row", pool="video") == 4
    assert value(samples, "flame_launch_pause_seconds", pool="video") == 37.5
    assert value(samples, "flame_acting") == 1
    assert value(samples, "flame_last_tick_timestamp_seconds") == NOON
    assert value(samples, "flame_info", owner="proj@broker/0", backend="ec2") == 1


def test_what_is_not_known_has_no_value_and_is_told_to_be_unknown(tally: Tally) -> None:
    blind = pool(queues=(QueueOverview(name="a", waiting=None),), running=None, unknown="no broker")
    samples = read(overview(blind, runners_unknown="no EC2", acts=False), tally)

    assert not [name for name, _ in samples if name in {"flame_queue_tasks", "flame_running_tasks"}]
    assert value(samples, "flame_queues_known", pool="video") == 0
    assert value(samples, "flame_runners_known") == 0
    assert value(samples, "flame_acting") == 0


def test_before_the_first_round_there_is_nothing(tally: Tally) -> None:
    assert read(None, tally) == {}


def test_signals_are_counted(tally: Tally) -> None:
    signals.runner_launched.send(sender="video", runner=None, reason="")
    signals.runner_launched.send(sender="video", runner=None, reason="")
    signals.launch_failed.send(sender="video", reason="", kind="quota")
    signals.runner_up.send(sender="video", runner=None, seconds=41.0, phases={"machine": 9.0, "release": 30.0})
    signals.runner_ended.send(sender="video", runner=None, reason="", kind="spot")
    samples = read(overview(), tally)

    assert value(samples, "flame_launches_total", pool="video") == 2
    assert value(samples, "flame_launch_failures_total", pool="video", cause="quota") == 1
    assert value(samples, "flame_boot_seconds_count", pool="video") == 1
    assert value(samples, "flame_boot_seconds_sum", pool="video") == 41
    assert value(samples, "flame_boot_seconds_bucket", pool="video", le="30.0") == 0
    assert value(samples, "flame_boot_seconds_bucket", pool="video", le="45.0") == 1
    assert value(samples, "flame_boot_phase_seconds_sum", pool="video", phase="release") == 30
    assert value(samples, "flame_boot_phase_seconds_count", pool="video", phase="worker") == 0
    assert value(samples, "flame_runners_ended_total", pool="video", reason="spot") == 1


def test_every_count_begins_at_zero_and_only_known_pools_and_kinds_are_counted(tally: Tally) -> None:
    before = read(overview(), tally)
    signals.runner_launched.send(sender="stranger", runner=None, reason="")
    signals.launch_failed.send(sender="video", reason="", kind="i-0123456789")
    signals.runner_up.send(sender="stranger", runner=None, seconds=1.0, phases={})
    signals.runner_ended.send(sender="stranger", runner=None, reason="", kind="idle")

    assert read(overview(), tally) == before
    for kind in FAILURE_KINDS:
        assert value(before, "flame_launch_failures_total", pool="audio", cause=kind) == 0
    for kind in ENDING_KINDS:
        assert value(before, "flame_runners_ended_total", pool="audio", reason=kind) == 0


def test_a_tally_that_is_disconnected_counts_no_more(tally: Tally) -> None:
    tally.disconnect()
    signals.runner_launched.send(sender="video", runner=None, reason="")
    assert tally.launches["video"] == 0


def test_rounds_are_counted_with_how_long_they_took(tally: Tally) -> None:
    for seconds in (0.004, 0.005, 0.2, 99.0):
        tally.ticks.add(seconds)
    samples = read(overview(), tally)

    assert value(samples, "flame_tick_seconds_count") == 4
    assert value(samples, "flame_tick_seconds_bucket", le="0.005") == 2
    assert value(samples, "flame_tick_seconds_bucket", le="30.0") == 3
    assert value(samples, "flame_tick_seconds_sum") == pytest.approx(99.209)


def test_billed_seconds_are_those_of_the_overview(tally: Tally) -> None:
    cost = CostOverview(since=NOON, ended=1, seconds=1234.5, hourly_price=None, cost=None, hourly=None)
    assert value(read(overview(pool(cost=cost)), tally), "flame_billed_runner_seconds_total", pool="video") == 1234.5


def test_names_follow_the_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"flame_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.doc.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert list(BOOT_BUCKETS) == sorted(BOOT_BUCKETS)


def test_no_label_grows_with_the_fleet() -> None:
    assert {label for metric in METRICS for label in metric.labels} == {
        "owner", "backend", "pool", "queue", "state", "cause", "phase", "reason",
    }  # fmt: skip


def test_without_the_library_it_is_told_what_to_install(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(PageError, match=r"pip install 'celery-flame-ec2\[metrics\]'"):
        Metrics(lambda: None, tally)


def test_flames_command_line_loads_no_metrics() -> None:
    heavy = {"prometheus_client", "http.server"}
    code = f"import celery_flame_ec2, celery_flame_ec2.cli, sys; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
