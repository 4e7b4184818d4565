"""What does a runner set for its worker, where its user decided nothing?"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.annotations import resolve_all
from celery.concurrency import get_implementation
from celery.concurrency.prefork import TaskPool as Processes
from celery.concurrency.thread import TaskPool as Threads

from .parent import Parent
from .settings import is_chosen

#: Seconds between two AMQP heartbeats: RabbitMQ takes a worker for dead that missed two.
HEARTBEAT = 10.0
#: What a task has of how it is acknowledged, and the settings it is copied from where the task says nothing.
ACKNOWLEDGEMENT = {"acks_late": "task_acks_late", "reject_on_worker_lost": "task_reject_on_worker_lost"}
#: What a fleet's worker does without: gossip grows with the square of the fleet, mingle costs a second of every start,
#: and what is prefetched waits behind a running task while other runners are free.
ONE_OF_MANY = {"prefetch_multiplier": 1, "optimization": "fair", "without_gossip": True, "without_mingle": True}


def pool_of(app: Celery, letter: Parent) -> type:
    """Return the kind of pool that the runner's tasks run in."""
    kind: type = get_implementation(letter.worker_options.get("pool") or app.conf.worker_pool)
    return kind


def has_processes(pool: type) -> bool:
    """Tell whether tasks run in processes of their own: one that dies leaves the worker."""
    return issubclass(pool, Processes)


def beat_often(app: Celery, pool: type) -> None:
    """Let RabbitMQ notice within half a minute that a runner is gone. To be called before the worker is made.

    Only where no task can keep the worker's loop busy: one that does not beat loses its connection.
    """
    if issubclass(pool, (Processes, Threads)) and not is_chosen(app, "broker_heartbeat"):
        app.conf.broker_heartbeat = HEARTBEAT


def acknowledge_late(app: Celery) -> frozenset[str]:
    """Let tasks be acknowledged after they ran, and given back when their process is lost.

    Each of the two only where neither app nor task says anything about it, in whatever way Celery has for that. Returns
    the names of those that are acknowledged late now. To be called when the worker is made, and has not begun: it is
    then that all tasks are there, and have their settings.
    """
    changed = {attribute: undecided(app, attribute) for attribute in ACKNOWLEDGEMENT}
    for attribute, setting in ACKNOWLEDGEMENT.items():
        if not is_chosen(app, setting):
            app.conf[setting] = True  # for tasks that are made later
        for name in changed[attribute]:
            setattr(app.tasks[name], attribute, True)
    return changed["acks_late"]


def undecided(app: Celery, attribute: str) -> frozenset[str]:
    """Return the names of the tasks for which neither they nor their app say anything about this attribute."""
    if is_chosen(app, ACKNOWLEDGEMENT[attribute]):
        return frozenset()
    return frozenset(name for name, task in app.tasks.items() if not _is_said(app, task, attribute))


def _is_said(app: Celery, task: Any, attribute: str) -> bool:
    annotated = any(attribute in annotation for annotation in resolve_all(app.annotations, task))
    return annotated or attribute in vars(task) or not _is_copied(type(task), attribute)


def _is_copied(kind: type, attribute: str) -> bool:
    """Tell whether a task's class has this attribute from the settings: `Task.bind` copies them where it has none.

    A class keeps the order in which its attributes came (PEP 520), and the first that `bind` gives it is `__bound__`.
    """
    owner = next(each for each in kind.__mro__ if attribute in vars(each))
    names = list(vars(owner))
    return "__bound__" in names and names.index("__bound__") < names.index(attribute)
