"""What does every metric mean? Prints docs/metrics.md from the code: `python docs/metrics.py > docs/metrics.md`."""

from __future__ import annotations

from collections.abc import Mapping

from celery_flame_ec2.errors import FAILURE_KINDS
from celery_flame_ec2.lifetime import ENDING_KINDS
from celery_flame_ec2.page.metrics import METRICS
from celery_flame_ec2.uptime import PHASES

INTRODUCTION = """\
# Metrics

What can Prometheus ask of a parent, and what does each series mean? A parent that [serves its page](page.md) serves
metrics beside it, at `/metrics`. They need an extra:

```sh
pip install "celery-flame-ec2[metrics]"
```

```yaml
scrape_configs:
  - job_name: flame
    static_configs: [{targets: ["127.0.0.1:9809"]}]
    # where flame_http_token is set:
    # authorization: {credentials_file: /etc/prometheus/flame-token}
```

Scrape every parent. Each tells what it sees; only the one that acts launches, and so counts. Therefore sum counters
over parents, and take the maximum of gauges, as these two do:

* [`extras/grafana-dashboard.json`](../extras/grafana-dashboard.json): import it in Grafana and choose your Prometheus.
* [`extras/prometheus-alerts.yml`](../extras/prometheus-alerts.yml): name it under `rule_files` in `prometheus.yml`.

Labels are pools, queues and the few words below: no series is about a single runner, so their number does not grow
with the fleet. What is not known has no value: an unknown queue is never an empty one.

This page is printed from the code by `python docs/metrics.py`.

## All metrics

| metric | kind | labels | |
|---|---|---|---|"""
CAUSES = "\n## `cause` of a launch that failed\n\n| cause | |\n|---|---|"
BOOT = "\n## `phase` of a boot\n\n| phase | |\n|---|---|"
REASONS = "\n## `reason` of a runner that ended\n\n| reason | |\n|---|---|"


def main() -> None:
    print(INTRODUCTION)
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        print(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.doc} |")
    for title, kinds in ((CAUSES, FAILURE_KINDS), (BOOT, PHASES), (REASONS, ENDING_KINDS)):
        print_kinds(title, kinds)


def print_kinds(title: str, kinds: Mapping[str, str]) -> None:
    print(title)
    for kind, words in kinds.items():
        print(f"| `{kind}` | {words} |")


if __name__ == "__main__":
    main()
