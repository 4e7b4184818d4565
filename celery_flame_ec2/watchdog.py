"""Who ends this process when all of it hangs?"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, MutableMapping

from .parent import Parent

logger = logging.getLogger(__name__)

SOCKET_VARIABLE = "NOTIFY_SOCKET"
#: Seconds of silence after which systemd ends the worker: less than a parent waits for a word, more than a machine
#: that swaps or a task that keeps a green worker's loop needs.
PATIENCE = 300.0
#: Seconds between two signs of life.
PULSE = 10.0


class Watchdog:
    """Has systemd kill this process when it gives no sign of life for `patience` seconds.

    The first sign arms it: a unit whose program knows nothing of this is not concerned. One sign is one datagram
    (https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html).
    """

    def __init__(
        self, address: str, *, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Make a watchdog; `address` is a path, or an abstract socket's name after an @."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        # Both in every sign: whatever systemd forgets when its units are read anew, it hears again.
        self._sign = f"WATCHDOG=1\nWATCHDOG_USEC={int(patience * 1e6)}".encode()
        self._clock = clock
        self._last = float("-inf")
        self._silent = False

    def pulse(self) -> None:
        """Give a sign of life, if it is time for one; never waits."""
        now = self._clock()
        if now - self._last < PULSE:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.setblocking(False)
                notify.sendto(self._sign, self._address)
        except OSError as exc:  # systemd is busy, and hears the next one
            log = logger.debug if self._silent else logger.warning
            log("flame: systemd takes no sign of life: %s", exc)
            self._silent = True
        else:
            self._last, self._silent = now, False


def open_watchdog(letter: Parent, environ: MutableMapping[str, str]) -> Watchdog | None:
    """Return this runner's watchdog; None where no unit of ours runs it.

    The address is taken out of the environment: what a task starts must not speak for the worker.
    """
    if letter.backend != "ec2":  # a local runner may have it from its parent, whose unit it is
        return None
    address = environ.pop(SOCKET_VARIABLE, "")
    return Watchdog(address) if address[:1] in {"/", "@"} else None
