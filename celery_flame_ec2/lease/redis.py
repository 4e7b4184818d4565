"""Who holds a key in Redis?"""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis.exceptions import LockError, RedisError

from ..broker import cause, channel, drop
from ..errors import LeaseError
from .base import MARGIN, TTL, new_holder


class RedisStore:
    """A lease in one key, under redis-py's own lock, over a connection made with the app's own options."""

    good_for = TTL - MARGIN

    def __init__(self, connection: Connection, owner: str) -> None:
        self._connection: Any = connection
        self._key = f"flame:lease:{owner}"
        self._holder = new_holder()
        self._lock: Any = None
        self.place = f"{self._key} in {self._connection.as_uri()}"

    def take(self) -> bool:
        try:
            self._lock = self._lock or self._open()
            return self._renew() or bool(self._lock.acquire(blocking=False, token=self._holder))
        except (RedisError, KombuError, OSError) as exc:
            raise self._trouble(exc) from exc

    def give_up(self) -> None:
        try:
            if self._lock is not None:
                self._lock.release()
        except LockError:  # it ran out, and may be another's
            return
        except (RedisError, KombuError, OSError) as exc:
            raise self._trouble(exc) from exc
        finally:
            self._close()

    def _renew(self) -> bool:
        try:
            return bool(self._lock.reacquire())
        except LockError:  # another's, or nobody's
            return False

    def _open(self) -> Any:
        lock = channel(self._connection).client.lock(self._key, timeout=TTL, thread_local=False)
        lock.local.token = self._holder.encode()  # it may be ours already: an answer may have been lost
        return lock

    def _trouble(self, exc: Exception) -> LeaseError:
        self._close()
        return LeaseError(f"{self.place}: {cause(exc, self._connection)}")

    def _close(self) -> None:
        """Forget the connection; the next request may go to another broker of a failover list."""
        self._lock = None
        drop(self._connection)
