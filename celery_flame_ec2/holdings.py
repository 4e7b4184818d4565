"""What do runners hold of a Redis broker, and how does it come back to its queues?

Kombu keeps every message a consumer took and did not acknowledge in a hash, `unacked`, with an index by time beside it
(kombu.transport.redis.QoS). All consumers of a database share them, so nobody can tell whose a message is until the
visibility timeout is over. A runner has its own instead, and stands in a register of its owner's runners.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from celery import Celery
from kombu.connection import Connection
from kombu.utils.json import dumps, loads

from .broker import cause, channel, drop, open_connection
from .config import DAY
from .errors import HoldingsError

T = TypeVar("T")

#: Seconds any one wait for Redis may last.
REDIS_TIMEOUT = 5.0
#: Seconds after which a runner's own messages would be redelivered to itself: longer than any runner lives.
NEVER = 10 * 365 * 86400
#: Messages that one script puts back, so that Redis serves others in between.
BATCH = 100
#: Seconds for which it is remembered that a runner was recalled: longer than any boot may last.
RECALLED_FOR = int(DAY)

# Of the keys of a script kombu prefixes only the first, so the others are given with the app's prefix. Redis's own
# clock is the only one: those of runners and parents need not agree.
NOW = "local t = redis.call('TIME'); local now = t[1] .. '.' .. string.format('%06d', t[2])\n"
#: Keys: the register, those that were recalled. Arguments: runner id, what it says of itself, whether it was here
#: before. Kept beside it: when it came, when it spoke last. Of runner and parent, who is here first decides whether the
#: runner works; Redis may have lost what it knew since, the runner has not.
REGISTER = (
    NOW
    + """
local before = redis.call('HGET', KEYS[1], ARGV[1])
if not before and ARGV[3] == '0' and redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local since = before and string.match(before, '^%S+') or now
redis.call('HSET', KEYS[1], ARGV[1], since .. ' ' .. now .. ' ' .. ARGV[2])
return 1
"""
)
#: Keys: the register, those that were recalled. Arguments: seconds to remember them for, runner ids.
RECALL = (
    NOW
    + """
local recalled = {}
for at = 2, #ARGV do
    if redis.call('HEXISTS', KEYS[1], ARGV[at]) == 0 then
        redis.call('ZADD', KEYS[2], now, ARGV[at])
        recalled[#recalled + 1] = ARGV[at]
    end
end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return recalled
"""
)
REGISTERED = NOW + "return {now, redis.call('HGETALL', KEYS[1])}"
#: Keys: what a runner holds, its index.
READ = "return {redis.call('HGETALL', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, -1)}"
#: Keys: what a runner holds, its index. Arguments in turn: delivery tag, how many lists, each of these, the message.
GIVE_BACK = """
local moved, at = 0, 1
while at < #ARGV do
    local tag, lists = ARGV[at], tonumber(ARGV[at + 1])
    local message = ARGV[at + 2 + lists]
    if redis.call('HDEL', KEYS[1], tag) == 1 then
        for list = at + 2, at + 1 + lists do redis.call('RPUSH', ARGV[list], message) end
        moved = moved + 1
    end
    redis.call('ZREM', KEYS[2], tag)
    at = at + 3 + lists
end
return moved
"""
#: Keys: the register, what the runner holds, its index, its mutex. Argument: runner id.
FORGET = """
if redis.call('HLEN', KEYS[2]) > 0 then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4])
return 1
"""
#: Keys: the register. Argument: what the keys of what runners hold begin with.
COUNT = """
local held = 0
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do held = held + redis.call('HLEN', ARGV[1] .. id) end
return held
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """One runner as the register knows it. Times are seconds by Redis's clock at the moment it was read.

    `patience` is how long it may be silent before others take it for dead; `place` names the listings it is in.
    """

    runner_id: str
    queues: tuple[str, ...]
    place: str
    patience: float
    age: float
    silent_for: float

    @property
    def overdue(self) -> bool:
        """Return whether it was silent for longer than a runner that lives can be."""
        return self.silent_for > self.patience


def keys_of(owner: str, runner_id: str) -> dict[str, str]:
    """Return the names of what a runner holds, of its index and its mutex, as kombu's transport options."""
    return {
        "unacked_key": f"{_held(owner)}{runner_id}",
        "unacked_index_key": f"flame:held-index:{owner}:{runner_id}",
        "unacked_mutex_key": f"flame:held-mutex:{owner}:{runner_id}",
    }


def are_kept(app: Celery) -> bool:
    """Tell whether runners of this app keep account of what they hold, and so have a register.

    Raises:
        DemandUnknown: the broker's transport or its library is missing.
    """
    connection: Any = open_connection(app, timeout=REDIS_TIMEOUT)
    options = app.conf.broker_transport_options or {}
    return bool(connection.transport.driver_type == "redis" and options.get("ack_emulation", True))


def claim(app: Celery, owner: str, runner_id: str) -> bool:
    """Let this app's consumers hold messages under keys of this runner; False where the broker keeps account itself.

    To be called before anything consumes. Nothing is redelivered while the runner lives, however long its tasks take.
    """
    if not are_kept(app):
        return False
    options: Mapping[str, Any] = app.conf.broker_transport_options or {}
    app.conf.broker_transport_options = {**options, **keys_of(owner, runner_id), "visibility_timeout": NEVER}
    return True


def open_holdings(app: Celery, owner: str) -> Holdings | None:
    """Return what this owner's runners hold, over a connection of its own; None where the broker is not Redis.

    Raises:
        DemandUnknown: the broker's transport or its library is missing.
    """
    connection: Any = open_connection(app, timeout=REDIS_TIMEOUT)
    return Holdings(app, connection, owner) if connection.transport.driver_type == "redis" else None


class Holdings:
    """What one owner's runners hold. Belongs to one thread; after an error the next call connects anew.

    Every method raises HoldingsError where Redis does not answer in time, or refuses.
    """

    def __init__(self, app: Celery, connection: Connection, owner: str) -> None:
        self._app, self._owner = app, owner
        self._connection: Any = connection
        self._register, self._recalled = f"flame:runners:{owner}", f"flame:recalled:{owner}"

    def register(
        self, runner_id: str, *, queues: Iterable[str], place: str, patience: float, again: bool = False
    ) -> bool:
        """Say that a runner lives, or lives still (`again`), and what others must know if it should not say so again.

        False where it was recalled before it ever was here: then it must take nothing.
        """
        said = json.dumps({"queues": list(queues), "place": place, "patience": patience})
        words = (runner_id, said, int(again))
        return bool(self._ask(lambda opened: _script(opened, REGISTER, self._first_come(opened), *words)))

    def recall(self, runner_ids: Collection[str]) -> frozenset[str]:
        """Keep these runners from ever working, but those that registered; return those that will not."""
        words: tuple[str | int, ...] = (RECALLED_FOR, *runner_ids)
        return frozenset(map(_text, self._ask(lambda at: _script(at, RECALL, self._first_come(at), *words))))

    def registered(self) -> tuple[Registration, ...]:
        """Return every runner that registered and did not leave."""
        now, flat = self._ask(lambda opened: _script(opened, REGISTERED, [self._register]))
        texts = [_text(word) for word in flat]
        found = (_registration(*pair, now=float(_text(now))) for pair in zip(texts[::2], texts[1::2], strict=True))
        return tuple(each for each in found if each is not None)

    def give_back(self, runner_id: str, queues: Collection[str], *, keep: Collection[str] = ()) -> int:
        """Put what a runner holds back where it is taken next, and return how many messages that were.

        Each comes back once however many do this at the same time. It goes into those of the runner's `queues` that it
        is routed to, by its priority. Delivery tags in `keep` stay.
        """
        return self._ask(lambda opened: self._give_back(opened, runner_id, queues, keep))

    def forget(self, runner_id: str) -> None:
        """Strike a runner off, unless it holds something again."""
        keys = keys_of(self._owner, runner_id).values()
        self._ask(lambda opened: _script(opened, FORGET, [self._register, *_prefixed(opened, keys)], runner_id))

    def count(self) -> int:
        """Return how many messages all registered runners hold."""
        return int(
            self._ask(lambda opened: _script(opened, COUNT, [self._register], *_prefixed(opened, [_held(self._owner)])))
        )

    def close(self) -> None:
        """Let go of Redis; a later call connects anew."""
        self._connection.release()

    def _first_come(self, opened: Any) -> list[str]:
        return [self._register, *_prefixed(opened, [self._recalled])]

    def _ask(self, question: Callable[[Any], T]) -> T:
        try:
            return question(channel(self._connection))
        except Exception as exc:
            drop(self._connection)
            raise HoldingsError(f"{self._connection.as_uri()}: {cause(exc, self._connection)}") from exc

    def _give_back(self, opened: Any, runner_id: str, queues: Collection[str], keep: Collection[str]) -> int:
        held, index, _ = keys_of(self._owner, runner_id).values()
        keys = [held, *_prefixed(opened, [index])]
        flat, in_turn = _script(opened, READ, keys)
        messages = {_text(tag): text for tag, text in zip(flat[::2], flat[1::2], strict=True) if _text(tag) not in keep}
        if not messages:
            return 0
        self._declare(opened, queues)
        place = {_text(tag): at for at, tag in enumerate(in_turn)}
        # What is put back last is taken next, and the oldest shall be.
        tags = sorted(messages, key=lambda tag: place.get(tag, -1), reverse=True)
        moves = [_move(opened, tag, messages[tag], queues) for tag in tags]
        return sum(
            int(_script(opened, GIVE_BACK, keys, *(word for move in moves[start : start + BATCH] for word in move)))
            for start in range(0, len(moves), BATCH)
        )

    def _declare(self, opened: Any, queues: Collection[str]) -> None:
        """Tell the channel the types of the queues' exchanges; those it does not know it takes for direct ones."""
        known = self._app.amqp.queues
        for name in queues:
            if name in known:
                known[name](opened).declare()


def _move(opened: Any, tag: str, text: bytes | str, queues: Collection[str]) -> list[str | int]:
    """Return what puts one message back, as kombu itself would (Channel._do_restore_message), in a script's words."""
    message, exchange, routing_key = loads(_text(text))
    priority = opened._get_message_priority(message, reverse=False)
    names = destinations(opened._lookup(exchange, routing_key), queues)
    lists = list(_prefixed(opened, [opened._q_for_pri(name, priority) for name in names]))
    return [tag, len(lists), *lists, dumps(_redelivered(message))]


def destinations(bound: Iterable[str | None], queues: Collection[str]) -> list[str]:
    """Return the queues that a message of a runner that consumed `queues` goes back to; never none.

    `bound` are those its exchange leads to. Copies in queues the runner did not consume were not its own. A message
    that nothing leads to any more came from one of the runner's queues.
    """
    routed = [name for name in bound if name]
    return [name for name in routed if name in queues] or routed or list(queues)[:1]


def _redelivered(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(headers := message.get("headers"), dict):
        headers["redelivered"] = True
    info = (message.get("properties") or {}).get("delivery_info")
    if isinstance(info, dict):
        info["redelivered"] = True
    return message


def _registration(runner_id: str, text: str, *, now: float) -> Registration | None:
    """Read one entry of the register; None where no version of ours wrote it."""
    try:
        since, spoke, said = text.split(" ", 2)
        fields = json.loads(said)
        return Registration(
            runner_id=runner_id,
            queues=tuple(str(name) for name in fields["queues"]),
            place=str(fields["place"]),
            patience=float(fields["patience"]),
            age=now - float(since),
            silent_for=now - float(spoke),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _script(opened: Any, script: str, keys: list[str], *words: str | int) -> Any:
    """Run a script: of the commands on hashes and sorted sets only some get the prefix of the app's keys otherwise."""
    return opened.client.register_script(script)(keys=keys, args=words)


def _prefixed(opened: Any, names: Iterable[str]) -> Iterator[str]:
    return (f"{opened.global_keyprefix}{name}" for name in names)


def _held(owner: str) -> str:
    return f"flame:held:{owner}:"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
