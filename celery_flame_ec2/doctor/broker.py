"""Does the broker answer here, would it answer runners, and does the lease?"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from celery import Celery
from kombu.connection import Connection

from ..board import open_board
from ..broker import cause, channel, drop
from ..config import PoolSettings, Settings
from ..errors import BoardError, DemandUnknown, FlameError, LeaseError
from ..finding import Finding, failed, ok, warning
from ..lease import open_lease
from ..notes import read_overrides
from ..queues import measure

logger = logging.getLogger(__name__)

#: TCP ports by the scheme of a broker's URL, where it names none.
PORTS = {
    "redis": 6379, "rediss": 6379, "sentinel": 26379, "amqp": 5672, "pyamqp": 5672, "amqps": 5671, "mongodb": 27017,
}  # fmt: skip
START = "start the broker, or set broker_url to where it is"


def reach(connection: Connection) -> Finding:
    """Connect, each wait bounded by the connection's own timeout."""
    try:
        channel(connection)
    except Exception as exc:  # whatever a transport raises
        logger.debug("the broker does not answer", exc_info=exc)
        drop(connection)
        return failed("broker", f"{connection.as_uri()}: {cause(exc, connection)}", START, silent=True)
    return ok("broker", f"{connection.as_uri()} answers")


def depths(connection: Connection, queues: Sequence[str]) -> Finding:
    """Measure the queues as a parent does."""
    try:
        measurement = measure(connection, queues)
    except DemandUnknown as exc:
        remedy = "use a broker whose queues can be measured, or allow this user to; see the broker's log"
        return failed("queues", str(exc), remedy, silent=True)
    told = ", ".join(f"{name} {depth.waiting}" for name, depth in measurement.depths.items())
    return ok("queues", f"waiting: {told}")


def urls_of(app: Celery) -> list[str]:
    """Return the broker's URLs, the failover ones too. They hold passwords."""
    connection: Connection = app.connection_for_read()
    alternatives: list[str] = [url for url in connection.alt if "://" in url]
    return list(dict.fromkeys([str(connection.as_uri(include_password=True)), *alternatives]))


def ports(urls: Collection[str]) -> dict[int, str]:
    """Return the TCP ports a runner connects to, as far as the URLs tell."""
    parts = [urlsplit(url) for url in urls]
    found = [each.port or PORTS.get(each.scheme.partition("+")[0]) for each in parts]
    return {port: "broker" for port in found if port}


def elsewhere(
    urls: Collection[str], results: str | None, pool: PoolSettings, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Tell whether a runner on another machine would find broker and result backend."""
    env = pool.ec2.env
    untold = "CELERY_BROKER_URL" in environ and "CELERY_BROKER_URL" not in env
    if untold:
        told = "it is named by CELERY_BROKER_URL of this environment, which runners do not inherit"
        yield warning("broker for runners", told, "give CELERY_BROKER_URL in 'env' too")
    given = env.get("CELERY_BROKER_URL")
    told_urls = [given] if isinstance(given, str) else [] if given else list(urls)
    near = [_place(urlsplit(url)) for url in told_urls if _is_near(urlsplit(url).hostname)]
    if near:
        told = f"{', '.join(near)}: a name that only this machine or network may know"
        yield warning("broker for runners", told, "set broker_url to an address the runners' network knows")
    elif not untold:
        yield ok("broker for runners", "its address is not one of this machine alone")
    if results and (results.startswith("file:") or _is_local(urlsplit(results).hostname)):
        told = f"{_place(urlsplit(results))} is of this machine alone: a runner's results get lost, or fail its tasks"
        yield warning("result backend", told, "set result_backend to an address the runners' network knows")


def _is_near(host: str | None) -> bool:
    return bool(host) and (_is_local(host) or ("." not in str(host) and ":" not in str(host)))


def _is_local(host: str | None) -> bool:
    try:
        return host == "localhost" or bool(host and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _place(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def lease(app: Celery, settings: Settings) -> Finding:
    """Look at where it is settled which parent acts; takes nothing."""
    try:
        store = open_lease(app, settings)
        store.notes()
        decided = read_overrides(store)
    except LeaseError as exc:
        return failed("lease", str(exc), "while it does not answer no parent acts; see flame_lease", silent=True)
    except FlameError as exc:
        return failed("lease", str(exc), "see flame_lease")
    if settings.lease is False:
        return ok("lease", "off (flame_lease = False): run one parent only")
    if store.place == "no lease":
        return warning("lease", "none: two parents would both act", "set flame_lease to a redis:// or s3:// URL")
    if doubt := decided.doubt({pool.name for pool in settings.pools}):
        what = f"{store.place} answers, but not what operators decided: {doubt}"
        unread = "no `flame pause` or `flame scale` reaches the parent; see `flame iam-policy`"
        return failed("lease", what, unread if decided.unknown else f"remove that entry from {store.place}")
    return ok("lease", f"{store.place} answers")


def board(settings: Settings) -> Iterator[Finding]:
    """Read what runners say where the broker carries no words; nothing where it does."""
    if not settings.board:
        return
    try:
        found = open_board(settings.board)
        found.pins()
    except BoardError as exc:
        yield warning("board", f"no runner is heard, and none can be cordoned: {exc}", "see docs/board.md")
        return
    yield ok("board", f"{found.place} answers: this broker carries no words, so runners pin theirs there, by boto3")
