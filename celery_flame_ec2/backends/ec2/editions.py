"""Which edition of its bundle do this parent's runners run, however long it lives?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ...config import Ec2Options
from ...edition import Edition, differences
from ...errors import BackendError
from . import lookups
from .clients import Clients, Place, Refused

logger = logging.getLogger(__name__)

#: Seconds after which a launch looks whether what was pinned is still there.
AGAIN = 60.0
GONE = frozenset({"HTTP 404", "HTTP 412", "NoSuchVersion"})


class Editions:
    """The state of each bundle as this parent first met it. `own` tells of which versions this process itself is."""

    def __init__(self, clients: Clients, *, own: Callable[[], Mapping[str, str]], clock: Callable[[], float]) -> None:
        self._clients, self._own, self._clock = clients, own, clock
        self._pinned: dict[tuple[str, str | None], Edition] = {}
        self._looked: dict[tuple[str, str | None], float] = {}

    def pin(self, place: Place, options: Ec2Options) -> Edition:
        """Return the edition that every runner of this parent gets.

        Raises:
            Refused: S3 does not tell.
            BackendError: there is no such bundle, it is not the one that is meant, or no longer the one pinned.
        """
        which = self._which(options)
        s3 = self._clients.s3(Place(region=place.region, endpoint=options.s3_service_endpoint))
        if which not in self._pinned:
            self._pinned[which] = self._first(s3, options)
        elif self._clock() - self._looked[which] >= AGAIN:
            _must_be_there(s3, self._pinned[which])
        else:
            return self._pinned[which]
        self._looked[which] = self._clock()
        return self._pinned[which]

    def pinned(self, options: Ec2Options) -> Edition | None:
        """Return the edition that was pinned, or None where none is yet."""
        return self._pinned.get(self._which(options))

    def _which(self, options: Ec2Options) -> tuple[str, str | None]:
        return str(options.s3_bundle_url), options.s3_service_endpoint

    def _first(self, s3: object, options: Ec2Options) -> Edition:
        url, meant = str(options.s3_bundle_url), options.s3_bundle_sha256
        try:
            found = lookups.edition(s3, url)
        except Refused as exc:
            if not (exc.refusal.forbidden and meant):
                raise
            logger.warning("the bundle is pinned by 's3_bundle_sha256' alone: %s", exc)
            return Edition(url=url, sha256=meant)
        if meant and found.sha256 not in (None, meant):
            raise BackendError(f"{url} has SHA-256 {found.sha256}, and option 's3_bundle_sha256' is {meant}")
        which = found.version or found.etag
        logger.info("runners of this parent run %s%s", url, f" as it is now ({which})" if which else "")
        for difference in differences(self._own(), found.facts):
            logger.warning("the bundle at %s is of another release than this parent: %s", url, difference)
        return found


def _must_be_there(s3: object, pinned: Edition) -> None:
    """Make sure that the pinned edition can still be fetched; where S3 does not tell, a runner will."""
    if pinned.etag is None:
        return
    try:
        now = lookups.edition(s3, pinned.url, version=pinned.version)
    except Refused as exc:
        if exc.refusal.code not in GONE:
            logger.debug("whether the bundle is still there is not known: %s", exc)
            return
        now = None
    if now is None or now.etag != pinned.etag:
        raise BackendError(
            f"the bundle at {pinned.url} is no longer the one pinned at start "
            f"({f'version {pinned.version}' if pinned.version else f'ETag {pinned.etag}'}); "
            "restart the parent to take the new one"
        )
