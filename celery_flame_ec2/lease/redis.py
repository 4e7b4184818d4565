"""Who holds a key in Redis?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis.exceptions import LockError, RedisError

from ..broker import cause, channel, drop
from ..errors import LeaseError
from .base import MARGIN, TTL, new_holder

#: Seconds after its last change for which a deployment's notes are kept: those of one that is no more shall not stay.
NOTES_TTL = 7 * 86400


class RedisStore:
    """A lease in one key, under redis-py's own lock, over a connection made with the app's own options.

    Notes are the fields of a hash beside it.
    """

    good_for = TTL - MARGIN

    def __init__(self, connection: Connection, owner: str) -> None:
        self._connection: Any = connection
        self._key, self._notes = f"flame:lease:{owner}", f"flame:notes:{owner}"
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

    def notes(self) -> dict[str, str]:
        try:
            found = channel(self._connection).client.hgetall(self._notes)
        except (RedisError, KombuError, OSError) as exc:
            raise self._trouble(exc) from exc
        return {_text(name): _text(text) for name, text in found.items()}

    def note(self, changes: Mapping[str, str | None]) -> None:
        written = {name: text for name, text in changes.items() if text is not None}
        gone = [name for name, text in changes.items() if text is None]
        try:
            with channel(self._connection).client.pipeline(transaction=True) as pipe:
                if written:
                    pipe.hset(self._notes, mapping=written)
                if gone:
                    pipe.hdel(self._notes, *gone)
                pipe.expire(self._notes, NOTES_TTL)
                pipe.execute()
        except (RedisError, KombuError, OSError) as exc:
            raise self._trouble(exc) from exc

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


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
