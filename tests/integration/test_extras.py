"""Do dashboard and alert rules ask for metrics there are, in words Prometheus takes, and fire when they should?"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from celery_flame_ec2 import signals
from celery_flame_ec2.address import Address
from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.overview import CostOverview, QueueOverview
from celery_flame_ec2.page import Page
from celery_flame_ec2.page.metrics import METRICS
from celery_flame_ec2.uptime import PHASES
from tests.conftest import servers_or_skip
from tests.overviews import NOON, overview, pool
from tests.servers import PrometheusServer, find_program
from tests.waiting import wait_until
from tests.workers import ROOT

ALERTS, DASHBOARD = ROOT / "extras" / "prometheus-alerts.yml", ROOT / "extras" / "grafana-dashboard.json"
#: What Grafana puts in the place of its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$job": ".*", "$pool": ".*"}
#: Every series there can be.
SERIES = {
    metric.name + suffix
    for metric in METRICS
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def asked(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield every expression of the dashboard as Grafana sends it."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield expression


def promtool(*words: str | Path) -> str:
    with servers_or_skip():
        done = subprocess.run(
            [find_program("promtool"), *words], cwd=ROOT / "tests" / "integration", capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_metric_that_is_asked_for_exists(dashboard: dict[str, Any], rules: list[dict[str, Any]]) -> None:
    queries = [variable["definition"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    named = [re.findall(r"\bflame_\w+", each) for each in (*asked(dashboard), *queries, *(r["expr"] for r in rules))]
    assert all(named), "an expression that asks for no metric of ours"
    assert set(itertools.chain(*named)) <= SERIES


def test_each_alert_says_how_bad_it_is_and_what_to_do(rules: list[dict[str, Any]]) -> None:
    for rule in rules:
        assert rule["alert"].startswith("Flame")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description"} == rule["annotations"].keys()
    assert len({rule["alert"] for rule in rules}) == len(rules)


def test_alerts_fire_when_they_should_and_only_then(rules: list[dict[str, Any]]) -> None:
    promtool("test", "rules", "alerts.yml")
    played = (ROOT / "tests" / "integration" / "alerts.yml").read_text()
    assert {name for name in (rule["alert"] for rule in rules) if f'alertname="{name}"' not in played} == set()


def test_the_dashboard_is_laid_out_and_its_variables_exist(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, f"{panel['title']} overlaps another"
        taken |= cells
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(panels) + json.dumps(dashboard["templating"])))
    assert used - {"__rate_interval", "__range", "__all"} == variables


def test_each_legend_names_labels_that_its_expression_keeps(dashboard: dict[str, Any]) -> None:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            kept = re.match(r"(?:histogram_quantile\([\d.]+, )?\w+ by \(([\w, ]+)\)", target["expr"])
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert labels <= set(kept[1].split(", ") if kept else ()), target["expr"]


@pytest.fixture(scope="module")
def prometheus() -> Iterator[PrometheusServer]:
    """A Prometheus that asked a page, again and again, while everything happened that is counted."""
    page = Page(Settings(pools=(PoolSettings(name="video", queues=("video",)),)), Address(host="127.0.0.1", port=0))
    page.start()
    with servers_or_skip(), PrometheusServer(str(page.address), ALERTS) as server:
        for number in range(8):
            before = count(server)
            happen(page, number)
            wait_until(lambda: count(server) > before, what="another answer of the page")  # noqa: B023
        yield server
    page.stop()


def count(server: PrometheusServer) -> int:
    """Return how many rounds of the page the server has heard of."""
    found = server.query("flame_tick_seconds_count")
    return int(found[0]["value"][1]) if found else 0


def happen(page: Page, number: int) -> None:
    signals.runner_launched.send(sender="video", runner=None, reason="")
    signals.launch_failed.send(sender="video", reason="", kind="boot")
    signals.runner_up.send(sender="video", runner=None, seconds=40.0, phases=dict.fromkeys(PHASES, 13.0))
    signals.runner_ended.send(sender="video", runner=None, reason="", kind="idle")
    cost = CostOverview(since=NOON, ended=1, seconds=100.0 * number, hourly_price=None, cost=None, hourly=None)
    queues = (QueueOverview(name="video", waiting=number, oldest_wait=12.0),)
    page.after_round(overview(pool(queues=queues, cost=cost)), 0.1)


def test_a_prometheus_takes_every_metric_and_each_panel_shows_something(
    prometheus: PrometheusServer, dashboard: dict[str, Any]
) -> None:
    (target,) = prometheus.query("up")
    assert target["value"][1] == "1"
    heard = {each["metric"]["__name__"] for each in prometheus.query('{__name__=~"flame_.+"}')}
    assert heard | {"flame_queue_held_tasks"} == SERIES  # of which this page tells nothing
    for expression in asked(dashboard):
        assert prometheus.query(expression), f"nothing is shown for {expression}"


def test_a_prometheus_that_loads_the_rules_raises_what_is_to_be_raised(prometheus: PrometheusServer) -> None:
    def raised() -> Sequence[str]:
        return sorted(each["metric"]["alertname"] for each in prometheus.query('ALERTS{alertstate="firing"}'))

    wait_until(lambda: raised() == ["FlameBootsFail"], what="the one alert that waits for nothing")


def test_prometheus_finds_nothing_to_object_to_in_names_and_units(prometheus: PrometheusServer) -> None:
    (target,) = prometheus.query("up")
    with servers_or_skip():
        program = find_program("promtool")
    shell = subprocess.run(
        [program, "check", "metrics"], input=_metrics(target["metric"]["instance"]), capture_output=True, check=False
    )
    assert (shell.returncode, shell.stdout.decode(), shell.stderr.decode()) == (0, "", "")


def _metrics(instance: str) -> bytes:
    with urllib.request.urlopen(f"http://{instance}/metrics", timeout=10) as answer:
        return bytes(answer.read())
