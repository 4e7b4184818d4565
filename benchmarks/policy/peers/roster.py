"""Which tools are compared with?"""

from __future__ import annotations

from .aws import INTERVAL as METRICS
from .aws import TargetTracking
from .dask import Adaptive
from .depth import depth
from .ecs import INTERVAL as LOOP
from .ecs import Pressure
from .flame import ManyCallers, OneBoot
from .keda import SYNC, RedisList
from .peer import Peer

#: `settled` is the longest time each of them remembers: cooldowns, windows, datapoints.
PEERS = (
    Peer(name="flame, one boot", make=lambda _: OneBoot(), settled=5.0, idle=30.0),
    Peer(name="flame, many callers", make=lambda _: ManyCallers(), settled=1.0, idle=30.0),
    Peer(name="celery-ecs-autoscaler", make=lambda _: Pressure(), interval=LOOP, settled=200.0),
    Peer(name="keda redis list", make=lambda _: RedisList(), interval=SYNC, settled=400.0),
    Peer(
        name="aws target tracking",
        make=lambda load: TargetTracking(load.mean_runtime()),
        interval=METRICS,
        settled=1200.0,
    ),
    Peer(name="dask adaptive", make=lambda _: Adaptive(), settled=10.0),
    Peer(name="plain depth, idle 30 s", make=lambda _: depth, settled=1.0, idle=30.0),
    Peer(name="plain depth, idle 300 s", make=lambda _: depth, settled=1.0, idle=300.0),
)
