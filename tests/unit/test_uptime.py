"""What parts a boot is made of."""

from __future__ import annotations

import subprocess
import sys

import pytest

from celery_flame_ec2.uptime import PHASES, ages, phases


def test_a_boot_is_told_by_phase() -> None:
    told = phases(40.0, (28.0, 5.0))
    assert told == {"machine": 12.0, "release": 23.0, "worker": 5.0}
    assert list(told) == list(PHASES)


@pytest.mark.parametrize("machine", [41.0, 1e7, 4.0])
def test_the_age_of_a_machine_that_was_not_booted_for_it_is_no_phase(machine: float) -> None:
    assert phases(40.0, (machine, 5.0)) == {"worker": 5.0}


@pytest.mark.parametrize("told", [None, (60.0, 43.0)])
def test_what_was_not_told_or_cannot_be_is_no_phase(told: tuple[float, float] | None) -> None:
    assert phases(40.0, told) == {}


def test_a_hello_that_is_said_while_a_round_looks_is_no_later_than_the_boot_took() -> None:
    assert phases(40.0, (1e7, 41.5)) == {"worker": 40.0}


def test_a_process_knows_how_old_it_and_its_machine_are() -> None:
    code = "import sys; from celery_flame_ec2.uptime import ages; print(ages()); sys.stdin.read()"
    told = subprocess.run([sys.executable, "-c", code], input="", capture_output=True, text=True, check=True).stdout
    machine, process = map(float, told.strip("()\n").split(", "))
    own = ages()
    assert own is not None
    assert process < own[1] <= own[0]  # a younger process on the same machine
    assert machine <= own[0]
