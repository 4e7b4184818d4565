"""One round of a pool against a compute backend that is a list."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from celery_flame_ec2 import signals
from celery_flame_ec2.backends.base import Backend
from celery_flame_ec2.config import Ec2Options, Settings, read_settings
from celery_flame_ec2.errors import BackendError, LaunchError, LaunchUnclear
from celery_flame_ec2.experience import BOOT_WEIGHT, FIRST_BOOT, Look
from celery_flame_ec2.lifetime import RECALLED
from celery_flame_ec2.notes import ENDINGS, LONGEST_REASON, Ended, Learned, Left, Standing
from celery_flame_ec2.orders import AGAIN_AFTER, Order
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.policy import Demand, Failures, Fleet, Plan, Unknown
from celery_flame_ec2.pool import Pool, letter
from celery_flame_ec2.presence import Word
from celery_flame_ec2.runner import Launch, Runner, RunnerState
from tests.depth import plan

NOW = 9_000.0


class ListBackend(Backend):
    """Runners are entries of a list; what the next launch meets can be set."""

    visible_within = 60.0

    def __init__(self) -> None:
        self.living: list[Runner] = []
        self.letters: list[Parent] = []
        self.words = ""
        self.refusal: BackendError | None = None

    def launch(self, letter: Parent, count: int) -> tuple[Runner, ...]:
        if self.refusal is not None:
            raise self.refusal
        self.letters.append(letter)
        first = len(self.living)
        fresh = [Runner(id=f"r{first + n}", pool=letter.pool, launched_at=NOW, warm=letter.warm) for n in range(count)]
        self.living += fresh
        return tuple(fresh)

    def runners(self) -> tuple[Runner, ...]:
        return tuple(self.living)

    def terminate(self, ids: Collection[str]) -> None:
        self.living = [runner for runner in self.living if runner.id not in ids]

    def last_words(self, runner_id: str) -> str:
        return self.words


def settings(**options: Any) -> Settings:
    pools = {"video": {"queues": "video", "max_concurrency": 4, **options}}
    return read_settings({"flame_pools": pools}, app_name="p", broker_urls=("redis://h/0",), environ={})


@pytest.fixture
def backend() -> ListBackend:
    return ListBackend()


class Told:
    """What runners were told: order, queues, ids."""

    def __init__(self) -> None:
        self.orders: list[tuple[Order, tuple[str, ...], tuple[str, ...]]] = []
        self.works = True

    def __call__(self, order: Order, queues: Sequence[str], runner_ids: Collection[str]) -> bool:
        self.orders.append((order, tuple(queues), tuple(runner_ids)))
        return self.works


class Store:
    """Where runners and parent meet: whom it gives to the parent."""

    def __init__(self, *, but: Collection[str] = ()) -> None:
        self.but = frozenset(but)
        self.asked: list[Collection[str]] = []

    def __call__(self, runner_ids: Collection[str]) -> Collection[str]:
        self.asked.append(frozenset(runner_ids))
        return frozenset(runner_ids) - self.but


def new_pool(backend: Backend, **options: Any) -> Pool:
    deployment = settings(**options)
    return Pool(deployment.pools[0], deployment=deployment, backend=backend, policy=plan, tell=Told(), recall=Store())


def planned(
    backend: Backend, decided: Plan, *, tell: Told | None = None, recall: Store | None = None, **options: Any
) -> Pool:
    """Return a pool whose policy plans the same in every round."""
    deployment = settings(**options)
    return Pool(
        deployment.pools[0],
        deployment=deployment,
        backend=backend,
        policy=lambda *_: decided,
        tell=tell or Told(),
        recall=recall or Store(),
    )


def do_round(pool: Pool, demand: Demand | Unknown, now: float = NOW, *, since: float | None = 0.0) -> Plan:
    decided = pool.decide(demand, now, listing=None)
    pool.act(decided, now, since=since)
    return decided


def see(pool: Pool, listed: Any, words: dict[str, Word], now: float, *, hears: bool) -> None:
    pool.look(listed, words, now)
    pool.tell(now, hears=hears)


@contextmanager
def heard(signal: Any) -> Iterator[list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []

    def receiver(**kwargs: Any) -> None:
        calls.append(kwargs)

    signal.connect(receiver)
    try:
        yield calls
    finally:
        signal.disconnect(receiver)


def up(runner_id: str, state: RunnerState = RunnerState.UP, reason: str = "", **fields: Any) -> dict[str, Word]:
    return {runner_id: Word(runner_id=runner_id, pool="video", owner="o", state=state, reason=reason, **fields)}


def test_a_round_launches_what_the_plan_says_and_tells_the_application(backend: ListBackend) -> None:
    with heard(signals.runner_launched) as launched, heard(signals.pool_grew) as grew:
        do_round(new_pool(backend), Demand(waiting=8))
    assert [call["runner"].id for call in launched] == ["r0", "r1"]
    assert [(call["sender"], call["count"]) for call in grew] == [("video", 2)]


def test_two_rounds_before_any_listing_launch_once(backend: ListBackend) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=8))
    do_round(pool, Demand(waiting=8), NOW + 1)
    assert len(backend.living) == 2


def test_the_runners_of_min_get_a_letter_that_keeps_them(backend: ListBackend) -> None:
    do_round(new_pool(backend, min=1), Demand(waiting=8))
    assert [(letter.warm, letter.limits.idle_shutdown_after) for letter in backend.letters] == [
        (True, None),
        (False, 30),
    ]


def test_a_refused_launch_is_counted_told_and_paused_after(backend: ListBackend) -> None:
    pool = new_pool(backend)
    backend.refusal = LaunchError("VcpuLimitExceeded: ask for more", kind="quota")
    with heard(signals.launch_failed) as failed:
        do_round(pool, Demand(waiting=1))
    assert (failed[0]["reason"], failed[0]["kind"]) == ("VcpuLimitExceeded: ask for more", "quota")
    backend.refusal = None
    assert do_round(pool, Demand(waiting=1), NOW + 1).held
    assert do_round(pool, Demand(waiting=1), NOW + 6).launch == 1


def launching(pool: Pool, backend: ListBackend, launch: Launch, error: BackendError) -> None:
    """Let the next launch be asked for and end with an error."""

    def announce_and_fail(letter: Parent, count: int) -> tuple[Runner, ...]:
        pool.roster.asked(launch, NOW)
        raise error

    backend.launch = announce_and_fail  # type: ignore[method-assign]
    do_round(pool, Demand(waiting=100))
    del backend.launch  # type: ignore[method-assign]


def test_what_a_launch_of_unknown_outcome_may_have_raised_counts_against_max(backend: ListBackend) -> None:
    pool = new_pool(backend, max=3)
    known = Runner(id="known", pool="video", launched_at=NOW, launch="t0")
    unclear = LaunchUnclear("no answer", launched=(known,), tokens=("t1",))
    with heard(signals.runner_launched) as launched:
        launching(pool, backend, Launch(token="t1", pool="video", count=2), unclear)
    assert [call["runner"].id for call in launched] == ["known"]
    assert pool.roster.unclear(NOW) == 2
    seen = Runner(id="seen", pool="video", launched_at=NOW, launch="t1")
    pool.look([known, seen], {}, NOW + 0.5)
    assert pool.roster.unclear(NOW + 0.5) == 1
    assert do_round(pool, Demand(waiting=100), NOW + 0.6).launch == 0
    pool.look([known, seen], {}, NOW + 61)
    assert do_round(pool, Demand(waiting=100), NOW + 61).launch == 1


def test_a_refused_launch_leaves_nothing_that_may_exist(backend: ListBackend) -> None:
    pool = new_pool(backend)
    launching(pool, backend, Launch(token="t1", pool="video", count=2), LaunchError("no capacity", retry_in=180.0))
    assert (pool.roster.unclear(NOW), pool.roster.failures.pause) == (0, 180.0)


def test_an_unanswered_launch_is_asked_for_again_while_it_is_wanted(backend: ListBackend) -> None:
    pool, asked = new_pool(backend), []
    late = Runner(id="late", pool="video", launched_at=NOW, launch="t1")
    launching(pool, backend, Launch(token="t1", pool="video", count=1), LaunchUnclear("no answer", tokens=("t1",)))

    def ask_again(token: str) -> tuple[Runner, ...]:
        asked.append(token)
        return (late,)

    backend.ask_again = ask_again  # type: ignore[method-assign]
    do_round(pool, Demand(waiting=0), NOW + 2)
    assert asked == [], "nobody waits for it any more"
    do_round(pool, Demand(waiting=4), NOW + 2)
    do_round(pool, Demand(waiting=4), NOW + 9)
    assert (asked, pool.roster.unclear(NOW + 9)) == (["t1"], 0)
    assert [runner.id for runner in pool.roster.runners] == ["late"]


def test_only_as_many_open_launches_are_asked_for_again_as_are_wanted_still(backend: ListBackend) -> None:
    pool, asked = new_pool(backend), []
    for token, count in (("two", 2), ("one", 1)):
        open_launch = Launch(token=token, pool="video", count=count)
        launching(pool, backend, open_launch, LaunchUnclear("no answer", tokens=(token,)))
        pool.roster.failures = Failures()
    backend.ask_again = lambda token: asked.append(token) or ()  # type: ignore[func-returns-value,method-assign,assignment]
    do_round(pool, Demand(waiting=8), NOW + 2)
    assert asked == ["two"]


def test_in_a_round_that_asks_again_nothing_new_is_launched(backend: ListBackend) -> None:
    pool, open_launch = new_pool(backend), Launch(token="t1", pool="video", count=2)
    launching(pool, backend, open_launch, LaunchUnclear("no answer", tokens=("t1",)))
    pool.roster.failures = Failures()

    def still_unclear(token: str) -> tuple[Runner, ...]:
        raise LaunchUnclear("no answer", tokens=(token,))

    backend.ask_again = still_unclear  # type: ignore[method-assign]
    do_round(pool, Demand(waiting=8), NOW + 61)  # it counts no more, but may come after all
    assert (backend.living, pool.roster.unclear(NOW + 61)) == ([], 2)


def test_a_policy_of_the_users_own_cannot_pass_max(backend: ListBackend) -> None:
    greedy = planned(backend, Plan(launch=99, reason="more"), max=3)
    do_round(greedy, Demand(waiting=0))
    assert len(backend.living) == 3


def test_a_new_leader_goes_on_where_the_one_before_stopped(backend: ListBackend) -> None:
    pool = new_pool(backend, max=3)
    failures = Failures(count=3, at=NOW - 1, cause="no bundle")
    launches = (Launch(token="t1", pool="video", count=2), Launch(token="t2", pool="another", count=9))
    standing = Standing(failures=failures, settings=pool.fingerprint)
    pool.adopt(Left(launches=launches, standings={"video": standing}), NOW)
    assert (pool.roster.unclear(NOW), pool.roster.failures) == (2, failures)


@pytest.mark.parametrize("change", [{"env": {"A": "2"}}, {"max": 4}])
def test_what_failed_with_other_settings_does_not_hold_a_new_leader(
    backend: ListBackend, change: dict[str, Any]
) -> None:
    before, pool = new_pool(backend, env={"A": "1"}), new_pool(backend, **{"env": {"A": "1"}, **change})
    failures = Failures(count=3, at=NOW - 1, cause="no bundle")
    pool.adopt(Left(standings={"video": Standing(failures=failures, settings=before.fingerprint)}), NOW)
    assert pool.roster.failures == Failures()
    assert before.fingerprint == new_pool(backend, env={"A": "1"}).fingerprint


def test_a_launch_that_was_announced_and_never_sent_counts_for_its_while(backend: ListBackend) -> None:
    pool = new_pool(backend, max=3)
    launching(pool, backend, Launch(token="t1", pool="video", count=3), LaunchUnclear("no answer", tokens=("t1",)))
    do_round(pool, Demand(waiting=100), NOW + 2)
    assert backend.living == []
    assert pool.roster.unclear(NOW + 59) == 3
    assert pool.roster.unclear(NOW + 60) == 0


def test_a_runner_that_came_up_for_another_parent_is_adopted_without_a_word_to_the_application(
    backend: ListBackend,
) -> None:
    pool = new_pool(backend)
    old = Runner(id="old", pool="video", launched_at=NOW - 3600)
    with heard(signals.runner_up) as came_up:
        see(pool, [old], up("old"), NOW, hears=True)
    assert came_up == []
    assert pool.roster.runners[0].state is RunnerState.UP


def test_a_parent_that_stands_by_tells_nothing_of_what_it_sees(backend: ListBackend) -> None:
    pool = new_pool(backend)
    with heard(signals.runner_up) as came_up, heard(signals.launch_failed) as failed:
        pool.look([Runner(id="r", pool="video", launched_at=NOW)], up("r"), NOW)
        pool.look([], {}, NOW + 1)
    assert (came_up, failed, pool.roster.failures.count) == ([], [], 0)


def test_a_runner_that_came_up_and_ended_is_told_with_its_own_reason(backend: ListBackend) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=1))
    with heard(signals.runner_up) as came_up, heard(signals.runner_ended) as ended:
        see(pool, None, up("r0", ages=(6.0, 2.0)), NOW + 9, hears=True)
        see(pool, None, up("r0", RunnerState.ENDING, "idle for 30 s"), NOW + 50, hears=True)
        see(pool, [], {}, NOW + 60, hears=True)
    assert [(call["runner"].id, call["seconds"]) for call in came_up] == [("r0", 9.0)]
    assert came_up[0]["phases"] == {"machine": 3.0, "release": 4.0, "worker": 2.0}
    assert [(call["runner"].id, call["reason"], call["kind"]) for call in ended] == [("r0", "idle for 30 s", "idle")]
    assert pool.roster.failures.count == 0


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (
            "boot\nflame: boot failed: fetch: no such bundle s3://b/x\n[ OK ] power down",
            "fetch: no such bundle s3://b/x",
        ),
        ("kernel panic\n\n", "it was gone before its hello; last line: kernel panic"),
        ("", "it was gone before its hello; last line: it left no output"),
    ],
)
def test_a_runner_that_never_spoke_failed_and_its_last_words_say_why(
    backend: ListBackend, words: str, cause: str
) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=1))
    backend.words = words
    with heard(signals.launch_failed) as failed, heard(signals.runner_ended) as ended:
        see(pool, [], {}, NOW + 70, hears=True)
    assert failed[0]["reason"] == f"r0 did not come up: {cause}"
    assert (failed[0]["kind"], ended[0]["kind"]) == ("boot", "boot")
    assert pool.roster.failures.count == 1


def test_where_nobody_can_be_heard_silence_is_no_failure(backend: ListBackend) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=1))
    backend.words = "Task proj.nap succeeded"
    see(pool, [], {}, NOW + 70, hears=False)
    assert pool.roster.failures.count == 0


@pytest.mark.parametrize(
    ("words", "failures", "reason"),
    [
        ("flame: ended (exited 0)", 0, "its program ended"),
        ("flame: boot failed: start: the start command ended (exited 3): no", 1, "start: the start command ended (ex"),
    ],
)
def test_a_program_that_knows_no_words_ends_well_unless_its_console_says_otherwise(
    backend: ListBackend, words: str, failures: int, reason: str
) -> None:
    deployment = dataclasses.replace(settings(hello="start"), backend="ec2")
    pool = Pool(deployment.pools[0], deployment=deployment, backend=backend, policy=plan, tell=Told(), recall=Store())
    do_round(pool, Demand(waiting=1))
    backend.words = words
    see(pool, [], {}, NOW + 70, hears=pool.speaks)
    assert pool.roster.failures.count == failures
    assert pool.endings[-1].reason.startswith(reason)


@pytest.mark.parametrize("words", ["Task proj.nap succeeded", "flame: boot failed: fetch: no such bundle"])
def test_of_runners_of_one_launch_that_are_gone_together_one_is_asked_for_its_last_words(words: str) -> None:
    class Asked(ListBackend):
        asked: tuple[str, ...] = ()

        def last_words(self, runner_id: str) -> str:
            self.asked += (runner_id,)
            return words

    backend = Asked()
    pool = new_pool(backend)
    of_two = [Runner(id=f"r{n}", pool="video", launched_at=NOW, launch=f"t{n % 2}") for n in range(6)]
    see(pool, of_two, {}, NOW, hears=False)
    see(pool, [], {}, NOW + 70, hears=False)
    assert backend.asked == ("r0", "r1")


def test_an_unknown_listing_reaches_the_policy_as_unknown(backend: ListBackend) -> None:
    seen: list[object] = []

    def spy(settings: Any, demand: Any, fleet: Fleet | Unknown, now: float) -> Plan:
        seen.append(fleet)
        return Plan(reason="looked")

    deployment = settings()
    pool = Pool(deployment.pools[0], deployment=deployment, backend=backend, policy=spy, tell=Told(), recall=Store())
    pool.decide(Demand(waiting=1), NOW, listing=Unknown(why="silent"))
    assert seen == [Unknown(why="silent")]


def said(*states: RunnerState) -> dict[str, Word]:
    return {
        f"r{at}": Word(runner_id=f"r{at}", pool="video", owner="o", state=state, heard_at=NOW)
        for at, state in enumerate(states)
    }


def test_runners_are_told_once_and_again_only_where_they_do_not_confirm_it(backend: ListBackend) -> None:
    told = Told()
    pool = planned(backend, Plan(cordon=("r0", "r1", "gone"), uncordon=("r2",), reason="less"), tell=told)
    backend.launch(Parent(owner="o", pool="video", backend="local", queues=("video",), concurrency=1), 3)
    up, cordoned = RunnerState.UP, RunnerState.CORDONED

    def step(seconds: float, *states: RunnerState) -> list[Any]:
        told.orders.clear()
        pool.look(backend.living, said(*states), NOW + seconds)
        do_round(pool, Demand(waiting=0), NOW + seconds)
        return told.orders

    first = [(Order.CORDON, ("video",), ("r0", "r1")), (Order.UNCORDON, ("video",), ("r2",))]
    assert step(0, up, up, cordoned) == first
    assert step(1, up, up, cordoned) == []
    assert step(AGAIN_AFTER, cordoned, up, up) == [(Order.CORDON, ("video",), ("r1",))]
    assert step(AGAIN_AFTER + 1, up, up, up) == [(Order.CORDON, ("video",), ("r0",))]


def test_a_policy_may_take_back_whom_it_cordoned_and_sees_whom_an_operator_cordoned_as_ending(
    backend: ListBackend,
) -> None:
    up, cordoned, ending = RunnerState.UP, RunnerState.CORDONED, RunnerState.ENDING
    pool = new_pool(backend)
    backend.launch(Parent(owner="o", pool="video", backend="local", queues=("video",), concurrency=1), 2)

    def seen(*states: RunnerState, orders: Plan) -> list[RunnerState]:
        pool.look(backend.living, said(*states), NOW)
        found = [runner.state for runner in pool.fleet(NOW).runners]
        pool.act(orders, NOW)
        return found

    nothing, take_back = Plan(reason="nothing"), Plan(uncordon=("r0",), reason="more")
    assert seen(up, up, orders=Plan(cordon=("r0",), reason="less")) == [up, up]
    assert seen(up, cordoned, orders=nothing) == [up, ending]
    assert seen(cordoned, cordoned, orders=take_back) == [cordoned, ending]
    assert seen(cordoned, cordoned, orders=nothing) == [cordoned, ending]
    assert seen(up, up, orders=nothing) == [up, up]
    assert seen(cordoned, up, orders=nothing) == [ending, up]


def test_who_boots_or_ends_is_told_nothing(backend: ListBackend) -> None:
    told = Told()
    pool = planned(backend, Plan(cordon=("r0", "r1"), uncordon=("r1",), reason="less"), tell=told)
    backend.launch(Parent(owner="o", pool="video", backend="local", queues=("video",), concurrency=1), 2)
    pool.look(backend.living, said(RunnerState.BOOTING, RunnerState.ENDING), NOW)
    do_round(pool, Demand(waiting=0))
    assert told.orders == []


def test_a_plan_that_cordons_is_told_once_in_the_log(backend: ListBackend, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pool = planned(backend, Plan(cordon=("r0",), reason="fewer would do"))
    for _ in range(3):
        do_round(pool, Demand(waiting=0))
    assert caplog.text.count("pool video: cordon 1: fewer would do") == 1


@pytest.mark.parametrize(
    ("backend", "url", "expected"),
    [
        ("local", "http://127.0.0.1:1/m/", {}),
        ("ec2", None, {}),
        (
            "ec2",
            "http://127.0.0.1:1/m/",
            {"url": "http://127.0.0.1:1/m/", "token_url": Ec2Options().instance_metadata_token_url},
        ),
    ],
)
def test_a_letter_says_where_metadata_are_where_that_is_not_what_ec2_has(
    backend: str, url: str | None, expected: dict[str, str]
) -> None:
    options = {"s3_bundle_url": "s3://bucket/r.tar.gz", "app": "p", "launch_template_id": "lt-0123456789abcdef0"}
    deployment = read_settings(
        {
            "flame_backend": backend,
            "flame_ec2": options | ({"instance_metadata_url": url} if url else {}),
            "flame_pools": {"video": {"queues": "video"}},
        },
        app_name="p",
        broker_urls=("redis://broker/0",),
        environ={},
    )
    assert letter(deployment, deployment.pools[0], warm=False).metadata == expected


def test_the_last_runners_that_ended_are_remembered_with_their_reasons_also_by_the_next_parent(
    backend: ListBackend,
) -> None:
    pool = new_pool(backend)
    for number in range(ENDINGS + 2):
        runner = Runner(id=f"i-{number}", pool="video", launched_at=NOW)
        word = Word(runner_id=runner.id, pool="video", owner="o", state=RunnerState.ENDING, reason="idle " * 99)
        see(pool, [runner], {runner.id: word}, NOW + number, hears=True)
        see(pool, [], {}, NOW + number, hears=True)
    assert [ended.runner_id for ended in pool.endings] == [f"i-{number}" for number in range(2, ENDINGS + 2)]
    assert pool.endings[-1] == Ended(
        runner_id=f"i-{ENDINGS + 1}",
        reason=("idle " * 99)[:LONGEST_REASON],
        at=NOW + ENDINGS + 1,
        launched_at=NOW,
    )
    following = new_pool(backend)
    following.adopt(Left(standings={"video": pool.standing}), NOW)
    assert following.endings == pool.endings


def test_an_end_that_the_parent_before_told_is_not_told_again(backend: ListBackend) -> None:
    runner = Runner(id="i-1", pool="video", launched_at=NOW)
    word = Word(runner_id="i-1", pool="video", owner="o", state=RunnerState.ENDING, reason="idle for 30 s")
    first, second = new_pool(backend), new_pool(backend)
    for pool in (first, second):
        see(pool, [runner], {"i-1": word}, NOW, hears=True)
    see(first, [], {}, NOW + 100, hears=True)
    second.adopt(Left(standings={"video": first.standing}), NOW + 101)
    see(second, [], {}, NOW + 101, hears=True)
    assert (second.standing.bill, second.endings) == (first.standing.bill, first.endings)


def test_why_a_runner_was_reaped_is_its_reason_whatever_it_said_itself(backend: ListBackend) -> None:
    pool = new_pool(backend)
    runner = Runner(id="i-1", pool="video", launched_at=NOW)
    word = Word(runner_id="i-1", pool="video", owner="o", state=RunnerState.ENDING, reason="idle for 30 s")
    see(pool, [runner], {"i-1": word}, NOW, hears=True)
    pool.roster.reaped("i-1", "no word for 360 s")
    see(pool, [], {}, NOW + 1, hears=True)
    assert [ended.reason for ended in pool.endings] == ["reaped: no word for 360 s"]


def boots(pool: Pool, *, after: float, since: float | None = NOW) -> float:
    """Launch a runner, hear it so many seconds later, and return what a boot is taken to last then."""
    do_round(pool, Demand(waiting=1))
    pool.look(pool.roster.runners, up("r0"), NOW + after, since=since)
    pool.learn(NOW + after, waiting=0, running=0)
    return pool.past.boot


def test_boots_teach_how_long_they_last(backend: ListBackend) -> None:
    assert boots(new_pool(backend), after=10) == pytest.approx(60 + BOOT_WEIGHT * (10 - 60))


@pytest.mark.parametrize(("after", "counts_as"), [(-20.0, 0.0), (500.0, 100.0)])
def test_no_boot_lasts_less_than_nothing_or_longer_than_it_may(
    backend: ListBackend, after: float, counts_as: float
) -> None:
    pool = new_pool(backend, boot_timeout=100)
    assert boots(pool, after=after) == pytest.approx(60 + BOOT_WEIGHT * (counts_as - 60))


@pytest.mark.parametrize("since", [None, NOW + 25])
def test_a_boot_nobody_listened_after_teaches_nothing(backend: ListBackend, since: float | None) -> None:
    assert boots(new_pool(backend), after=30, since=since) == FIRST_BOOT


def test_a_boot_is_learned_from_though_nothing_could_be_measured_when_it_was_over(backend: ListBackend) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=1))
    pool.look(pool.roster.runners, up("r0"), NOW + 10)
    pool.miss()
    pool.look(None, up("r0"), NOW + 11)
    pool.learn(NOW + 11, waiting=0, running=0)
    assert pool.past.boot == pytest.approx(60 + BOOT_WEIGHT * (10 - 60))


def busy(pool: Pool, seconds: int, *, runtime: int, since: float = NOW, taken: int = 0) -> None:
    """Let runner r0 run one task after the other, and let as many arrive as it takes."""
    for second in range(seconds):
        said = Word(
            runner_id="r0", pool="video", owner="o", state=RunnerState.UP, active=1, taken=taken + 1 + second // runtime
        )
        pool.look([Runner(id="r0", pool="video", launched_at=NOW)], {"r0": said}, since + second)
        pool.learn(since + second, waiting=3, running=1)


def test_a_pool_learns_how_long_tasks_run(backend: ListBackend) -> None:
    pool = new_pool(backend)
    do_round(pool, Demand(waiting=1))
    busy(pool, 600, runtime=5)
    assert pool.past.runtime == pytest.approx(5, rel=0.1)


def test_what_an_adopted_runner_does_when_it_is_first_heard_is_no_arrival_and_no_end(backend: ListBackend) -> None:
    pool = new_pool(backend)
    pool.learn(NOW - 1, waiting=3, running=0)
    busy(pool, 2, runtime=1000, taken=500)
    assert (pool.past.ended, pool.past.arrivals.span) == (0, 0)


def test_local_tasks_that_begin_to_count_are_no_arrivals(backend: ListBackend) -> None:
    pool = new_pool(backend)
    pool.learn(NOW, waiting=0, running=0)
    pool.learn(NOW + 1, waiting=0, running=0, local=(4, 9000))
    pool.learn(NOW + 2, waiting=0, running=0, local=(4, 9001))
    assert (pool.past.arrivals.span, pool.past.ended) == (1, 1)
    assert pool.past.last == Look(at=NOW + 2, waiting=0, running=4, taken=9001)


def test_the_next_parent_goes_on_from_what_was_learned(backend: ListBackend) -> None:
    pool, fresh = new_pool(backend), new_pool(backend)
    do_round(pool, Demand(waiting=1))
    busy(pool, 600, runtime=5)
    left = Left(standings={"video": pool.standing})
    fresh.learn(NOW + 599, waiting=0, running=0)
    fresh.adopt(left, NOW + 600)
    assert fresh.past.runtime == pytest.approx(5, rel=0.1)
    assert fresh.past.arrivals.lasting == pytest.approx(1 / 5, rel=0.2)
    assert fresh.past.at_least is None
    again = new_pool(backend)
    again.adopt(Left(standings={"video": fresh.standing}), NOW + 600)
    assert again.past.runtime == pytest.approx(5, rel=0.2), "and the one after that, if it comes at once"


def test_of_long_ago_only_runtime_and_boots_are_taken_over(backend: ListBackend) -> None:
    pool = new_pool(backend)
    learned = Learned(at=NOW - 9000, runtime=4.0, boot=20.0, arriving=3.0)
    pool.adopt(Left(standings={"video": Standing(learned=learned)}), NOW)
    assert (pool.past.boot, pool.past.arrivals.lasting) == (20, 0)
    assert pool.past.runtime == pytest.approx(4, rel=0.1)


def test_what_a_parent_saw_itself_is_newer_than_what_the_one_before_learned(backend: ListBackend) -> None:
    pool = new_pool(backend)
    busy(pool, 600, runtime=5)
    learned = Learned(at=NOW + 600, runtime=100.0, boot=20.0, arriving=3.0)
    pool.adopt(Left(standings={"video": Standing(learned=learned)}), NOW + 600)
    assert pool.past.runtime == pytest.approx(5, rel=0.1)
    assert pool.past.boot == 20


def test_what_was_learned_is_noted_once_a_minute_and_not_anew_while_nothing_happens(backend: ListBackend) -> None:
    def noted(pool: Pool, until: int) -> int:
        return len({pool.standing.learned for second in range(until) if _learn(pool, second) is None})

    def _learn(pool: Pool, second: int) -> None:
        pool.learn(NOW + second, waiting=second if pool is growing else 0, running=0)

    growing, quiet = new_pool(backend), new_pool(backend)
    assert noted(growing, 301) == 6
    assert noted(quiet, 301) == 1


def recalling(backend: ListBackend, store: Store, *, runners: int = 3) -> Pool:
    """Return a pool with one runner that is up, and others that boot and that its policy recalls."""
    backend.living = [Runner(id=f"r{n}", pool="video", launched_at=NOW - 90, launch=f"l{n}") for n in range(runners)]
    recall = tuple(runner.id for runner in backend.living)
    pool = planned(backend, Plan(recall=recall, reason="enough are up"), recall=store)
    pool.roster.launched(backend.living, NOW - 90)
    pool.look(backend.runners(), up("r0", recallable=True), NOW)
    return pool


def test_runners_that_boot_are_recalled_and_ended_and_count_no_more(backend: ListBackend) -> None:
    pool = recalling(backend, Store())
    do_round(pool, Demand(waiting=0))
    assert [runner.id for runner in backend.living] == ["r0"]
    assert pool.fleet(NOW).count(RunnerState.BOOTING) == 0


def test_one_that_came_to_work_before_it_was_recalled_is_left_alone(backend: ListBackend) -> None:
    pool = recalling(backend, store := Store(but={"r1"}))
    do_round(pool, Demand(waiting=0))
    assert store.asked == [{"r1", "r2"}]
    assert [runner.id for runner in backend.living] == ["r0", "r1"]
    assert pool.fleet(NOW).count(RunnerState.BOOTING) == 1


def test_no_runner_is_recalled_whose_release_is_not_known_to_ask(backend: ListBackend) -> None:
    pool = recalling(backend, store := Store())
    backend.living = [dataclasses.replace(runner, release="another") for runner in backend.living]
    pool.look(backend.runners(), {}, NOW)
    do_round(pool, Demand(waiting=0))
    assert not store.asked
    assert len(backend.living) == 3


@pytest.mark.parametrize("since", [None, NOW - 89])
def test_no_runner_is_recalled_that_may_have_said_hello_while_nobody_listened(
    backend: ListBackend, since: float | None
) -> None:
    pool = recalling(backend, store := Store())
    do_round(pool, Demand(waiting=0), since=since)
    assert not store.asked
    do_round(pool, Demand(waiting=0), since=NOW - 91)
    assert store.asked == [{"r1", "r2"}]


def test_no_runner_is_recalled_that_another_parent_launched(backend: ListBackend) -> None:
    pool = recalling(backend, store := Store())
    backend.living.append(Runner(id="r3", pool="video", launched_at=NOW - 90))
    pool.look(backend.runners(), {}, NOW)
    pool.act(Plan(recall=("r1", "r3"), reason="enough are up"), NOW)
    assert store.asked == [{"r1"}]


def test_a_recalled_runner_that_the_backend_did_not_end_counts_no_more_until_it_ends_itself(
    backend: ListBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Collection[str]) -> None:
        raise BackendError("UnauthorizedOperation")

    pool = recalling(backend, Store())
    monkeypatch.setattr(backend, "terminate", refuse)
    with pytest.raises(BackendError, match="UnauthorizedOperation"):
        do_round(pool, Demand(waiting=0))
    pool.look(backend.runners(), up("r0"), NOW + 1)
    assert pool.fleet(NOW).count(RunnerState.BOOTING) == 0
    assert pool.fleet(NOW).count(RunnerState.ENDING) == 2


def test_a_recalled_runner_that_is_reaped_because_it_never_came_up_is_still_no_failed_boot(
    backend: ListBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = recalling(backend, Store())
    monkeypatch.setattr(backend, "terminate", lambda _: None)
    do_round(pool, Demand(waiting=0))
    pool.roster.reaped("r1", "no hello within boot_timeout (120 s)")
    pool.look(backend.runners(), up("r0"), NOW + 1)
    assert pool.fleet(NOW).count(RunnerState.BOOTING) == 0
    with heard(signals.runner_ended) as ended:
        see(pool, [], {}, NOW + 2, hears=True)
    assert {call["runner"].id: call["kind"] for call in ended}["r1"] == "recalled"


def test_the_end_of_a_recalled_runner_is_no_failed_boot(backend: ListBackend) -> None:
    pool = recalling(backend, Store())
    backend.words = "flame: boot failed: release: it exited"
    do_round(pool, Demand(waiting=0))
    with heard(signals.runner_ended) as ended, heard(signals.launch_failed) as failed:
        see(pool, backend.runners(), {}, NOW + 1, hears=True)
    assert not failed
    assert not pool.roster.failures.count
    assert [(call["reason"], call["kind"]) for call in ended] == [(RECALLED, "recalled")] * 2


def test_a_failed_boot_is_told_though_another_of_its_launch_was_recalled(backend: ListBackend) -> None:
    pool = recalling(backend, Store(but={"r1"}))
    backend.living = [dataclasses.replace(runner, launch="one") for runner in backend.living]
    backend.words = "flame: boot failed: release: it exited"
    pool.look(backend.runners(), {}, NOW)
    do_round(pool, Demand(waiting=0))
    backend.living = []
    with heard(signals.launch_failed) as failed:
        see(pool, backend.runners(), {}, NOW + 1, hears=True)
    assert [call["reason"].partition(":")[0] for call in failed] == ["r1 did not come up"]
