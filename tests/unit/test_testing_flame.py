"""What does a test see of an app's pools, by the real rounds of a parent?"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from celery import Celery

from celery_flame_ec2 import signals
from celery_flame_ec2.config import PoolSettings
from celery_flame_ec2.errors import SettingsError
from celery_flame_ec2.lease.base import TTL
from celery_flame_ec2.lifetime import BROKER_PATIENCE
from celery_flame_ec2.policy import Demand, Fleet, Plan, Unknown, plan
from celery_flame_ec2.runner import RunnerState
from celery_flame_ec2.simulate import Conditions, Task, burst, fixed, poisson
from celery_flame_ec2.testing import Flame

VIDEO = {"queues": ["video"], "max": 4, "max_concurrency": 2}
EC2 = {
    "app": "proj", "s3_bundle_url": "s3://releases/proj.tar.gz", "image_id": "ami-00000001",
    "subnet_id": "subnet-0000000a", "security_group_id": "sg-00000001", "instance_type": ["c7i.large", "m7i.large"],
    "market": ["spot", "on-demand"],
}  # fmt: skip


def new_app(**conf: Any) -> Celery:
    app = Celery("proj", broker="redis://127.0.0.1:1/0", set_as_current=False)  # nobody is there, and nobody asks
    app.conf.update({"flame_pools": {"video": VIDEO}, "task_acks_late": True, **conf})
    return app


def new(changes: dict[str, Any] | None = None, *, conf: dict[str, Any] | None = None, **options: Any) -> Flame:
    return Flame(new_app(**(conf or {})), changes, **options)


def on_ec2(changes: dict[str, Any] | None = None) -> Flame:
    return new(changes, conf={"flame_backend": "ec2", "flame_ec2": EC2})


def states(flame: Flame) -> list[RunnerState]:
    return [runner.state for runner in flame.runners()]


# a burst


def test_a_burst_raises_runners_that_do_the_work_and_end() -> None:
    flame = new()
    sent = flame.push("video", 40, runtime=30)
    took = flame.settle()
    assert all(task.ended_at is not None for task in sent)
    assert (flame.peak("video"), len(flame.launched), flame.runners()) == (4, 4, [])
    # 40 tasks of 30 s in 8 slots take 150 s, after a boot of 60 s; then runners are idle for 30 s
    assert 240 <= took <= 250
    assert max(flame.waits()) == pytest.approx(60 + 1 + 120)


def test_what_was_decided_is_told_with_its_reason() -> None:
    flame = new()
    flame.push("video", 40, runtime=30)
    flame.advance(5)
    (decision,) = flame.decisions
    assert (decision.at, decision.pool, decision.plan.launch) == (1.0, "video", 4)
    assert "40 waiting" in str(decision)
    assert "max is 4" in decision.plan.reason


def test_a_pool_is_seen_as_its_parent_sees_it() -> None:
    flame = new()
    flame.push("video", 40, runtime=30)
    flame.advance(70)
    video = flame.pool("video")
    assert (video.waiting, video.running, video.states["up"]) == (32, 8, 4)
    assert video.queues[0].oldest_wait == pytest.approx(70.0)
    flame.settle()
    assert {ended.reason for ended in flame.pool("video").ended} == {"idle for 30 s"}
    assert flame.pool("video").cost.ended == 4


def test_a_load_arrives_when_it_says() -> None:
    flame = new()
    flame.play("video", [Task(0.0, 5.0), Task(100.0, 5.0), Task(100.0, 5.0)])
    flame.advance(99)
    assert len(flame.tasks) == 1
    flame.advance(1)
    assert [task.arrived_at - flame.tasks[0].arrived_at for task in flame.tasks] == [0.0, 100.0, 100.0]


def test_the_same_load_comes_out_as_it_is_simulated() -> None:
    load = list(poisson(0.5, fixed(10.0), seconds=1800.0, seed=3))
    flame = new()
    flame.play("video", load)
    flame.advance(1800)
    flame.settle()
    waits, outcome = flame.waits(), flame.simulate("video", load)
    assert len(waits) == len(outcome.waits) == len(load)
    assert sum(waits) / len(waits) == pytest.approx(outcome.mean_wait, rel=0.05)


def test_a_simulated_load_changes_nothing_and_knows_the_pools_settings() -> None:
    flame = new()
    outcome = flame.simulate("video", burst(40, fixed(30.0)))
    assert (outcome.peak, flame.launched, flame.now) == (4, [], 0.0)
    assert outcome.wait_at(1.0) == pytest.approx(180.0)


# settings


def test_settings_are_refused_as_in_production() -> None:
    with pytest.raises(SettingsError, match=r"pool 'video': option 'max' must be .* from 0 to 10000, got -1"):
        new({"pools": {"video": {"max": -1}}})
    with pytest.raises(SettingsError, match="pool 'video': option 's3_bundle_url' is required"):
        new({"backend": "ec2"})


def test_changes_are_laid_over_the_apps_settings_which_stay_as_they_are() -> None:
    app = new_app()
    flame = Flame(app, {"pools": {"video": {"max": 1}, "audio": {"queues": "audio"}}, "interval": 5})
    assert [(pool.name, pool.max, pool.queues) for pool in flame.settings.pools] == [
        ("video", 1, ("video",)),
        ("audio", 10, ("audio",)),
    ]
    assert flame.settings.interval == 5
    assert app.conf.flame_pools == {"video": VIDEO}


def test_how_many_tasks_an_instance_takes_must_be_said() -> None:
    pools = {"video": {"queues": "video"}}
    with pytest.raises(
        SettingsError, match="pool 'video': option 'max_concurrency' is not set, and no machine is here"
    ):
        new(conf={"flame_backend": "ec2", "flame_ec2": EC2, "flame_pools": pools})


def test_a_queue_that_no_pool_serves_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(
        ValueError, match=r"no flame pool takes from queue 'vidio'; did you mean 'video'\? \(known: video\)"
    ):
        new().push("vidio")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda flame: flame.runners("vidoe"), "there is no flame pool 'vidoe'; did you mean 'video'? (known: video)"),
        (lambda flame: flame.waits("vidoe"),
         "no flame pool takes from queue 'vidoe'; did you mean 'video'? (known: video)"),
        (lambda flame: flame.refuse("Unsupported", pool="vidoe"),
         "refuse: no launch is for pool 'vidoe'; did you mean 'video'? (known: video)"),
        (lambda flame: flame.refuse("Unsupported", market="spto"),
         "refuse: no launch is for market 'spto'; did you mean 'spot'? (known: spot, on-demand)"),
        (lambda flame: flame.refuse("Unsupported", market="spot", instance_type="c7i.lrage"),
         "refuse: no launch is for instance_type 'c7i.lrage'; did you mean 'c7i.large'? (known: c7i.large, m7i.large)"),
        (lambda flame: flame.lose_answers(subnet_id="subnet-b"),
         "refuse: no launch is for subnet_id 'subnet-b'; did you mean 'subnet-0000000a'? (known: subnet-0000000a)"),
        (lambda flame: flame.refuse("InsufficientInstanceCapacityy"),
         "refuse: code 'InsufficientInstanceCapacityy' is not known; did you mean 'InsufficientInstanceCapacity'? "
         "(what is not known is taken as 'UnauthorizedOperation' is)"),
    ],
    ids=["runners", "waits", "pool", "market", "instance_type", "subnet_id", "code"],
)  # fmt: skip
def test_a_name_that_nothing_has_is_refused_with_the_nearest(ask: Callable[[Flame], Any], told: str) -> None:
    with pytest.raises((ValueError, SettingsError), match=f"^{re.escape(told)}$"):
        ask(on_ec2())


def test_waits_are_those_of_a_queue_or_of_a_tasks_queue() -> None:
    app = new_app(flame_pools={"video": VIDEO, "audio": {**VIDEO, "queues": ["audio"]}})
    app.conf.task_routes = {"proj.encode": "audio"}

    @app.task(name="proj.encode")
    def encode() -> None: ...

    flame = Flame(app)
    flame.push("video", 3)
    flame.push(encode, 2)
    flame.settle()
    assert [len(flame.waits(queue)) for queue in (None, "video", "audio", encode)] == [5, 3, 2, 2]


def test_local_runners_have_neither_market_nor_type() -> None:
    with pytest.raises(ValueError, match=r"^refuse: no launch is for market 'spot' \(known: none\)$"):
        new().refuse("Unsupported", market="spot")


def test_a_task_goes_where_the_apps_routes_send_it() -> None:
    flame = new(conf={"task_routes": {"proj.render": "video"}})

    @flame.app.task(name="proj.render")
    def render() -> None: ...

    @flame.app.task(name="proj.mail")
    def mail() -> None: ...

    assert flame.push(render)[0].queue == "video"
    with pytest.raises(ValueError, match=r"no flame pool takes from queue 'celery' of task 'proj\.mail'"):
        flame.push(mail)


# a policy of the team's own


def raises(*_: Any) -> Plan:
    raise ZeroDivisionError("a bug of the team's own")


def greedy(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    return Plan(launch=100, reason="the more the merrier")


def by_day(pool: PoolSettings, demand: Demand | Unknown, fleet: Fleet | Unknown, now: float) -> Plan:
    open_ = 8 <= datetime.fromtimestamp(now, timezone.utc).hour < 18
    return plan(pool, demand, fleet, now) if open_ else Plan(held=True, reason="at night")


class Remembers:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *_: Any) -> Plan:
        self.asked += 1
        return Plan(reason=f"asked {self.asked} times")


remembers = Remembers()


class Locked(Remembers):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Endless(Remembers):
    """As a client of boto3 is, whose attributes are asked of an attribute."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


locked, endless = Locked(), Endless()


def test_what_a_policy_raises_reaches_the_test() -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of the team's own"):
        new({"policy": f"{__name__}:raises"})


def test_no_policy_gets_more_than_max_and_one_that_never_rests_is_found_at_the_end() -> None:
    flame = new({"policy": f"{__name__}:greedy"})
    flame.advance(300)
    assert flame.peak("video") == 4
    with pytest.raises(
        AssertionError,
        match=r"4 of these runners live on \d+ s after the last task was gone; at \d+ s: pool 'video': 0 waiting",
    ):
        flame.finish()


def test_a_policy_knows_what_time_it_is() -> None:
    flame = new({"policy": f"{__name__}:by_day"}, start=datetime(2026, 3, 2, 6, tzinfo=timezone.utc))
    flame.push("video", 4)
    flame.advance(2 * 3600 - 1)
    assert flame.launched == []
    flame.settle(within=300)
    assert 7200 <= flame.launched[0].runner.launched_at - flame.tasks[0].arrived_at <= 7201


def test_each_parent_begins_with_a_policy_that_remembers_nothing() -> None:
    for _ in range(2):
        flame = new({"policy": f"{__name__}:remembers"})
        assert flame.pool("video").plan == "nothing to do: asked 1 times"
    assert remembers.asked == 0


@pytest.mark.parametrize(
    ("name", "why"),
    [("locked", "cannot pickle '_thread.lock' object"), ("endless", "maximum recursion depth exceeded")],
)
def test_a_policy_that_cannot_be_copied_is_told_to_be(name: str, why: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"^settings flame_\*: option 'policy' names '{__name__}:{name}', which "
    ) as told:
        new({"policy": f"{__name__}:{name}"})
    assert f"cannot be copied, as tests and simulations do: {why}" in str(told.value)
    assert str(told.value).endswith("; give it __deepcopy__")


# EC2


def test_what_spot_has_not_is_asked_for_on_demand() -> None:
    flame = on_ec2()
    refused = flame.refuse("InsufficientInstanceCapacity", market="spot")
    flame.push("video", 4, runtime=30)
    flame.advance(10)
    assert {(runner.runner.market, runner.runner.instance_type) for runner in flame.runners()} == {
        ("on-demand", "c7i.large")
    }
    refused.end()
    flame.settle()


def test_a_quota_lets_so_many_live_and_is_told() -> None:
    flame = on_ec2()
    with flame.refuse("VcpuLimitExceeded", beyond=1):
        flame.push("video", 40, runtime=30)
        flame.advance(120)
        assert flame.peak("video") == 1
        breaker = flame.pool("video").breaker
        assert breaker is not None
        assert "EC2 refused it lately: spot vCPUs of Standard types (VcpuLimitExceeded)" in breaker.cause
    flame.settle()
    assert flame.peak("video") == 4


def test_a_refusal_that_nothing_but_a_change_helps_is_not_asked_for_in_vain_each_round() -> None:
    flame = on_ec2()
    heard: list[str] = []
    signals.launch_failed.connect(lambda kind="", **_: heard.append(kind), weak=False, dispatch_uid="test")
    try:
        with flame.refuse("UnauthorizedOperation"):
            flame.push("video", 4)
            flame.advance(50)
    finally:
        signals.launch_failed.disconnect(dispatch_uid="test")
    assert heard == ["refused"]


def test_an_answer_that_got_lost_launches_nobody_twice() -> None:
    flame = on_ec2()
    flame.lose_answers(times=3)
    flame.push("video", 40, runtime=30)
    flame.settle()
    assert flame.peak("video") == 4
    assert len(flame.launched) == 4


def test_a_boot_that_fails_says_why_and_the_next_is_tried() -> None:
    flame = new()
    flame.fail_boots(2, cause="fetch: s3://releases/proj.tar.gz is not there")
    flame.push("video", 2)
    flame.until(lambda: flame.pool("video").ended)
    assert "fetch: s3://releases/proj.tar.gz is not there" in flame.pool("video").ended[0].reason
    flame.settle()


def test_a_boot_that_hangs_ends_at_boot_timeout() -> None:
    flame = new({"pools": {"video": {"boot_timeout": 90}}})
    flame.fail_boots()
    flame.push("video", 2)
    flame.until(lambda: flame.pool("video").ended)
    assert flame.launched[0].ended_at == flame.launched[0].runner.launched_at + 90
    flame.settle()


def test_boots_fail_as_often_as_conditions_say() -> None:
    flame = new(conditions=Conditions(failed_boots=1.0))
    flame.push("video", 2)
    flame.advance(400)
    assert flame.launched
    assert not flame.waits()
    flame.conditions = Conditions()
    flame.settle()


def test_an_interrupted_runner_hands_its_tasks_to_the_next() -> None:
    flame = on_ec2()
    (task,) = flame.push("video", 1, runtime=600)
    flame.until(lambda: task.started_at)
    gone = flame.interrupt()
    flame.settle()
    assert (task.starts, task.lost) == (2, False)
    assert gone.reason.startswith("spot interruption notice")
    assert not gone.alive


def test_a_task_that_is_acknowledged_before_it_runs_is_lost_with_its_runner() -> None:
    flame = new(conf={"task_acks_late": False})
    (task,) = flame.push("video", 1, runtime=600)
    flame.until(lambda: task.started_at)
    flame.interrupt()
    flame.settle()
    assert (task.starts, task.lost, task.ended_at) == (1, True, None)


def test_spot_is_interrupted_as_often_as_conditions_say() -> None:
    flame = on_ec2()
    flame.conditions = Conditions(interruptions=60)
    flame.push("video", 8, runtime=120)
    flame.advance(900)
    assert any(runner.reason.startswith("spot interruption") for runner in flame.launched)


def test_where_nothing_is_listed_nothing_is_launched_and_what_runs_goes_on() -> None:
    flame = new()
    flame.push("video", 4, runtime=100)
    flame.advance(70)
    with flame.listing_down():
        flame.advance(15)  # the last listing is trusted for some seconds
        flame.push("video", 40, runtime=100)
        flame.advance(60)
        assert len(flame.launched) == 2
        assert "UnauthorizedOperation" in str(flame.pool("video").plan)
    flame.settle()


def test_where_the_broker_is_gone_runners_end_after_their_patience() -> None:
    flame = new()
    flame.push("video", 2, runtime=10)
    flame.advance(75)
    with flame.broker_down():
        flame.advance(BROKER_PATIENCE + 10)
        assert [runner.reason for runner in flame.launched] == ["no broker for 300 s"]
        assert flame.pool("video").unknown == "the queues' depth is unknown: the broker does not answer"
    flame.settle()


def test_while_the_broker_is_gone_nobody_takes_a_task() -> None:
    flame = new({"pools": {"video": {"max": 1, "max_concurrency": 1}}})
    first, second = flame.push("video", 2, runtime=10)
    flame.until(lambda: first.started_at)
    with flame.broker_down():
        flame.advance(60)
        assert (first.ended_at is None, second.started_at) == (False, None)
    flame.advance(1)
    assert second.started_at is not None


# parents


def test_a_parent_that_is_killed_is_followed_when_its_lease_is_over_and_the_next_adopts_all() -> None:
    flame = new()
    second = flame.start_parent()
    flame.push("video", 40, runtime=30)
    flame.advance(30)
    flame.kill_parent()
    assert not second.service.acts
    assert flame.until(lambda: second.service.acts, within=TTL + 5) > 0
    flame.settle()
    assert len(flame.launched) == 4


def test_a_parent_that_stops_is_followed_at_once() -> None:
    flame = new()
    second = flame.start_parent()
    flame.stop_parent()
    assert flame.until(lambda: second.service.acts, within=5) <= 3


def test_without_a_parent_runners_end_and_nobody_can_say_how_it_stands() -> None:
    flame = new()
    flame.push("video", 4)
    flame.advance(30)
    flame.kill_parent()
    flame.settle()
    with pytest.raises(AssertionError, match="no parent runs"):
        flame.pool("video")


def test_without_a_lease_nothing_is_launched() -> None:
    flame = new()
    with flame.lease_down():
        flame.advance(TTL)
        flame.push("video", 4)
        flame.advance(60)
        assert flame.launched == []
    flame.settle()


# the end


def test_what_does_not_come_true_is_told_with_how_it_stands() -> None:
    flame = new()
    flame.push("video", 1, runtime=5000)
    told = r"it does not hold within 100 s; at 100 s: pool 'video': 0 waiting; <i-00000001 of video: up, 1 tasks>; last"
    with pytest.raises(AssertionError, match=told):
        flame.settle(within=100)


def test_at_the_end_work_and_faults_are_taken_away_and_every_runner_ends() -> None:
    flame = on_ec2({"pools": {"video": {"min": 1}}})
    flame.push("video", 100, runtime=5000)
    flame.advance(100)
    flame.refuse("InsufficientInstanceCapacity")
    flame.kill_parent()
    flame.finish()
    assert len(flame.runners()) == 1


def test_more_runners_than_max_are_told_at_the_end_whatever_let_them_be() -> None:
    flame = new()
    flame.push("video", 40)
    flame._world.most["video"] = 3
    flame.settle()
    with pytest.raises(AssertionError, match="pool 'video' had 4 runners at once, and max is 3"):
        flame.finish()


def test_runners_that_no_setting_ends_are_found_at_the_end_unless_the_test_says_so() -> None:
    flame = new({"policy": f"{__name__}:greedy", "pools": {"video": {"idle_shutdown_after": None, "max": 2}}})
    flame.advance(100)
    flame.finish(leaves=2)
    with pytest.raises(AssertionError, match="2 of these runners live on"):
        flame.finish(leaves=1)


def test_a_single_use_runner_takes_a_task_for_each_slot_and_ends() -> None:
    flame = new({"pools": {"video": {"single_use": True, "max": 1, "min": 1}}})
    flame.advance(90)
    flame.push("video", 4, runtime=0.1)
    flame.until(lambda: len(flame.waits()) == 4)
    assert [runner.taken for runner in flame.launched] == [2, 2]
    assert flame.launched[0].reason == "single use: 2 tasks taken by 2 slots"


def test_a_runner_that_is_old_ends_when_its_tasks_had_their_time() -> None:
    flame = new({"pools": {"video": {"max_lifetime": 100, "shutdown_timeout": 20, "max": 1}}})
    (task,) = flame.push("video", 1, runtime=110)
    flame.until(lambda: task.started_at)
    flame.settle()
    assert flame.launched[0].reason == "it lived 100 s (max_lifetime)"
    assert task.starts == 1


def test_what_the_policy_needs_no_more_is_cordoned_and_ends() -> None:
    flame = new({"pools": {"video": {"idle_shutdown_after": None}}})
    flame.push("video", 40, runtime=10)
    flame.until(lambda: len(flame.launched) == 4 and len(flame.runners()) == 1, within=1200)
    assert [runner.reason for runner in flame.launched if not runner.alive] == ["idle for 1 s, cordoned"] * 3
