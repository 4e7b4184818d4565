"""Who decides: our policy at several target waits, or another tool?"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.policy.loads import Load
from benchmarks.policy.peers import PEERS, Peer
from celery_flame_ec2.lifetime import CORDONED_PATIENCE
from celery_flame_ec2.simulate.world import Policy

#: The default of `target_wait` is the second.
TARGET_WAITS = (0.0, 30.0, 120.0)
DEFAULT = "ours, target 30 s"
LONG_IDLE = "plain depth, idle 300 s"
#: Seconds without any change after which our policy has nothing more to decide.
SETTLED = 900.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """A policy to be made for a run over a load, and what pool and world it needs. Times are seconds."""

    name: str
    make: Callable[[Load], Policy]
    interval: float = 1.0
    settled: float
    cordoned_patience: float
    pool: Mapping[str, Any] = field(default_factory=dict)


def contenders(path: str, constants: Mapping[str, float]) -> dict[str, Contender]:
    """Return all by name, ours first; `path` names our policy as 'module:name', made anew for each run if a class."""
    ours = [_ours(path, wait, constants) for wait in TARGET_WAITS]
    return {contender.name: contender for contender in (*ours, *map(_peer, PEERS))}


def policy_at(path: str, constants: Mapping[str, float]) -> Policy:
    """Return the policy that 'module:name' names; a class is made with `constants`.

    For a function they replace numbers of its module by name, for this process.
    """
    module_name, _, name = path.partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, name)
    if isinstance(found, type):
        return found(**constants)  # type: ignore[no-any-return]
    for constant, value in constants.items():
        setattr(module, constant, value)
    return found  # type: ignore[no-any-return]


def is_ours(name: str) -> bool:
    """Tell whether a contender of that name is our policy."""
    return name.startswith("ours")


def _ours(path: str, wait: float, constants: Mapping[str, float]) -> Contender:
    return Contender(
        name=f"ours, target {wait:g} s",
        make=lambda _: policy_at(path, constants),
        settled=SETTLED,
        cordoned_patience=CORDONED_PATIENCE,
        pool={"target_wait": wait},
    )


def _peer(peer: Peer) -> Contender:
    return Contender(
        name=peer.name,
        make=peer.policy,
        interval=peer.interval,
        settled=peer.settled,
        cordoned_patience=0.0,
        pool={"idle_shutdown_after": peer.idle},
    )
