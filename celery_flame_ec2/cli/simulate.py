"""What would the pool's policy do with a load, as an operator asks it?"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from celery import Celery
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options

from ..backends import open_backend
from ..config import Ec2Options, PoolSettings, Settings
from ..errors import BackendError, SettingsError
from ..holdings import are_kept
from ..options import read
from ..pool import with_concurrency
from ..service import copied_policy
from ..settings import settings_of
from ..simulate import Conditions, Task, burst, daily, floods, poisson, read_trace, simulate
from ..simulate.loads import DAY
from ..simulate.picture import picture
from ..simulate.report import Amount, Run, amount_of, fields, in_words, table
from ..simulate.words import Flow, parse_flow, parse_seconds
from ..simulate.world import SETTLED

C = TypeVar("C", bound=Callable[..., Any])
#: A load can be played as often as it is asked for, each time the same.
Load = Callable[[], Iterable[Task]]

#: What says how a described load goes on -> the loads it belongs to, and what holds where it is not said.
DETAILS: dict[str, tuple[tuple[str, ...], Any]] = {
    "lasts": (("poisson", "daily", "floods"), {"poisson": 3600.0, "daily": DAY, "floods": 3600.0}),
    "peak": (("daily",), {"daily": 10.0}),
    "every": (("floods",), {"floods": 900.0}),
    "over": (("floods",), {"floods": 0.0}),
}
NAMES = {"lasts": "--for"}


def _reads(parse: Callable[[str], Any]) -> dict[str, Any]:
    """Return how an option is read whose value says in words what is wrong with it."""

    def read_one(value: str) -> Any:
        try:
            return parse(value)
        except ValueError as exc:
            raise click.BadParameter(str(exc)) from exc

    def callback(_: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if parameter.multiple:
            return tuple(map(read_one, value))
        return None if value is None else read_one(value)

    return {"callback": callback}


def _svg(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() != ".svg":
        raise click.BadParameter(f"an SVG is drawn: name it *.svg, got {str(path)!r}")
    return path


TIME = {"metavar": "TIME", **_reads(parse_seconds)}
TIME_ABOVE_0 = {"metavar": "TIME", **_reads(functools.partial(parse_seconds, above=True))}
TASKS = {"metavar": "TASKSxTIME", **_reads(functools.partial(parse_flow, most=10_000_000, whole=True))}
RATE = {"metavar": "RATExTIME", **_reads(functools.partial(parse_flow, most=100_000, whole=False))}


def _option(group: str, *names: str, **how: Any) -> Callable[[C], C]:
    return click.option(*names, cls=CeleryOption, help_group=group, **how)


@click.command(cls=CeleryCommand, name="simulate")
@click.argument("pool", required=False)
@_option("Load", "--trace", type=click.Path(path_type=Path), help="A file: SWF, CSV, or what `flame record` wrote.")
@_option("Load", "--burst", **TASKS, help="So many at once, as in 10000x1 or 200x1m.")
@_option("Load", "--poisson", **RATE, help="So many a second by chance, as in 2x~5.")
@_option("Load", "--daily", **RATE, help="The same as a mean, more by day than by night.")
@_option("Load", "--floods", **TASKS, help="So many at once, again and again.")
@_option("Load", "--for", "lasts", **TIME_ABOVE_0, help="How long it goes on. [default: 1h; --daily: 1d]")
@_option("Load", "--peak", type=click.FloatRange(1, 1000), help="--daily: noon over midnight. [default: 10]")
@_option("Load", "--every", **TIME_ABOVE_0, help="--floods: from one to the next. [default: 15m]")
@_option("Load", "--over", **TIME, help="--floods: how long one lasts. [default: 0]")
@_option("Pool", "--target-wait", "targets", **TIME, multiple=True, help="Several compare. [default: the pool's]")
@_option("Pool", "--min", "least", type=int, help="Runners always there. [default: the pool's]")
@_option("Pool", "--max", "most", type=int, help="Runners never exceeded. [default: the pool's]")
@_option("Pool", "--slots", type=int, help="Tasks at a time on one runner. [default: the pool's max_concurrency]")
@_option("Pool", "--idle", **TIME, help="Idle time of a runner. [default: the pool's idle_shutdown_after]")
@_option("Pool", "--price", type=float, help="Of one runner and hour. [default: the pool's hourly_price]")
@_option("Conditions", "--boot", **TIME_ABOVE_0, default="60", help="Mean time from launch to hello. [default: 60]")
@_option(
    "Conditions",
    "--boot-spread",
    type=click.FloatRange(0, 2),
    default=0.1,
    show_default=True,
    help="Standard deviation of its logarithm.",
)
@_option(
    "Conditions",
    "--failed-boots",
    type=click.FloatRange(0, 0.95),
    default=0.0,
    show_default=True,
    help="Share of launches that never come up.",
)
@_option(
    "Conditions",
    "--interruptions",
    type=click.FloatRange(0, 60),
    default=0.0,
    show_default=True,
    help="Spot interruptions of one runner in an hour.",
)
@_option("Conditions", "--seed", type=click.IntRange(0), default=0, show_default=True, help="Another, other chances.")
@_option("Conditions", "--until", **TIME_ABOVE_0, help="Stop then. [default: when all is done]")
@_option("Output", "--json", "as_json", is_flag=True, help="Print JSON.")
@_option("Output", "--decisions", is_flag=True, help="Print what was decided when, and why.")
@_option(
    "Output",
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    callback=_svg,
    help="An SVG file to draw queue, runners and waiting in.",
)
@click.pass_context
@handle_preload_options  # type: ignore[untyped-decorator]
def simulate_(ctx: click.Context, /, pool: str | None, as_json: bool, decisions: bool, **options: Any) -> None:
    """Play a load for POOL on a virtual clock, decided by the very policy that `flame serve` runs. Launches nothing.

    A load is one of --trace, --burst, --poisson, --daily and --floods. TIME is in seconds or as in 10ms, 1.5m, 2h, 1d;
    ~5 stands for exponentially distributed times with a mean of 5 s, 10ms@98,10m@2 for a mix by weights, 1..10 for a
    change half-way.
    """
    app: Celery = ctx.obj.app
    settings = settings_of(app)
    pools = _pools(app, settings, pool, options)
    options["recalls"] = settings.speaks(pools[0]) and are_kept(app)
    runs = _runs(settings, pools, _load(options, pools[0]), options)
    if options["picture"]:
        _draw(options["picture"], pools[0], runs)
    if as_json:
        click.echo(json.dumps(_as_json(settings, pools[0], runs, options, decisions=decisions), indent=2))
    else:
        click.echo("\n".join(_lines(settings, pools[0], runs, options, decisions=decisions)))


# what is played


def _load(options: dict[str, Any], pool: PoolSettings) -> Load:
    """Return the one load that the options describe."""
    given = [name for name in ("trace", "burst", "poisson", "daily", "floods") if options[name] is not None]
    if len(given) != 1:
        told = "both " + " and ".join(f"--{name}" for name in given) if given else "none"
        raise click.UsageError(f"say one load of --trace, --burst, --poisson, --daily and --floods; got {told}")
    (kind,) = given
    details = _details(kind, options)
    if kind == "trace":
        tasks = read_trace(options["trace"], queues=pool.queues)
        return lambda: tasks
    return lambda: _described(kind, options[kind], seed=options["seed"], **details)


def _details(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    for name, (kinds, _) in DETAILS.items():
        if options[name] is not None and kind not in kinds:
            belongs = ", ".join(f"--{each}" for each in kinds)
            raise click.UsageError(f"{NAMES.get(name, f'--{name}')} belongs to {belongs}, not to --{kind}")
    details = {
        name: usual[kind] if options[name] is None else options[name]
        for name, (kinds, usual) in DETAILS.items()
        if kind in kinds
    }
    if details.get("over", 0.0) > details.get("every", 0.0):
        raise click.UsageError(f"--over must be at most --every ({details['every']:g} s), got {details['over']:g} s")
    return details


def _described(kind: str, flow: Flow, *, seed: int, lasts: float = 0.0, **details: Any) -> Iterable[Task]:
    runtime = flow.runtime(lasts)
    if kind == "burst":
        return burst(int(flow.number), runtime, seed=seed)
    if kind == "floods":
        return floods(int(flow.number), runtime, seconds=lasts, seed=seed, **details)
    return (poisson if kind == "poisson" else daily)(flow.number, runtime, seconds=lasts, seed=seed, **details)


# for whom


def _pools(app: Celery, settings: Settings, name: str | None, options: dict[str, Any]) -> list[PoolSettings]:
    """Return the pool as it is set, with what the options change of it: once for each `target_wait`."""
    names = [pool.name for pool in settings.pools]
    if name is None and len(names) > 1:
        raise click.UsageError(f"there are pools {', '.join(names)}: say which")
    pool = settings.pool(name or names[0])
    problems: list[str] = []
    changed = [_changed(pool, options, target, problems) for target in options["targets"] or (pool.target_wait,)]
    if problems:
        raise SettingsError(dict.fromkeys(problems))
    return [each if each.max_concurrency else _with_slots(app, settings, each) for each in changed]


def _changed(pool: PoolSettings, options: dict[str, Any], target: float, problems: list[str]) -> PoolSettings:
    changes = {"min": "least", "max": "most", "max_concurrency": "slots", "idle_shutdown_after": "idle"}
    own = {option: options[said] for option, said in changes.items() if options[said] is not None}
    price = {} if options["price"] is None else {"hourly_price": options["price"]}
    where = f"pool {pool.name!r} as simulated"
    good = read(PoolSettings, {"queues": pool.queues, "target_wait": target, **own}, where, problems)
    ec2 = dataclasses.replace(pool.ec2, **read(Ec2Options, price, where, problems))
    changed = dataclasses.replace(pool, **good, ec2=ec2)
    if not max(1, changed.min) <= changed.max:
        problems.append(f"{where}: option 'max' must be at least 'min' ({changed.min}) and 1, got {changed.max}")
    return changed


def _with_slots(app: Celery, settings: Settings, pool: PoolSettings) -> PoolSettings:
    try:
        return with_concurrency(pool, open_backend(app, settings))
    except BackendError as exc:
        raise BackendError(f"{exc}; say how many tasks a runner takes with --slots") from exc


def _runs(settings: Settings, pools: list[PoolSettings], load: Load, options: dict[str, Any]) -> list[Run]:
    names = ("boot", "boot_spread", "failed_boots", "interruptions", "recalls")
    conditions = Conditions(**{name: options[name] for name in names})
    limits = {"until": options["until"]} if options["until"] else {}
    amount, runs = amount_of(load()), []
    for pool in pools:
        outcome = simulate(
            load(), pool, copied_policy(settings.policy), conditions=conditions, interval=settings.interval,
            seed=options["seed"], settled=SETTLED, **limits,
        )  # fmt: skip
        slots, price = pool.max_concurrency or 1, pool.ec2.hourly_price
        runs.append(Run(target_wait=pool.target_wait, slots=slots, price=price, amount=amount, outcome=outcome))
    return runs


# what is told


def _lines(
    settings: Settings, pool: PoolSettings, runs: list[Run], options: dict[str, Any], *, decisions: bool
) -> Iterable[str]:
    yield _heading(pool, runs[0].amount, options["boot"])
    yield f"decided by {settings.policy} every {settings.interval:g} s"
    yield from () if pool.ec2.boot_timeout > options["boot"] else (_note(pool, options["boot"]),)
    yield ""
    yield table(runs)
    for run in runs if decisions else ():
        yield ""
        yield f"target_wait {run.target_wait:g}:"
        yield from (f"{at:10.1f} s  {reason}" for at, reason in run.outcome.decisions)


def _heading(pool: PoolSettings, amount: Amount, boot: float) -> str:
    load = f"{amount.tasks} tasks in {in_words(amount.last)}, {in_words(amount.seconds)} of work"
    slots = f"{pool.max_concurrency} at a time on a runner"
    return f"{pool.name}: {load}; {slots}, {pool.min} to {pool.max} runners that boot in {in_words(boot)}"


def _note(pool: PoolSettings, boot: float) -> str:
    return (
        f"note: boot_timeout is {pool.ec2.boot_timeout:g} s; a parent ends runners that take {boot:g} s to boot, which "
        "is not simulated"
    )


def _as_json(
    settings: Settings, pool: PoolSettings, runs: list[Run], options: dict[str, Any], *, decisions: bool
) -> dict[str, Any]:
    conditions = ("boot", "boot_spread", "failed_boots", "interruptions", "recalls", "seed", "until")
    return {
        "pool": pool.name,
        "policy": settings.policy,
        "min": pool.min,
        "max": pool.max,
        "slots": pool.max_concurrency,
        "conditions": {name: options[name] for name in conditions},
        "runs": [
            fields(run) | ({"decisions": [list(pair) for pair in run.outcome.decisions]} if decisions else {})
            for run in runs
        ],
    }


def _draw(path: Path, pool: PoolSettings, runs: list[Run]) -> None:
    columns = [
        (f"target_wait {run.target_wait:g} s: mean wait {in_words(run.outcome.mean_wait)}, "
         f"{run.outcome.billed_hours:.2f} h billed", run.outcome)
        for run in runs
    ]  # fmt: skip
    try:
        path.write_text(picture(columns, f"{pool.name}: {runs[0].amount.tasks} tasks"), encoding="utf-8")
    except OSError as exc:
        raise click.ClickException(f"--picture {path}: {exc.strerror}") from exc
