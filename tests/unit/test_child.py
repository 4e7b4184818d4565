"""Which listings show a runner?"""

from __future__ import annotations

import dataclasses

import pytest

from celery_flame_ec2.cli.child import place_of
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
