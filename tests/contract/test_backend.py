"""What must every compute backend do? One suite over all of them."""

from __future__ import annotations

import time
from collections.abc import Collection

import pytest

from celery_flame_ec2.backends.base import Backend, unguarded
from celery_flame_ec2.errors import BackendError, LaunchError, LeaseError
from celery_flame_ec2.runner import Runner, RunnerState
from tests.contract.rigs import Rig
from tests.waiting import wait_until


def ids(runners: Collection[Runner]) -> set[str]:
    return {runner.id for runner in runners}


def wait_for(backend: Backend, *, ids_left: set[str]) -> None:
    wait_until(lambda: ids(backend.runners()) == ids_left, what=f"only {ids_left or 'nobody'} is left")


def test_a_launch_gives_that_many_different_runners_of_the_letters_pool(rig: Rig) -> None:
    runners = rig.backend().launch(rig.letter(pool="audio"), 3)
    assert len(ids(runners)) == 3
    assert {runner.pool for runner in runners} == {"audio"}
    assert {runner.state for runner in runners} == {RunnerState.BOOTING}


def test_a_launch_of_none_starts_none(rig: Rig) -> None:
    backend = rig.backend()
    assert backend.launch(rig.letter(), 0) == ()
    assert backend.runners() == ()


def test_with_nothing_launched_the_listing_is_empty(rig: Rig) -> None:
    assert rig.backend().runners() == ()


def test_what_was_launched_is_listed_as_it_was_launched(rig: Rig) -> None:
    backend, before = rig.backend(), time.time()
    launched = {
        *backend.launch(rig.letter(pool="video", warm=True), 1),
        *backend.launch(rig.letter(pool="audio"), 2),
    }
    listed = backend.runners()
    assert ids(listed) == ids(launched)
    assert sorted((runner.pool, runner.warm) for runner in listed) == [
        ("audio", False),
        ("audio", False),
        ("video", True),
    ]
    # EC2 tells whole seconds.
    assert all(before - 1 <= runner.launched_at <= time.time() + 1 for runner in listed)
    assert not any(runner.powered_off for runner in listed)


def test_a_deadline_is_listed_and_is_later_than_any_healthy_end(rig: Rig) -> None:
    backend = rig.backend()
    limits = rig.letter().limits
    backend.launch(rig.letter(), 1)
    (runner,) = backend.runners()
    assert runner.deadline is not None
    assert runner.deadline >= runner.launched_at + limits.max_lifetime + limits.shutdown_timeout


def test_another_parent_of_the_same_owner_adopts_the_living(rig: Rig) -> None:
    launched = rig.backend().launch(rig.letter(), 2)
    assert ids(rig.backend().runners()) == ids(launched)


def test_a_closed_backend_leaves_its_runners_alive(rig: Rig) -> None:
    backend = rig.backend()
    launched = backend.launch(rig.letter(), 1)
    backend.close()
    assert ids(rig.backend().runners()) == ids(launched)


def test_another_owners_runners_are_invisible(rig: Rig) -> None:
    rig.backend("other@somewhere/0").launch(rig.letter(owner="other@somewhere/0"), 1)
    mine = rig.backend().launch(rig.letter(), 1)
    assert ids(rig.backend().runners()) == ids(mine)


def test_an_owner_whose_name_is_the_beginning_of_anothers_does_not_see_the_others(rig: Rig) -> None:
    longer = f"{rig.owner}0"
    rig.backend(longer).launch(rig.letter(owner=longer), 1)
    assert rig.backend().runners() == ()


def test_the_terminated_are_gone_and_the_others_are_not(rig: Rig) -> None:
    backend = rig.backend()
    first, second, third = sorted(ids(backend.launch(rig.letter(), 3)))
    backend.terminate([first, third])
    wait_for(backend, ids_left={second})


def test_another_parent_can_terminate(rig: Rig) -> None:
    launched = rig.backend().launch(rig.letter(), 2)
    other = rig.backend()
    other.terminate(ids(launched))
    wait_for(other, ids_left=set())


def test_terminating_twice_is_no_error(rig: Rig) -> None:
    backend = rig.backend()
    launched = ids(backend.launch(rig.letter(), 1))
    backend.terminate(launched)
    backend.terminate(launched)
    wait_for(backend, ids_left=set())
    backend.terminate(launched)


def test_terminating_nobody_is_no_error(rig: Rig) -> None:
    rig.backend().terminate([])


def test_an_unknown_id_is_no_error_and_does_not_save_the_others(rig: Rig) -> None:
    backend = rig.backend()
    launched = ids(backend.launch(rig.letter(), 2))
    backend.terminate([rig.stranger, *launched, "not even an id"])
    wait_for(backend, ids_left=set())


def test_a_launch_that_gives_nobody_is_an_error_in_one_line(rig: Rig) -> None:
    backend = rig.backend()
    with rig.refusing(), pytest.raises(LaunchError) as failure:
        backend.launch(rig.letter(), 2)
    assert str(failure.value)
    assert "\n" not in str(failure.value)
    assert backend.runners() == ()


def test_a_parent_that_may_act_no_more_sends_no_request(rig: Rig) -> None:
    backend = rig.backend()
    (runner,) = backend.launch(rig.letter(), 1)

    def refuse() -> None:
        raise LeaseError("lost")

    backend.guard = refuse
    with pytest.raises(LeaseError):
        backend.launch(rig.letter(), 2)
    with pytest.raises(LeaseError):
        backend.terminate([runner.id])
    backend.guard = unguarded
    assert ids(backend.runners()) == {runner.id}


def test_after_a_refused_launch_the_next_one_may_succeed(rig: Rig) -> None:
    backend = rig.backend()
    with rig.refusing(), pytest.raises(LaunchError):
        backend.launch(rig.letter(), 1)
    rig.later()
    assert len(backend.launch(rig.letter(), 1)) == 1


def test_a_launch_that_is_not_open_here_is_unknown_and_launches_nothing(rig: Rig) -> None:
    backend = rig.backend()
    assert backend.ask_again("0123") is None
    assert backend.runners() == ()


def test_what_is_announced_names_the_pool_and_covers_what_is_launched(rig: Rig) -> None:
    backend, announced = rig.backend(), []
    backend.announce = announced.append
    launched = backend.launch(rig.letter(pool="audio"), 3)
    by_token = {launch.token: launch for launch in announced}
    for launch in announced:
        assert launch.pool == "audio"
    for token in {runner.launch for runner in launched if runner.launch}:
        assert by_token[token].count >= sum(runner.launch == token for runner in launched)
    assert {runner.launch for runner in backend.runners()} == {runner.launch for runner in launched}


def test_an_incomplete_listing_is_an_error_and_no_shorter_list(rig: Rig) -> None:
    backend = rig.backend()
    launched = backend.launch(rig.letter(), 1)
    with rig.unreadable(), pytest.raises(BackendError):
        backend.runners()
    assert ids(backend.runners()) == ids(launched)


def test_last_words_never_raise(rig: Rig) -> None:
    backend = rig.backend()
    (runner,) = backend.launch(rig.letter(), 1)
    assert isinstance(backend.last_words(runner.id), str)
    backend.terminate([runner.id])
    wait_for(backend, ids_left=set())
    assert isinstance(backend.last_words(runner.id), str)
    assert backend.last_words(rig.stranger) == ""
    assert backend.last_words("../not even an id") == ""


def test_a_pools_concurrency_is_at_least_one(rig: Rig) -> None:
    assert rig.backend().concurrency(rig.settings(rig.owner).pools[0]) >= 1


def test_how_long_a_listing_may_be_trusted_is_known(rig: Rig) -> None:
    assert 0 < rig.backend().listing_ttl <= 60
