"""Which fixtures does pytest have for an app's pools?

pytest imports this module in every run: what it needs it imports when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery import Celery

    from ..simulate import Conditions
    from .flame import Flame

APP = "flame_app"
HELP = "the Celery app whose pools are tested, as `celery -A` takes it"
#: What the marker says beside settings, and what each is.
OWN = {"leaves": (int, "a whole number"), "seed": (int, "a whole number"), "start": (datetime, "a datetime")}
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
        raise _failed("which app? Set `flame_app = proj.app` in pytest's options, or write a fixture flame_app")
    from celery import Celery
    from celery.app.utils import find_app

    try:
        app = find_app(name)
    except (ImportError, AttributeError) as exc:
        raise _failed(f"{APP} = {name!r} cannot be loaded: {type(exc).__name__}: {exc}") from None
    if not isinstance(app, Celery):
        raise _failed(f"{APP} = {name!r} cannot be loaded: it is a {type(app).__name__}, not a Celery app")
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
    from .flame import Flame

    changes = _marked(request, flame_settings)
    own = {name: _own(name, changes.pop(name)) for name in OWN.keys() & changes.keys()}
    leaves = own.pop("leaves", 0)
    try:
        flame = Flame(flame_app, changes, conditions=flame_conditions, **own)
    except FlameError as exc:
        raise _failed(exc) from None
    yield flame
    try:
        flame.finish(leaves=leaves)
    except AssertionError as exc:
        raise _failed(exc) from None


def _marked(request: pytest.FixtureRequest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with what the test's markers say laid over them."""
    from ..settings import laid_over

    changes = dict(settings)
    for mark in reversed(list(request.node.iter_markers("flame"))):  # those of module and class first
        if mark.args:
            given = ", ".join(map(repr, mark.args))
            raise _failed(f"the marker takes settings by name, as in flame(interval=5), got {given}")
        changes = laid_over(changes, mark.kwargs)
    return changes


def _own(name: str, value: Any) -> Any:
    kind, words = OWN[name]
    if not isinstance(value, kind) and not (name == "start" and value is None):
        raise _failed(f"the marker's {name!r} must be {words}, got {value!r}")
    return value


def _failed(exc: object) -> BaseException:
    return pytest.fail.Exception(f"flame: {exc}", pytrace=False)
