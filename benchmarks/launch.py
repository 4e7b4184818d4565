"""How fast, and in how many calls, does a parent raise 10, 100 and 1,000 runners, and what does a round cost it?

    make bench-launch [JSON=figures.json]       or: python -m benchmarks.launch [--rounds 10] [--json figures.json]

Launches happen on a virtual clock, against an EC2 inside this process that holds callers to the documented limits.
Rounds are real: a redis-server, runners that speak through it, and a server that lists them as EC2 does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from botocore.exceptions import ClientError

from benchmarks.parent import Cost, cost
from celery_flame_ec2.config import Ec2Options, PoolSettings
from tests.chaos.ec2 import IMAGE, wire
from tests.chaos.parents import Deployment
from tests.chaos.world import EPOCH, OWNER, ZONES
from tests.servers import RedisServer

RAISED = (10, 100, 1000)
QUEUES, RUNNERS = (10, 100, 1000), (100, 1000, 10000)
AIM = {(100, 1000): 50.0}  #: (queues, runners) -> ms a round
TASK = 36000.0  #: seconds
PATIENCE = 0.5  #: seconds one call at a time waits after it was throttled, which is when the next token comes
EC2 = Ec2Options(
    app="bench", s3_bundle_url="s3://releases/bench.tar.gz", region="eu-central-1", image_id=IMAGE,
    subnet_id=tuple(ZONES), security_group_id=("sg-00000001",), instance_type=("c7i.large",),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Raising:
    """How so many runners were raised: by whom, launch requests, those of them that were throttled, seconds."""

    by: str
    runners: int
    calls: int
    throttled: int
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measured of each parent, at least")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    logging.getLogger("celery_flame_ec2").setLevel(logging.ERROR)
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}
    raisings = list(raise_all())
    costs = list(cost_all(options.rounds))
    show_growth(costs)
    if options.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        machine |= {name: version(name) for name in ("celery", "kombu", "redis", "botocore")}
        figures = {"machine": machine, "raising": list(map(asdict, raisings)), "round": list(map(asdict, costs))}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


# raising


def raise_all() -> Iterator[Raising]:
    print("virtual time from the tasks' arrival until all runners are launched; EC2 takes 0.02 to 0.8 s to answer")
    print(f"{'runners':>8}  {'':22} {'calls':>6} {'throttled':>9} {'seconds':>8} {'ratio':>7}")
    for runners in RAISED:
        ours, each = by_the_parent(runners), by_one_call_each(runners)
        for one in (ours, each):
            row = f"{one.runners:8}  {one.by:22} {one.calls:6} {one.throttled:9} {one.seconds:8.1f}"
            print(f"{row} {one.seconds / ours.seconds:6.1f}x", flush=True)
        yield from (ours, each)


def by_the_parent(runners: int) -> Raising:
    """Have so many tasks wait for a parent, and let it do round after round."""
    pool = PoolSettings(name="bench", queues=("bench",), max=runners, max_concurrency=1, ec2=EC2)
    deployed = _deployed(pool)
    deployed.world.arrive("bench", [TASK] * runners)
    deployed.start()
    while len(deployed.world.ec2.running(OWNER, "bench")) < runners:
        deployed.round(1.0)
    return _raising("celery-flame-ec2", runners, deployed)


def by_one_call_each(runners: int) -> Raising:
    """Ask for one instance after the other, as FlameEC2 does.

    FlameEC2 itself would give up where it is throttled; here the call is made again until it is granted.
    """
    deployed = _deployed(PoolSettings(name="bench", queues=("bench",), max=runners, max_concurrency=1, ec2=EC2))
    deployed.start()
    wire().callers.append(deployed.parents[0].name)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "flame:pool", "Value": "bench"}]}]
    request = {"ImageId": IMAGE, "InstanceType": "c7i.large", "SubnetId": EC2.subnet_id[0], "TagSpecifications": tags}
    for _ in range(runners):
        while True:
            try:
                wire().client.run_instances(MinCount=1, MaxCount=1, ClientToken=secrets.token_hex(16), **request)
                break
            except ClientError:
                deployed.world.advance(PATIENCE)
    return _raising("one call per instance", runners, deployed)


def _deployed(pool: PoolSettings) -> Deployment:
    deployed = Deployment((pool,), seed=1)
    deployed.world.ec2.conditions.throttle_as_aws()
    return deployed


def _raising(by: str, runners: int, deployed: Deployment) -> Raising:
    ec2 = deployed.world.ec2
    calls = [call for call in ec2.calls if call.action == "RunInstances"]
    launched = sorted(each.launched_at for each in ec2.instances.values() if each.token)
    return Raising(
        by=by, runners=runners, calls=len(calls), throttled=len(calls) - len(ec2.launches), seconds=launched[-1] - EPOCH
    )  # fmt: skip


# rounds


def cost_all(rounds: int) -> Iterator[Cost]:
    print("\nms of the parent's CPU time for a round, of which there is one a second; each queue is a pool of its own;")
    print(
        "most: where every runner has news at every beat; what else this machine does makes all of it slower: ", end=""
    )
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    columns = ("measuring", "hearing", "deciding", "listing", "total", "most")
    print(f"{'queues':>7} {'runners':>8} {' '.join(f'{name:>9}' for name in columns)}")
    with RedisServer() as redis:
        for queues, runners in itertools.product(QUEUES, RUNNERS):
            found = cost(redis.url, queues, runners, rounds)
            parts = " ".join(f"{getattr(found, name):9.1f}" for name in columns)
            print(f"{queues:7} {runners:8} {parts}{_verdict(found)}", flush=True)
            yield found


def show_growth(costs: list[Cost]) -> None:
    """Print by what the total grows where queues, or runners, or both are ten times as many."""
    totals = {(cost.queues, cost.runners): cost.total for cost in costs}
    print()
    for words, q, r in (("queues", 10, 1), ("runners", 1, 10), ("of both", 10, 10)):
        grown = [totals[a * q, b * r] / total for (a, b), total in totals.items() if (a * q, b * r) in totals]
        print(f"ten times as many {words:8} {', '.join(f'{ratio:.1f}x' for ratio in grown)}")


def _verdict(found: Cost) -> str:
    aim = AIM.get((found.queues, found.runners))
    return "" if aim is None else f"  aim {aim:g} ms: {'met' if found.total < aim else 'MISSED'}"


if __name__ == "__main__":
    main()
