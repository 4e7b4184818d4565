"""Which listings show a runner?"""

from __future__ import annotations

import dataclasses

import pytest

from celery_flame_ec2.cli.child import place_of, worker_arguments
from celery_flame_ec2.parent import Parent

LETTER = Parent(owner="test", pool="pool", backend="ec2", queues=("celery",), concurrency=1)


@pytest.mark.parametrize(
    ("backend", "environ", "place"),
    [
        pytest.param("ec2", {"FLAME_RUNNER_ID": "i-1"}, "ec2", id="an instance"),
        pytest.param("local", {"FLAME_RUNNER_ID": "l-1", "FLAME_PLACE": "host:1:2"}, "host:1:2", id="a child process"),
        pytest.param("ec2", {}, "", id="started by hand: no listing would show the name it gave itself"),
    ],
)
def test_a_runner_is_looked_for_only_in_listings_that_would_show_it(
    backend: str, environ: dict[str, str], place: str
) -> None:
    assert place_of(dataclasses.replace(LETTER, backend=backend), environ) == place


def test_a_runners_worker_is_one_of_many_unless_its_pool_says_otherwise() -> None:
    made = worker_arguments(LETTER, "i-1")
    assert (made["prefetch_multiplier"], made["optimization"]) == (1, "fair")
    assert (made["without_gossip"], made["without_mingle"]) == (True, True)
    options = {"prefetch_multiplier": 4, "without_gossip": False, "concurrency": 9}
    chosen = worker_arguments(dataclasses.replace(LETTER, worker_options=options), "i-1")
    assert (chosen["prefetch_multiplier"], chosen["without_gossip"], chosen["without_mingle"]) == (4, False, True)
    assert chosen["concurrency"] == 1  # which the letter says
