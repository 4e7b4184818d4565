"""Which workers run now, and which of them are parents?"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from celery import Celery
from kombu.connection import Connection

from .broker import has_fanout

logger = logging.getLogger(__name__)

#: Seconds workers get to answer.
ASK = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """The names of those that answered; runners are among them, and a `flame serve` is not."""

    parents: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def ask(app: Celery, connection: Connection) -> Workers | None:
    """Ask the workers; None where none can be asked: no broadcast on this broker, no remote control, no answer."""
    if not has_fanout(connection):  # SQS would be left with a queue for the replies
        return None
    try:
        stats = app.control.inspect(timeout=ASK, connection=connection).stats() or {}
    except Exception as exc:  # whatever a transport raises
        logger.debug("the workers cannot be asked", exc_info=exc)
        return None
    parents = {name for name, worker in stats.items() if "flame" in (worker.get("autoscaler") or {})}
    return Workers(parents=tuple(sorted(parents)), others=tuple(sorted(stats.keys() - parents)))
