"""What does pytest tell a team of its pools?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest_plugins = ("pytester",)

#: With the module's own name: where this package was installed before it had the entry point, there is none yet.
PLUGIN = ("-p", "no:flame", "-p", "celery_flame_ec2.testing.plugin")
APP = """
from celery import Celery

APP = "proj"

app = Celery("proj", broker="redis://127.0.0.1:1/0", set_as_current=False)
app.conf.flame_pools = {"video": {"queues": ["video"], "max": 4, "max_concurrency": 2}}
"""
INI = "[pytest]\nflame_app = proj\npythonpath = .\n"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(proj=APP)
    pytester.makeini(INI)
    return pytester


def run(project: pytest.Pytester, tests: str, *arguments: str, **expected: int) -> str:
    """Run tests of a team, see how many went how, and return what was printed."""
    project.makepyfile(test_pools=tests)
    result = project.runpytest("-q", *PLUGIN, *arguments)
    result.assert_outcomes(**expected)
    return result.stdout.str()


def test_a_test_gets_the_pools_of_the_app_that_pytests_option_names(project: pytest.Pytester) -> None:
    tests = """
        import pytest

        @pytest.mark.flame(pools={"video": {"max": 2}})
        def test_marked(flame):
            flame.push("video", 40, runtime=30)
            flame.settle()
            assert flame.peak("video") == 2

        def test_plain(flame):
            flame.push("video", 40, runtime=30)
            flame.settle()
            assert flame.peak("video") == 4
        """
    run(project, tests, "--strict-markers", passed=2)


def test_a_runner_that_lives_on_fails_its_test_at_the_end(project: pytest.Pytester) -> None:
    tests = """
        import pytest
        from celery_flame_ec2.policy import Plan

        def greedy(pool, demand, fleet, now):
            return Plan(launch=1, reason="one more")

        @pytest.mark.flame(policy="test_pools:greedy")
        def test_it(flame):
            flame.advance(120)

        @pytest.mark.flame(policy="test_pools:greedy", leaves=4)
        def test_that_says_so(flame):
            flame.advance(120)
        """
    printed = run(project, tests, passed=2, errors=1)
    assert "\nflame: 4 of these runners live on 1080 s after the last task was gone; at 1200 s: pool" in printed
    assert "last decided: " in printed
    assert "def flame(" not in printed, "a traceback into this package helps nobody"
    assert "During handling" not in printed


def test_what_a_policy_raises_fails_its_test_with_the_policys_own_lines(project: pytest.Pytester) -> None:
    tests = """
        import pytest

        def broken(pool, demand, fleet, now):
            return 1 / demand.waiting if now > 1_000_000_005 else __import__("celery_flame_ec2.policy").policy.plan(
                pool, demand, fleet, now
            )

        @pytest.mark.flame(policy="test_pools:broken")
        def test_it(flame):
            flame.advance(10)
        """
    printed = run(project, tests, failed=1)
    assert "return 1 / demand.waiting if now" in printed
    assert "ZeroDivisionError" in printed


def test_settings_that_cannot_work_are_told_in_a_line_for_each_problem(project: pytest.Pytester) -> None:
    tests = """
        import pytest

        @pytest.mark.flame(pools={"video": {"max": -1}}, intervall=5)
        def test_it(flame): ...
        """
    printed = run(project, tests, errors=1)
    assert "\nflame: settings flame_*: unknown option 'intervall'; did you mean 'interval'?" in printed
    assert "pool 'video': option 'max' must be a whole number from 0 to 10000, got -1" in printed


def test_without_an_app_it_is_told_how_to_name_one(pytester: pytest.Pytester) -> None:
    printed = run(pytester, "def test_it(flame): ...", errors=1)
    assert "flame: which app? Set `flame_app = proj.app` in pytest's options, or write a fixture flame_app" in printed


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("{'max': 3}", "the marker takes settings by name, as in flame(interval=5), got {'max': 3}"),
        ("start=5", "the marker's 'start' must be a datetime, got 5"),
        ("seed='a'", "the marker's 'seed' must be a whole number, got 'a'"),
        ("leaves=None", "the marker's 'leaves' must be a whole number, got None"),
    ],
    ids=["by position", "start", "seed", "leaves"],
)
def test_a_marker_that_means_nothing_is_told_in_a_line(project: pytest.Pytester, mark: str, told: str) -> None:
    tests = f"""
        import pytest

        @pytest.mark.flame({mark})
        def test_it(flame): ...
        """
    printed = run(project, tests, errors=1)
    assert f"\nflame: {told}\n" in printed
    assert "Error: " not in printed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nope.app", "ModuleNotFoundError: No module named 'nope'"),
        ("proj:nope", "ModuleNotFoundError: No module named 'proj:nope'"),
        ("proj:APP", "it is a str, not a Celery app"),
    ],
)
def test_an_app_that_is_not_there_is_told_with_the_option(project: pytest.Pytester, name: str, told: str) -> None:
    printed = run(project, "def test_it(flame): ...", "-o", f"flame_app={name}", errors=1)
    assert f"\nflame: flame_app = '{name}' cannot be loaded: {told}" in printed
    assert "importlib" not in printed


def test_a_team_may_bring_app_settings_and_conditions_by_fixtures(project: pytest.Pytester) -> None:
    project.makeini("[pytest]\npythonpath = .\n")
    project.makeconftest("""
        import pytest
        from celery_flame_ec2.simulate import Conditions

        @pytest.fixture
        def flame_app():
            from proj import app
            return app

        @pytest.fixture
        def flame_settings():
            return {"pools": {"video": {"max": 3, "max_concurrency": 1}}}

        @pytest.fixture
        def flame_conditions():
            return Conditions(boot=200.0, boot_spread=0.0)
        """)
    tests = """
        import pytest

        pytestmark = pytest.mark.flame(pools={"video": {"max": 2}}, interval=5)

        @pytest.mark.flame(pools={"video": {"max": 1}})
        def test_it(flame):
            flame.push("video", 4)
            flame.advance(110)
            pool = flame.settings.pools[0]
            assert (flame.peak("video"), pool.max, pool.max_concurrency, flame.settings.interval) == (1, 1, 1, 5)
            assert flame.conditions.boot == 200.0
        """
    run(project, tests, passed=1)


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_tests_leave_nothing_to_each_other(project: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    tests = """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(flame, number):
            assert (flame.now, flame.launched, flame.tasks) == (0.0, [], [])
            flame.push("video", 40)
            flame.advance(5)
        """
    run(project, tests, *arguments, passed=6)


def test_where_no_fixture_is_used_neither_celery_nor_boto3_is_imported(pytester: pytest.Pytester) -> None:
    tests = """
        import sys

        def test_it():
            assert "celery_flame_ec2.testing.plugin" in sys.modules
            heavy = {"boto3", "botocore", "celery", "click", "kombu", "celery_flame_ec2.testing.flame"}
            assert not heavy & set(sys.modules)
        """
    pytester.makepyfile(test_pools=tests)
    pytester.runpytest_subprocess(*PLUGIN).assert_outcomes(passed=1)


def loaded(code: str) -> Any:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_a_fixture_gives_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; from celery_flame_ec2.testing import Flame; print(Flame.__name__)"
    assert loaded(code) == "Flame\n"
