"""What does EC2 announce to this instance?"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dateutil.parser import isoparse

from .config import Ec2Options
from .errors import MetadataError
from .imds import Metadata, is_disabled
from .parent import Parent

logger = logging.getLogger(__name__)

#: Seconds between two looks; EC2 advises five.
#: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
LOOK_EVERY = 5.0
#: Seconds that a notice leaves which does not say when.
USUAL_NOTICE = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What was announced: when EC2 takes the machine, by the monotonic clock; whether it advises to leave."""

    taken_away_at: float | None = None
    rebalance: bool = False


class Notices:
    """Asks a spot instance's metadata again and again, from a thread of its own; an on-demand instance's only once."""

    def __init__(
        self,
        metadata: Metadata,
        *,
        every: float = LOOK_EVERY,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._metadata, self._every = metadata, every
        self._monotonic, self._clock = monotonic, clock
        self._notice = Notice()
        self._spot: bool | None = None
        self._silent = False
        self._thread = threading.Thread(target=self.run, name="flame-notices", daemon=True)

    def start(self, **_: Any) -> None:
        """Begin to ask; ends with the process, or when nothing more can be announced."""
        self._thread.start()

    def notice(self) -> Notice:
        """Return what was announced up to now; from any thread, without waiting."""
        return self._notice

    def run(self) -> None:
        """Look until the machine is about to be taken, or is found to be none that is."""
        while self.look():
            time.sleep(self._every)

    def look(self) -> bool:
        """Ask once; return whether to ask again."""
        try:
            if self._spot is None:
                self._spot = self._metadata.read("instance-life-cycle") == "spot"
            if self._spot:
                self._notice = self._announced()
        except MetadataError as exc:
            log = logger.debug if self._silent else logger.warning  # once: it may be switched off
            log("flame: no spot interruption notice would be seen: %s", exc)
            self._silent = True
            return True
        self._silent = False
        return self._spot and self._notice.taken_away_at is None

    def _announced(self) -> Notice:
        action = self._metadata.read("spot/instance-action")
        return Notice(
            taken_away_at=None if action is None else self._monotonic() + self._left(action),
            rebalance=self._metadata.read("events/recommendations/rebalance") is not None,
        )

    def _left(self, action: str) -> float:
        """Return for how many seconds there is a machine; `action` is as EC2 writes it."""
        try:
            at: datetime = isoparse(str(json.loads(action)["time"]))
            return at.timestamp() - self._clock()
        except (ValueError, TypeError, KeyError):
            return USUAL_NOTICE


def open_notices(letter: Parent, environ: Mapping[str, str]) -> Notices | None:
    """Return what asks this runner's metadata; None where it is no instance, or metadata is not to be asked."""
    own = Ec2Options()
    url = letter.metadata.get("url", own.instance_metadata_url)
    if letter.backend != "ec2" or is_disabled(url, environ):
        return None
    token_url = letter.metadata.get("token_url", own.instance_metadata_token_url)
    return Notices(Metadata(url=url, token_url=token_url, environ=environ))
