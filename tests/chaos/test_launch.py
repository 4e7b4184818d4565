"""Any mix of EC2's moods, sick machines and dying parents, by a state machine on a virtual clock.

    make chaos-launch SCHEDULES=1000

A failure prints the shortest schedule found, and a line `@reproduce_failure(...)` that plays it again: put it above
`class Launching`.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from celery_flame_ec2.config import Ec2Options, PoolSettings
from tests.box.conditions import Failure
from tests.box.wire import Refusal
from tests.chaos.ec2 import IMAGE
from tests.chaos.parents import NOTES, STILL, Ambush, Deployment, VirtualParent
from tests.chaos.world import ZONES, Hog, Ill

SCHEDULES = int(os.environ.get("SCHEDULES") or 1000)
#: At most; a schedule has two thirds of it on average.
STEPS = 75
PARENTS = 3
#: Seconds a listing lags at most: together with STILL less than the while for which the next parent counts what it
#: cannot see.
LAG = 30

EC2 = Ec2Options(
    app="shop", s3_bundle_url="s3://releases/shop.tar.gz", region="eu-central-1", image_id=IMAGE,
    subnet_id=tuple(ZONES), security_group_id=("sg-00000001",), boot_timeout=60.0,
    instance_type=("c7i.large", "m7i.large"), market=("spot", "on-demand"),
)  # fmt: skip
VIDEO = PoolSettings(
    name="video", queues=("video",), max=4, max_concurrency=2, shutdown_timeout=10.0, max_lifetime=1800.0, ec2=EC2
)
AUDIO = PoolSettings(
    name="audio", queues=("audio",), min=1, max=3, shutdown_timeout=10.0, max_lifetime=1800.0,
    ec2=dataclasses.replace(EC2, instance_type=("c7i.large",), market=("on-demand",)),
)  # fmt: skip

pools = st.sampled_from(["video", "audio"])
places = st.sampled_from(sorted(ZONES.items()))
markets = st.sampled_from(["spot", "on-demand"])
kinds = st.sampled_from(["c7i.large", "m7i.large"])
offers = st.builds(lambda market, kind, place: (market, kind, place[1], place[0]), markets, kinds, places)
#: By how many seconds a parent's clock is off.
offsets = st.integers(-120, 120)
actions = st.sampled_from(["RunInstances", "RunInstances", "TerminateInstances", "DescribeInstances", "DescribeImages"])
parents_actions = actions | st.sampled_from(sorted(NOTES))
refusals = st.sampled_from([
    ("InternalError", 500), ("Unavailable", 503), ("RequestLimitExceeded", 503), ("UnauthorizedOperation", 403),
    ("InsufficientInstanceCapacity", 500), ("InsufficientFreeAddressesInSubnet", 400), ("VcpuLimitExceeded", 400),
    ("MaxSpotInstanceCountExceeded", 400), ("RequestExpired", 400), ("InvalidParameterValue", 400), ("Blocked", 400),
])  # fmt: skip
late_codes = st.sampled_from(
    ["Server.InternalError", "Server.InsufficientInstanceCapacity", "Client.VolumeLimitExceeded"]
)


class Launching(RuleBasedStateMachine):
    """Parents that keep two pools, and everything that happens to them."""

    def __init__(self) -> None:
        super().__init__()
        self.all = Deployment((VIDEO, AUDIO), seed=0)
        self.world, self.conditions = self.all.world, self.all.world.ec2.conditions

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        parents=st.lists(offsets, min_size=1, max_size=PARENTS),
        pause=st.sampled_from([None, 20.0, 60.0, 300.0]),
        lag=st.sampled_from([0, 10, LAG]),
    )
    def parents_start(self, seed: int, parents: list[int], pause: float | None, lag: int) -> None:
        self.world.random.seed(seed)
        self.conditions.launch_lag = lambda: float(lag)
        if pause is not None:
            self.world.keep_busy(pause)
        for offset in parents:
            self.all.start(offset)

    # time and work

    @rule(rounds=st.integers(1, 8), seconds=st.sampled_from([1.0, 1.0, 3.0, 10.0]))
    def time_passes(self, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            self.all.round(seconds)

    @rule(rounds=st.integers(2, 8))
    def much_time_passes(self, rounds: int) -> None:
        for _ in range(rounds):
            self.all.round(30.0)

    @rule(pool=pools, durations=st.lists(st.integers(1, 90), min_size=1, max_size=10))
    def tasks_arrive(self, pool: str, durations: list[int]) -> None:
        self.world.arrive(pool, [float(each) for each in durations])
        self._go_on()

    @rule(pool=pools, durations=st.lists(st.integers(10, 60), min_size=1, max_size=10))
    def tasks_arrive_that_keep_runners_from_speaking(self, pool: str, durations: list[int]) -> None:
        self.world.arrive(pool, [Hog(each) for each in durations])
        self._go_on()

    @rule(pool=pools)
    def what_waits_is_purged(self, pool: str) -> None:
        self.world.purge(pool)
        self._go_on()

    # EC2

    @rule(what=st.sampled_from(["room", "addresses", "quota"]), offer=offers, left=st.integers(0, 2))
    def ec2_runs_short(self, what: str, offer: tuple[str, str, str, str], left: int) -> None:
        market, kind, zone, subnet = offer
        if what == "room":
            self.conditions.room[market, kind, zone] = left
        elif what == "addresses":
            self.conditions.addresses[subnet] = left
        else:
            self.conditions.quotas[market, kind.partition(".")[0]] = left

    @rule(what=st.sampled_from(["throttles", "calls", "boots"]))
    def ec2_is_slow(self, what: str) -> None:
        if what == "throttles":
            self.conditions.throttle_as_aws()
        self.all.slow = self.all.slow or what == "calls"
        self.world.slow_boots = self.world.slow_boots or what == "boots"

    @rule(launch=st.integers(0, LAG), end=st.integers(0, 60))
    def listings_lag(self, launch: int, end: int) -> None:
        self.conditions.launch_lag, self.conditions.end_lag = (lambda: float(launch)), (lambda: float(end))
        self._go_on()

    @rule(page=st.integers(0, 2))
    def listings_fail(self, page: int) -> None:
        self.world.ec2.fails_from_page = page
        self._go_on()

    @rule(action=actions, refusal=refusals, times=st.integers(1, 3))
    def ec2_refuses(self, action: str, refusal: tuple[str, int], times: int) -> None:
        code, status = refusal
        queue = self.world.ec2.refusals.setdefault(action, [])
        queue += [Refusal(code, "so it was drawn", status)] * times
        self._go_on()

    @rule(after=st.integers(1, 90), code=late_codes, times=st.integers(1, 3))
    def launches_will_fail_late(self, after: int, code: str, times: int) -> None:
        self.world.failures += [Failure(after=float(after), code=code)] * times

    @rule(action=parents_actions, done=st.booleans(), times=st.sampled_from([1, 2, 2, 3]))
    def answers_get_lost(self, action: str, done: bool, times: int) -> None:
        self.all.ambushes += [Ambush(action=action, done=done, lost=True)] * times
        self._go_on()

    @rule()
    def ec2_is_well_again(self) -> None:
        self.all.heal()
        self._go_on()

    # machines

    @rule(ills=st.lists(st.sampled_from(Ill), min_size=1, max_size=3))
    def machines_will_be_ill(self, ills: list[Ill]) -> None:
        self.world.ills += ills

    @rule(number=st.integers(0, 20))
    def a_machine_is_taken_away(self, number: int) -> None:
        living = [machine for machine in self.world.machines.values() if machine.alive]
        if living:
            self.world.interrupt(living[number % len(living)])
        self._go_on()

    # parents

    @precondition(lambda self: len(self.all.parents) < PARENTS)
    @rule(offset=offsets)
    def a_parent_starts(self, offset: int) -> None:
        self.all.start(offset)
        self._go_on()

    @precondition(lambda self: self.all.parents)
    @rule(number=st.integers(0, PARENTS - 1), cleanly=st.booleans(), again=st.booleans())
    def a_parent_ends(self, number: int, cleanly: bool, again: bool) -> None:
        end, parent = self.all.stop if cleanly else self.all.crash, self._parent(number)
        end(parent)
        if again:
            self.all.start(parent.wall.offset)
        self._go_on()

    @precondition(lambda self: self.all.parents)
    @rule(number=st.integers(0, PARENTS - 1))
    def a_parent_stands_still(self, number: int) -> None:
        self._parent(number).paused = True
        self._go_on()

    @precondition(lambda self: self.all.parents)
    @rule(number=st.integers(0, PARENTS - 1), offset=offsets)
    def a_clock_is_set(self, number: int, offset: int) -> None:
        self._parent(number).wall.offset = offset
        self._go_on()

    @precondition(lambda self: self.all.parents)
    @rule(number=st.integers(0, PARENTS - 1), seconds=st.sampled_from([5, 15, 30, 120]))
    def words_get_lost(self, number: int, seconds: int) -> None:
        self.all.deafen(self._parent(number), float(seconds))
        self._go_on()

    @rule()
    def all_parents_go_on(self) -> None:
        for parent in self.all.parents:
            parent.paused = False
        self._go_on()

    @rule(action=parents_actions, done=st.booleans())
    def a_parent_will_crash_in_a_call(self, action: str, done: bool) -> None:
        self.all.ambushes.append(Ambush(action=action, done=done, crash=True))
        self._go_on()

    @rule(action=parents_actions, seconds=st.integers(1, STILL), lost=st.booleans())
    def a_parent_will_stand_still_before_a_call(self, action: str, seconds: int, lost: bool) -> None:
        self.all.ambushes.append(Ambush(action=action, done=False, seconds=float(seconds), lost=lost))
        self._go_on()

    @rule(action=parents_actions, seconds=st.integers(1, 300), lost=st.booleans())
    def a_parent_will_stand_still_after_a_call(self, action: str, seconds: int, lost: bool) -> None:
        self.all.ambushes.append(Ambush(action=action, done=True, seconds=float(seconds), lost=lost))
        self._go_on()

    @rule(lease=st.booleans())
    def lease_or_broker_do_not_answer(self, lease: bool) -> None:
        self.all.board.silent = self.all.board.silent or lease
        self.world.silent = self.world.silent or not lease
        self._go_on()

    @rule(pool=pools, most=st.integers(1, 5))
    def max_is_changed(self, pool: str, most: int) -> None:
        self.world.set_max(pool, most)
        for parent in list(self.all.parents):
            self.all.crash(parent)
            self.all.start(parent.wall.offset)
        self._go_on()

    def _go_on(self) -> None:
        self.all.round(1.0)
        self.all.round(4.0)

    def _parent(self, number: int) -> VirtualParent:
        return self.all.parents[number % len(self.all.parents)]

    # what must hold

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.world.wrongs == []

    def teardown(self) -> None:
        if self.world.wrongs:
            return
        left = self.all.settle()
        assert self.world.wrongs == []
        assert left == ""


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what nobody reads: a thousand schedules log a lot."""
    log = logging.getLogger("celery_flame_ec2")
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.ERROR)


def _played(number: int) -> Any:
    """Return half of the schedules as a test of its own, so that two processes can play them; in CI always the same."""
    machine = type(f"Launching{number}", (Launching,), {})
    machine = seed(number)(machine) if os.environ.get("CI") else machine
    machine.TestCase.settings = settings(
        max_examples=SCHEDULES // 2, stateful_step_count=STEPS, deadline=None, print_blob=True
    )
    return machine.TestCase


TestOneHalf, TestOtherHalf = _played(1), _played(2)
