"""Would it work, and if not, why? Looks at everything, changes nothing."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from celery import Celery
from kombu.connection import Connection

from .. import workers
from ..app_path import import_path
from ..broker import open_connection
from ..config import PoolSettings, Settings
from ..errors import DemandUnknown, FlameError, SettingsError
from ..finding import Finding, Verdict, failed, of_pools, ok, unknown
from ..parent import Parent
from ..pool import letter
from ..service import load_policy
from ..settings import settings_of
from . import app as habit
from . import broker, env

logger = logging.getLogger(__name__)

#: Seconds for one wait for the broker.
BROKER_TIMEOUT = 5.0

Step = tuple[str, Callable[[], Iterable[Finding]]]


def examine(
    app: Celery,
    environ: Mapping[str, str],
    begin: Callable[[str], None],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """Yield what every check finds, as it is found; `begin` is told the name of each step.

    `pause` waits some seconds: EC2 takes a launch, and a dry run of one, only every now and then.
    No check hides another, and none waits without bound.
    """
    settings, problems = _settings(app)
    yield from problems
    for name, check in _steps(app, settings, environ, pause):
        begin(name)
        yield from _tried(name, check)


def _settings(app: Celery) -> tuple[Settings | None, list[Finding]]:
    remedy = "change the setting it names; every option is in docs/settings.md"
    try:
        settings = settings_of(app)
    except SettingsError as exc:
        return None, [failed("settings", problem, remedy) for problem in exc.problems]
    names = ", ".join(pool.name for pool in settings.pools)
    told = ok("settings", f"backend {settings.backend!r}, pools {names}, owner {settings.owner}")
    try:
        load_policy(settings.policy)
    except SettingsError as exc:
        return settings, [told, *(failed("policy", problem, remedy) for problem in exc.problems)]
    return settings, [told]


def _steps(
    app: Celery, settings: Settings | None, environ: Mapping[str, str], pause: Callable[[float], None]
) -> Iterator[Step]:
    yield "broker", lambda: _broker(app, settings)
    yield "Celery's settings", lambda: _habits(app, settings)
    if settings is None:
        yield "pools", lambda: [unknown("pools", "not looked at", "mend the settings")]
        return
    yield "lease", lambda: [broker.lease(app, settings)]
    if settings.board:
        yield "board", lambda: broker.board(settings)
    if settings.backend == "ec2":
        yield from _ec2(app, settings, environ, pause)
    else:
        yield "local", lambda: [_local(app)]


def _broker(app: Celery, settings: Settings | None) -> Iterator[Finding]:
    try:
        connection = open_connection(app, timeout=BROKER_TIMEOUT)
    except DemandUnknown as exc:
        yield failed("broker", str(exc), 'install what it needs, such as "celery-flame-ec2[redis]"')
        return
    with connection:
        reached = broker.reach(connection)
        yield reached
        if reached.verdict is Verdict.OK:
            yield from _of_broker(app, settings, connection)


def _of_broker(app: Celery, settings: Settings | None, connection: Connection) -> Iterator[Finding]:
    if settings is not None:
        yield broker.depths(connection, [queue for pool in settings.pools for queue in pool.queues])
    yield habit.parents(workers.ask(app, connection), ours=habit.is_ours(app.conf.worker_autoscaler))


def _habits(app: Celery, settings: Settings | None) -> Iterator[Finding]:
    pools = settings.pools if settings else ()
    driver: str = app.connection_for_read().transport.driver_type
    queues = [queue for pool in pools for queue in pool.queues]
    yield from habit.examine(habit.habits(app, driver, queues), pools)


def _local(app: Celery) -> Finding:
    path = import_path(app)
    if path is None:
        return failed(
            "runners", "no new process could import this app", "make it a module's attribute, for `celery -A`"
        )
    return ok("runners", f"processes of this machine, started with `celery -A {path}`")


def _ec2(app: Celery, settings: Settings, environ: Mapping[str, str], pause: Callable[[float], None]) -> Iterator[Step]:
    from ..backends.ec2.checkup import Checkup

    urls = broker.urls_of(app)
    letters = {pool.name: _letter(settings, pool) for pool in settings.pools}
    services = ["sqs"] if any(url.startswith("sqs:") for url in urls) else []
    ports = broker.ports(urls)
    checkup = Checkup(settings, letters=letters, ports=ports, services=services, environ=environ, pause=pause)
    results = app.conf.result_backend
    yield "broker for runners", _each(settings, lambda pool: broker.elsewhere(urls, results, pool, environ))
    yield "env", _each(settings, lambda pool: [env.examine(pool.ec2.env)])
    for name, check in checkup.steps():
        yield name, _each(settings, check)
    checkup.close()


def _each(settings: Settings, check: Callable[[PoolSettings], Iterable[Finding]]) -> Callable[[], list[Finding]]:
    """Return the check of all pools; what is alike for several is told once."""

    def of_pool(pool: PoolSettings) -> Iterator[tuple[str, Finding]]:
        for found in _tried("check", lambda: check(pool)):
            yield pool.name, found

    every = [pool.name for pool in settings.pools]
    return lambda: of_pools((found for pool in settings.pools for found in of_pool(pool)), every)


def _letter(settings: Settings, pool: PoolSettings) -> Parent:
    # Where the type's vCPUs decide, any number does for a request that starts nothing.
    return letter(settings, dataclasses.replace(pool, max_concurrency=pool.max_concurrency or 1), warm=False)


def _tried(name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as exc:  # whatever one check meets, the others are made
        logger.debug("%s", name, exc_info=exc)
        told = str(exc) if isinstance(exc, FlameError) else f"{type(exc).__name__}: {exc}"
        yield unknown(name, f"the check broke off: {told}", "look at this one yourself")
