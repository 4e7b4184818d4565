"""Do Celery's own settings lose work, or hide it from runners? Pure, but for reading them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.utils.imports import qualname
from kombu.utils.imports import symbol_by_name

from ..config import PoolSettings
from ..custody import CONSUMER_TIMEOUT, VISIBILITY_TIMEOUT
from ..finding import Finding, failed, ok, unknown, warning
from ..manners import ACKNOWLEDGEMENT, undecided
from ..settings import is_chosen
from ..workers import Workers

OURS = "celery_flame_ec2:Autoscaler"
#: Seconds after which a message that nobody acknowledged is given to another worker, by transport.
VISIBILITY = {"redis": 3600.0, "sqs": VISIBILITY_TIMEOUT}
#: What stands for all tasks where no module with tasks is loaded.
EVERY_TASK = "every task"
#: Worker pools whose tasks run in processes of their own.
PROCESSES = frozenset({"prefork", "processes"})
#: Worker pools that Celery's autoscaler cannot size.
FIXED = frozenset({"solo", "threads"})
SAFE = "set task_acks_late = True and task_reject_on_worker_lost = True where tasks may run twice"


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How an app's workers take and acknowledge tasks; times in seconds. `prefetch` is the multiplier in force.

    `early` and `unprotected` name tasks that the user lets be acknowledged before they run, and after, but also when
    their process is lost; `undecided` those for which the user said nothing, which a runner with processes acknowledges
    late.
    """

    driver: str = "redis"
    autoscaler: str = OURS
    is_ours: bool = True
    worker_pool: str = "prefork"
    prefetch: int = 1
    early: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    unprotected: tuple[str, ...] = ()
    time_limit: float | None = None
    visibility_timeout: float | None = None
    unknown_queues: tuple[str, ...] = ()


def habits(app: Celery, driver: str, queues: Collection[str]) -> Habits:
    """Read what an app's settings and tasks say."""
    conf, named = app.conf, app.conf.worker_autoscaler
    options = conf.broker_transport_options or {}
    tasks = {name: task for name, task in app.tasks.items() if not name.startswith("celery.")}
    # Where no module with tasks is loaded the settings speak for those to come.
    ways = {name: (task.acks_late, task.reject_on_worker_lost) for name, task in tasks.items()} or {
        EVERY_TASK: (conf.task_acks_late, conf.task_reject_on_worker_lost)
    }
    left, unguarded = (_left_to_runners(app, attribute) for attribute in ACKNOWLEDGEMENT)
    ours, chosen = is_ours(named), is_chosen(app, "worker_prefetch_multiplier")
    return Habits(
        driver=driver,
        autoscaler=named if isinstance(named, str) else qualname(named),
        is_ours=ours,
        worker_pool=str(conf.worker_pool),
        # An autoscaling parent uses 1 unless the user chose; a plain worker, what Celery does.
        prefetch=int(conf.worker_prefetch_multiplier) if chosen or not ours else 1,
        early=tuple(sorted(name for name, (late, _) in ways.items() if not late and name not in left)),
        undecided=tuple(sorted(ways.keys() & left)),
        unprotected=tuple(
            sorted(name for name, (late, reject) in ways.items() if late and not reject and name not in unguarded)
        ),
        time_limit=conf.task_time_limit,
        visibility_timeout=options.get("visibility_timeout", VISIBILITY.get(driver)),
        unknown_queues=() if conf.task_create_missing_queues else tuple(q for q in queues if q not in app.amqp.queues),
    )


def _left_to_runners(app: Celery, attribute: str) -> frozenset[str]:
    return undecided(app, attribute) | (frozenset() if is_chosen(app, ACKNOWLEDGEMENT[attribute]) else {EVERY_TASK})


def is_ours(named: Any) -> bool:
    """Tell whether what `worker_autoscaler` names makes a worker a parent."""
    try:
        return issubclass(symbol_by_name(named), symbol_by_name(OURS))
    except (ImportError, AttributeError, ValueError, TypeError):  # the worker will say it
        return False


def examine(found: Habits, pools: Collection[PoolSettings]) -> Iterator[Finding]:
    """Tell what these habits do to tasks and to runners."""
    yield _autoscaler(found)
    yield from _prefetch(found, pools)
    yield _acknowledgement(found, pools)
    yield from _redelivery(found, pools)
    if found.unknown_queues:
        told = f"task_create_missing_queues is off, and no worker may consume {', '.join(found.unknown_queues)}"
        yield failed("task queues", told, "add them to task_queues")


def _autoscaler(found: Habits) -> Finding:
    check = "worker_autoscaler"
    if not found.is_ours:
        remedy = f"set worker_autoscaler = {OURS!r}, or run `celery flame serve` beside the workers"
        return warning(check, f"{found.autoscaler!r}: no worker will be the parent", remedy)
    if found.worker_pool in FIXED:
        told = f"{found.autoscaler!r} cannot size worker_pool {found.worker_pool!r}: the worker will not start"
        return failed(check, told, "set worker_pool to 'prefork', 'gevent' or 'eventlet', or run `celery flame serve`")
    return ok(check, f"{found.autoscaler!r}; Celery heeds it only with --autoscale=MAX,MIN")


def parents(answer: Workers | None, *, ours: bool) -> Finding:
    """Tell whether a worker is a parent now."""
    check, start = "parent", "celery worker --autoscale=MAX,MIN" if ours else "celery flame serve"
    remedy = f"start `{start}`; a `flame serve` that runs does not show here"
    if answer is None:
        return unknown(check, "workers cannot be asked on this broker", f"see that `{start}` runs")
    if answer.parents:
        return ok(check, ", ".join(answer.parents))
    if answer.others and ours:
        told = f"{len(answer.others)} workers answer ({', '.join(answer.others[:3])}), and none has --autoscale"
        return warning(check, told, remedy)
    return warning(check, "none answers, so nobody launches now", remedy)


def _prefetch(found: Habits, pools: Collection[PoolSettings]) -> Iterator[Finding]:
    who = "the parent" if found.is_ours else "a worker beside the runners"
    if found.prefetch == 1:
        yield ok("prefetch", f"{who} takes no more than its processes can run")
    else:
        yield _hoarding(who, found.prefetch, "worker_prefetch_multiplier = 1")
    for pool in pools:
        taken = pool.worker_options.get("prefetch_multiplier", 1)
        if isinstance(taken, int) and taken != 1:
            where = f"a runner of pool {pool.name!r}"
            yield _hoarding(where, taken, f"'prefetch_multiplier' to 1 in 'worker_options' of {pool.name!r}")


def _hoarding(who: str, taken: int, remedy: str) -> Finding:
    if taken == 0:
        return failed("prefetch", f"0: {who} takes every task there is, and no runner gets one", f"set {remedy}")
    return warning(
        "prefetch", f"{taken}: {who} holds {taken} tasks for each process while runners idle", f"set {remedy}"
    )


def _acknowledgement(found: Habits, pools: Collection[PoolSettings]) -> Finding:
    if found.unprotected:
        told = f"{_some(found.unprotected)}: late, but lost when its process is killed (task_reject_on_worker_lost)"
        return warning("acknowledgement", told, "set task_reject_on_worker_lost = True")
    in_threads = [pool.name for pool in pools if _worker_pool(found, pool) not in PROCESSES]
    early = [*found.early, *(found.undecided if in_threads else ())]
    if not early:
        by_runners = ", as runners set it: a task may run twice there" if found.undecided else ""
        return ok("acknowledgement", f"late, and given back when a process or a machine is lost{by_runners}")
    longest = min((pool.shutdown_timeout for pool in pools), default=30.0)
    cut = "what runs on a runner that is cut off"
    if any("spot" in pool.ec2.market for pool in pools):
        cut += " (spot ends with two minutes' notice)"
    told = f"{_some(early)}: before it runs, so {cut}, or for longer than {longest:g} s while it ends, is lost"
    return warning("acknowledgement", told, f"{SAFE}; else raise 'shutdown_timeout' above the longest task")


def _worker_pool(found: Habits, pool: PoolSettings) -> str:
    return str(pool.worker_options.get("pool") or found.worker_pool)


def _some(names: Collection[str]) -> str:
    few = list(names)[:3]
    return ", ".join(few) + (f" and {len(names) - len(few)} more" if len(names) > len(few) else "")


def _redelivery(found: Habits, pools: Collection[PoolSettings]) -> Iterator[Finding]:
    """Tell what becomes of a task that takes longer than the broker waits for its acknowledgement."""
    known = [limit for pool in pools if (limit := pool.worker_options.get("time_limit", found.time_limit))]
    limit = max(known) if pools and len(known) == len(pools) else None
    stopping = max((pool.shutdown_timeout for pool in pools), default=0.0)
    if found.driver in VISIBILITY and found.visibility_timeout is not None:
        yield _visibility(found, limit, stopping)
    elif found.driver == "amqp" and (limit is None or limit > CONSUMER_TIMEOUT) and _is_late(found):
        takes = f"tasks may take {limit:g} s" if limit else "nothing bounds a task (task_time_limit)"
        told = f"{takes}, and RabbitMQ waits {CONSUMER_TIMEOUT:g} s: a longer one ends its worker and is run for ever"
        above = f"above {limit * 1000:g} ms" if limit else "above what the longest takes"
        remedy = f"set RabbitMQ's consumer_timeout {above}, or leave task_acks_late to runners"
        yield warning("consumer timeout", told, remedy)


def _is_late(found: Habits) -> bool:
    """Tell whether the user lets every task be acknowledged late."""
    return not found.early and not found.undecided


def _visibility(found: Habits, limit: float | None, stopping: float) -> Finding:
    check, waits = "visibility timeout", float(found.visibility_timeout or 0)
    least = max(limit or 0.0, stopping)
    of = "task_time_limit" if limit and limit >= stopping else "'shutdown_timeout'"
    raised = f"set broker_transport_options['visibility_timeout'] above {least:g}"
    if waits <= least:
        return failed(check, f"{waits:g} s, and a task may take {least:g} s ({of}): it is run twice", raised)
    if limit is None and _is_late(found):
        told = f"{waits:g} s, and nothing bounds a task (task_time_limit): a longer one is run twice"
        return warning(check, told, f"set task_time_limit below {waits:g}, or raise the visibility timeout")
    return ok(check, f"{waits:g} s; what a lost machine held is run again after it")
