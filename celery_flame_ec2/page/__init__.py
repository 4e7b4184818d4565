"""What does a parent show of itself over HTTP?"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import logging
import re
import time
from collections.abc import Callable
from http import HTTPStatus

from ..address import Address
from ..config import Settings
from ..errors import PageError
from ..overview import Overview
from .door import Door
from .metrics import Metrics
from .rounds import Rounds
from .server import Answer, Server, says
from .tally import Tally

logger = logging.getLogger(__name__)

#: The page may run what stands in it, and ask where it came from; nothing else, from nowhere else.
POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; style-src {style}; script-src {script}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """A page, what it asks for, and what monitoring asks for, of one parent; fed after each of its rounds."""

    def __init__(
        self, settings: Settings, address: Address, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rounds = Rounds(settings, monotonic=monotonic)
        self._tally = Tally(pool.name for pool in settings.pools)
        page = _page()
        answers: dict[str, Callable[[], Answer]] = {
            "/": lambda: page,
            "/status.json": self._rounds.status,
            "/history.json": self._rounds.history,
            "/metrics": self._metrics(),
            "/healthz": self._rounds.health,
        }
        self._server = Server(address, Door(token=settings.http_token), answers)

    @property
    def address(self) -> Address:
        """Where it listens; port 0 becomes the one it got when it is started."""
        return self._server.address

    def after_round(self, overview: Overview, seconds: float) -> None:
        """Show how it stands after a round, which took so long."""
        self._rounds.take(overview)
        self._tally.ticks.add(seconds)

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            PageError: the port is in use, or the address is none of this machine.
        """
        self._server.start()
        self._tally.connect()
        logger.info("status page on http://%s/", self.address)

    def leave(self) -> None:
        """Let go of the port in a process that was forked from this one."""
        self._server.leave()

    def stop(self) -> None:
        """Answer no more, and let go of the port."""
        self._tally.disconnect()
        self._server.stop()

    def _metrics(self) -> Callable[[], Answer]:
        try:
            metrics = Metrics(lambda: self._rounds.overview, self._tally)
        except PageError as exc:  # the page itself needs no library
            missing = says(str(exc), HTTPStatus.NOT_IMPLEMENTED)
            return lambda: missing
        return lambda: Answer(body=metrics.render(), kind=metrics.kind)


def open_page(settings: Settings) -> Page | None:
    """Return the page that `flame_http` asks for, if it does; it answers once it is started."""
    return None if settings.http is None else Page(settings, settings.http)


def _page() -> Answer:
    text = importlib.resources.files("celery_flame_ec2").joinpath("templates", "page.html").read_text("utf-8")
    policy = POLICY.format(style=_hash_of("style", text), script=_hash_of("script", text))
    return Answer(body=text.encode(), kind="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def _hash_of(element: str, text: str) -> str:
    """Return how a Content-Security-Policy names the one inline element there is of this kind."""
    (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
