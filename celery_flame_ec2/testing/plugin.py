"""Which fixtures does pytest have for an app's pools?

pytest imports this module in every run: what it needs it imports when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery import Celery

    from ..simulate import Conditions
    from .flame import Flame

APP = "flame_app"
HELP = "the Celery app whose pools are tested, as `celery -A` takes it"
#: What the marker says beside settings.
OWN = {"seed", "start"}
MARK = (
    "flame(leaves=0, start=None, seed=0, **settings): flame_ settings for this test, laid over the app's, as in "
    "pools={'video': {'max': 2}}; it begins at a datetime, and so many runners may be left at its end"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare which app is tested."""
    parser.addini(APP, HELP, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", MARK)


@pytest.fixture
def flame_app(request: pytest.FixtureRequest) -> Celery:
    """Return the app whose pools are tested; override it where the option `flame_app` of pytest is not enough."""
    name = str(request.config.getini(APP))
    if not name:
        pytest.fail(
            "flame: which app? Set `flame_app = proj.app` in pytest's options, or write a fixture flame_app", False
        )
    from celery.app.utils import find_app

    app: Celery = find_app(name)
    return app


@pytest.fixture
def flame_settings() -> Mapping[str, Any]:
    """Return `flame_` settings to lay over the app's in all tests; override it, as in {"ec2": {"app": "proj"}}."""
    return {}


@pytest.fixture
def flame_conditions() -> Conditions:
    """Return how machines behave in all tests; override it, or set `flame.conditions` in one."""
    from ..simulate import Conditions

    return Conditions(boot_spread=0.0)


@pytest.fixture
def flame(
    request: pytest.FixtureRequest,
    flame_app: Celery,
    flame_settings: Mapping[str, Any],
    flame_conditions: Conditions,
) -> Iterator[Flame]:
    """Drive the app's pools by a clock of the test's own; at the end every runner must end."""
    from ..errors import FlameError
    from ..settings import laid_over
    from .flame import Flame

    changes: dict[str, Any] = dict(flame_settings)
    for mark in reversed(list(request.node.iter_markers("flame"))):  # those of module and class first
        changes = laid_over(changes, mark.kwargs)
    leaves, own = changes.pop("leaves", 0), {name: changes.pop(name) for name in OWN & changes.keys()}
    try:
        flame = Flame(flame_app, changes, conditions=flame_conditions, **own)
    except FlameError as exc:
        raise _failed(exc) from None
    yield flame
    try:
        flame.finish(leaves=leaves)
    except AssertionError as exc:
        raise _failed(exc) from None


def _failed(exc: Exception) -> BaseException:
    return pytest.fail.Exception(f"flame: {exc}", pytrace=False)
