"""Who holds a key in Redis?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kombu.connection import Connection
from kombu.exceptions import KombuError
from redis.exceptions import LockError, RedisError

from ..broker import cause, channel, drop
from ..errors import LeaseError
from .base import MARGIN, TTL, new_holder

#: Seconds after its last change for which a deployment's notes are kept: those of one that is no more shall not stay.
NOTES_TTL = 7 * 86400
LEFT = "return redis.call('PTTL', KEYS[2])"
READ = "return redis.call('HGETALL', KEYS[1])"
#: Keys: the notes, the lease. Arguments: its holder, time to live, how many words to write (names and texts in turn),
#: these, names to take away. A parent that was stopped on its way here, and holds the lease no more, writes nothing.
WRITE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
local last = 3 + tonumber(ARGV[3])
for at = 4, last, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""

#: Key: what operators decided. Arguments: how many words to write (names and texts in turn), these, names to take away.
OVERRIDE = """
local last = 1 + tonumber(ARGV[1])
for at = 2, last, 2 do redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1]) end
for at = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[at]) end
"""


class RedisStore:
    """A lease in one key, under redis-py's own lock, over a connection made with the app's own options.

    Notes are the fields of a hash beside it.
    """

    good_for = TTL - MARGIN

    def __init__(self, connection: Connection, owner: str) -> None:
        self._connection: Any = connection
        self._aside: Any = connection.clone()  # notes are not written by the thread that renews the lease
        self._key, self._notes = f"flame:lease:{owner}", f"flame:notes:{owner}"
        self._overrides = f"flame:overrides:{owner}"
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

    def left(self) -> float:
        milliseconds = self._run(LEFT)  # -2 where there is none
        return max(0.0, int(milliseconds) / 1000)

    def notes(self) -> dict[str, str]:
        return _by_name(self._run(READ))

    def note(self, changes: Mapping[str, str | None]) -> None:
        if not self._run(WRITE, self._holder, NOTES_TTL, *_words(changes)):
            raise LeaseError(f"{self.place}: nothing is noted: another parent holds the lease")

    def overrides(self) -> dict[str, str]:
        return _by_name(self._run(READ, on=self._overrides))

    def override(self, changes: Mapping[str, str | None]) -> None:
        self._run(OVERRIDE, *_words(changes), on=self._overrides)

    def _run(self, script: str, *words: str | int, on: str = "") -> Any:
        """Run a script on a hash (the notes) and the lease: commands on hashes lack the app's prefix."""
        try:
            opened = channel(self._aside)
            # kombu prefixes the first key of a script alone
            keys = [on or self._notes, f"{opened.global_keyprefix}{self._key}"]
            return opened.client.register_script(script)(keys=keys, args=words)
        except (RedisError, KombuError, OSError) as exc:
            drop(self._aside)
            raise LeaseError(f"{self.place}: {cause(exc, self._aside)}") from exc

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


def _words(changes: Mapping[str, str | None]) -> list[str | int]:
    """Return changes as scripts take them."""
    written = [word for name, text in changes.items() if text is not None for word in (name, text)]
    return [len(written), *written, *(name for name, text in changes.items() if text is None)]


def _by_name(flat: Iterable[bytes | str]) -> dict[str, str]:
    words = [_text(word) for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
