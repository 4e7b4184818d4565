"""What did the user ask for, and can it work?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from .address import Address, read_address
from .errors import SettingsError
from .options import flag, integer, kind_of, mapping, number, one_of, option, optional, read, some, suggestion, text
from .parent import RESERVED_VARIABLES
from .runner import Limits
from .sandbox import sandbox

PREFIX = "flame_"
DAY = 86400.0
#: Seconds, the largest boot_timeout there can be.
LONGEST_BOOT = 3600.0
#: Ports of Redis and RabbitMQ that a URL may name or not.
USUAL_PORTS = (6379, 5671, 5672)
#: What an instance cannot do without, and metadata or a launch template may bring.
PLACE = ("image_id", "subnet_id", "security_group_id")
LINK_LOCAL = "http://169.254.169.254/latest"

_url = text(r"https?://[^\s/]+(/\S*)?", "an http:// or https:// URL")
_aws_name = r"[\w+=,.@:/-]+"
#: What a value of `env` may refer to, by kind; a key of a secret that is a JSON object stands behind #.
_reference = {"from_ssm": _aws_name, "from_secretsmanager": f"{_aws_name}(#.+)?"}
_user_name = text(r"[a-z_][a-z0-9_-]{0,30}", "a Unix user name of at most 31 characters")


#: What systemd takes for no text, and then no release starts: NUL, surrogates, and what Unicode reserves.
_NO_TEXT = re.compile(
    "[\0\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE | low) for plane in range(17) for low in (0, 1))
    + "]"
)


def _env_value(value: Any) -> Any:
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            raise ValueError("must be text that an environment can hold (no NUL byte, lone surrogate, noncharacter)")
        return value
    if isinstance(value, Mapping) and len(value) == 1 and set(value) <= _reference.keys():
        ((kind, name),) = value.items()
        if isinstance(name, str) and re.fullmatch(_reference[kind], name):
            return dict(value)
    raise ValueError(
        'must be a str, {"from_ssm": name}, {"from_secretsmanager": name} or {"from_secretsmanager": "name#key"}'
    )


def _env(value: Any) -> dict[str, Any]:
    checked: dict[str, Any] = mapping(
        _env_value, key=r"[A-Za-z_][A-Za-z0-9_]*", expected="a dict with environment variables as keys"
    )(value)
    taken = RESERVED_VARIABLES & checked.keys()
    if taken:
        raise ValueError(f"a dict without {', '.join(sorted(taken))} (written by the parent)")
    return checked


def _command(value: Any) -> tuple[str, ...]:
    """Accept the words of a command; the first is a path in the release, or an absolute one."""
    words = tuple(value) if isinstance(value, (list, tuple)) else ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError("a list of words, as in ['bin/proj', 'start']")
    if not re.fullmatch(r"/?([\w.@:+-]+/)*[\w.@:+-]+", words[0], re.ASCII) or {"..", "."} & set(words[0].split("/")):
        raise ValueError("a list of words whose first is a path in the release, or an absolute one")
    if any(_NO_TEXT.search(word) for word in words):
        raise ValueError("a list of words that a command line can hold (no NUL byte, lone surrogate, noncharacter)")
    return words


def _worker_options(value: Any) -> dict[str, Any]:
    expected = "a dict of `celery worker` options, as in {'loglevel': 'DEBUG'}"
    options: dict[str, Any] = mapping(lambda item: item, expected=expected)(value)
    try:
        json.dumps(options)
    except TypeError as exc:
        raise ValueError(f"{expected} that JSON can carry ({exc})") from exc
    return options


def _bundle_url(value: Any) -> str:
    if isinstance(value, str):
        match = re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(\S(?:.*\S)?)", value)
        if match and value.endswith((".tar.gz", ".tgz", ".tar.zst", "/")):
            return value
    raise ValueError("s3://bucket/key that ends in .tar.gz, .tgz, .tar.zst or, for a prefix, in /")


def _lease(value: Any) -> str | bool | None:
    if value is None or value is False:
        return value
    if isinstance(value, str) and re.fullmatch(r"(rediss?://\S+|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/\S+)", value):
        return value
    raise ValueError("a redis://, rediss:// or s3://bucket/key URL, None (chosen by itself) or False (off)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RootVolume:
    """The root disk of an instance. Sizes in GiB, throughput in MiB/s."""

    size: int | None = option(optional(integer(low=1, high=65536)), default=None, doc="GiB; None keeps the image's")
    type: str | None = option(
        optional(one_of("gp2", "gp3", "io1", "io2", "st1", "sc1", "standard")), default=None, doc="volume type"
    )
    iops: int | None = option(optional(integer(low=100, high=256000)), default=None, doc="provisioned IOPS")
    throughput: int | None = option(optional(integer(low=125, high=2000)), default=None, doc="MiB/s, gp3 only")
    encrypted: bool = option(flag, default=True, doc="encrypt the disk")


def _root_volume(value: Any) -> RootVolume:
    problems: list[str] = []
    volume = read(RootVolume, value, "in it", problems)
    if problems:
        raise ValueError("a dict of " + ", ".join(f.name for f in fields(RootVolume)) + f" ({'; '.join(problems)})")
    return RootVolume(**volume)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ec2Options:
    """What an instance is made of. Empty or None means: not given by the user."""

    auto_configure: bool = option(flag, default=False, doc="fill what is left out from this instance's own metadata")
    s3_bundle_url: str | None = option(
        _bundle_url, default=None, doc="the release: s3://bucket/key.tar.gz, or a prefix"
    )
    s3_bundle_sha256: str | None = option(
        text(r"[0-9a-f]{64}", "64 hexadecimal digits"),
        default=None,
        doc="its checksum, as `flame release build` prints it; a runner refuses any other bundle before it runs",
    )
    app: str | None = option(
        text(r"[a-z0-9][a-z0-9_-]{0,62}", "lower-case letters, digits, - and _, at most 63"),
        default=None,
        doc="the release's name: it runs bin/<app> start under /srv/<app>; RELEASE_NAME where not set",
    )
    image_id: str | None = option(
        text(r"ami-[0-9a-f]{8,17}|resolve:ssm:\S+", "ami-... or resolve:ssm:/path"), default=None, doc="machine image"
    )
    launch_template_id: str | None = option(
        text(r"lt-[0-9a-f]{8,17}", "lt-..."), default=None, doc="launch template; what it sets is not overridden"
    )
    launch_template_version: str = option(
        text(r"\d+|\$Latest|\$Default", "a number, $Latest or $Default"), default="$Default", doc="of the template"
    )
    subnet_id: tuple[str, ...] = option(
        some(text(r"subnet-[0-9a-f]{8,17}", "subnet-...")), default=(), doc="one, or a list in order of preference"
    )
    security_group_id: tuple[str, ...] = option(
        some(text(r"sg-[0-9a-f]{8,17}", "sg-...")), default=(), doc="one, or a list: all of them are used"
    )
    instance_type: tuple[str, ...] = option(
        some(text(r"[a-z0-9-]+\.[a-z0-9-]+", "an instance type such as 'c7i.xlarge'")),
        default=(),
        doc="one, or a list in order of preference; t3.nano where nothing sets it",
    )
    iam_instance_profile: str | None = option(text(_aws_name, "an ARN or a name"), default=None, doc="ARN or name")
    key_name: str | None = option(text(), default=None, doc="SSH key pair")
    region: str | None = option(text(r"[a-z0-9-]+", "a region such as 'eu-west-1'"), default=None, doc="AWS region")
    boot_timeout: float = option(
        number(low=1, high=LONGEST_BOOT), default=120.0, doc="s from launch to the worker's hello"
    )
    instance_metadata_url: str = option(_url, default=f"{LINK_LOCAL}/meta-data/", doc="for tests")
    instance_metadata_token_url: str = option(_url, default=f"{LINK_LOCAL}/api/token", doc="for tests")
    ec2_service_endpoint: str | None = option(_url, default=None, doc="the region's own where not set")
    s3_service_endpoint: str | None = option(_url, default=None, doc="the region's own where not set")
    env: Mapping[str, Any] = option(
        _env,
        factory=dict,
        secret=True,
        doc='the child\'s environment; {"from_ssm": name} or {"from_secretsmanager": name} is resolved on the runner',
    )
    market: tuple[str, ...] = option(
        some(one_of("spot", "on-demand")), default=("on-demand",), doc="one, or a list in order of preference"
    )
    associate_public_ip: bool | None = option(flag, default=None, doc="None keeps the subnet's setting")
    user: str = option(_user_name, default="flame", doc="the unprivileged account the release runs as")
    start_command: tuple[str, ...] = option(
        _command,
        default=(),
        doc="starts the release: a program in it (or an absolute path) and its arguments; ['bin/<app>', 'start'] where "
        "not set; see release.md",
    )
    hello: str = option(
        one_of("worker", "start"),
        default="worker",
        doc="what tells that a boot went well: the worker's own word or, where the release is another program, that it "
        "was started; see release.md",
    )
    stop_command: tuple[str, ...] = option(
        _command, default=(), doc="likewise, run to stop the release; SIGTERM to its process where not set"
    )
    sandbox: Mapping[str, Any] = option(
        sandbox,
        factory=dict,
        doc="what of the unit's sandbox is to be otherwise, e.g. {'ReadWritePaths': ['/data']}; False takes one of its "
        "directives away; see guarantees.md",
    )
    tags: Mapping[str, str] = option(
        mapping(
            text(r"(?s).{0,256}", "must be a str of at most 256 characters"),
            key=r"(?!aws:|flame:)[\w+=,.@:-]{1,128}",
            expected="a dict with tag keys (letters, digits, + - = . , _ : @; not aws:* or flame:*)",
        ),
        factory=dict,
        doc="tags on instances, volumes and interfaces",
    )
    root_volume: RootVolume | None = option(_root_volume, default=None, doc="size, type, iops, throughput, encrypted")
    hourly_price: float | None = option(
        number(low=0, high=1000), default=None, doc="of one runner, for the costs that are told"
    )
    allow_local_broker: bool = option(
        flag, default=False, doc="accept a broker URL on localhost, where runners share this machine's network"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSettings:
    """One flame pool: which queues, how many runners, and what a runner is. Times in seconds."""

    name: str
    queues: tuple[str, ...] = option(some(text()), doc="the queue, or a list of those, that these runners serve")
    min: int = option(integer(low=0, high=10000), default=0, doc="runners always there")
    max: int = option(integer(low=0, high=10000), default=10, doc="runners never exceeded")
    max_concurrency: int | None = option(
        integer(low=1, high=10000), default=None, doc="tasks at a time on one runner; vCPUs of the type where not set"
    )
    idle_shutdown_after: float | None = option(
        optional(number(low=0, high=7 * DAY, above=True)), default=30.0, doc="s without work; None is never"
    )
    min_idle_shutdown_after: float | None = option(
        optional(number(low=0, high=7 * DAY, above=True)), default=None, doc="the same for runners that make up min"
    )
    target_wait: float = option(
        number(low=0, high=DAY),
        default=30.0,
        doc="s a task may wait once runners are up: at 0 each that waits gets a slot, more costs less; see deciding.md",
    )
    single_use: bool = option(flag, default=False, doc="one task per process slot, then end")
    shutdown_timeout: float = option(number(low=0, high=DAY), default=30.0, doc="s to finish tasks when ending")
    end_on_rebalance: bool = option(
        flag, default=False, doc="end a spot instance when EC2 recommends to, before it gives notice"
    )
    max_lifetime: float = option(number(low=60, high=7 * DAY), default=DAY, doc="s, whatever happens")
    worker_options: Mapping[str, Any] = option(
        _worker_options,
        factory=dict,
        doc="passed to the child's worker, e.g. {'loglevel': 'DEBUG'}",
    )
    ec2: Ec2Options = field(default_factory=Ec2Options)

    def limits(self, *, warm: bool) -> Limits:
        """Return when a runner of this pool must end; `warm` for one of those that make up `min`."""
        return Limits(
            idle_shutdown_after=self.min_idle_shutdown_after if warm else self.idle_shutdown_after,
            boot_timeout=self.ec2.boot_timeout,
            shutdown_timeout=self.shutdown_timeout,
            max_lifetime=self.max_lifetime,
            single_use=self.single_use,
            end_on_rebalance=self.end_on_rebalance,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything the user decided, checked. `flame_` stands before each option's name in `app.conf`."""

    backend: str = option(one_of("local", "ec2"), default="local", doc="where runners come from")
    interval: float = option(number(low=0.1, high=60), default=1.0, doc="s between two rounds")
    owner: str = option(
        text(r"[\w.:@/+-]{1,128}", "letters, digits and . : @ / + - _, at most 128"),
        default="",
        doc="names this deployment in tags and in the lease; the app's name and the broker's database where not set; "
        "required with `ec2` and SQS",
    )
    lease: str | bool | None = option(
        _lease,
        default=None,
        secret=True,
        doc="where it is settled which of several parents acts; None is a file with `local`, else the Redis that is "
        "broker or result backend, else the bucket of s3_bundle_url",
    )
    policy: str = option(
        text(r"[\w.]+:\w+", "a dotted path 'package.module:callable'"),
        default="celery_flame_ec2.policy:plan",
        doc="the callable that plans",
    )
    http: Address | None = option(
        optional(read_address),
        default=None,
        doc="where the parent serves its status page and metrics; None is nowhere; see page.md",
    )
    http_token: str | None = option(
        optional(text(r"[!-~]{16,256}", "16 to 256 printable ASCII characters without spaces")),
        default=None,
        secret=True,
        doc="what the page asks its readers for; required where `http` is not a loopback address",
    )
    log_format: str = option(
        one_of("text", "json"), default="text", doc="of this package's log lines, in parents and runners; see logs.md"
    )
    pools: tuple[PoolSettings, ...] = ()
    #: Where runners pin their words, as their letter names it; empty where the broker carries them. No option.
    board: str = ""

    def speaks(self, pool: PoolSettings) -> bool:
        """Tell whether a pool's runners say what they do: a program that is no worker of ours knows no words."""
        return self.backend != "ec2" or pool.ec2.hello == "worker"

    def pool(self, name: str) -> PoolSettings:
        """Return a pool by name.

        Raises:
            SettingsError: there is no such pool.
        """
        for pool in self.pools:
            if pool.name == name:
                return pool
        known = [pool.name for pool in self.pools]
        raise SettingsError([f"there is no flame pool {name!r}{suggestion(name, known)} (known: {', '.join(known)})"])


def read_settings(
    conf: Mapping[str, Any],
    *,
    app_name: str,
    broker_urls: tuple[str, ...],
    environ: Mapping[str, str],
    prefix: str = "",
    problems: Iterable[str] = (),
) -> Settings:
    """Read the `flame_` settings out of `conf`, whose keys are lower case and carry the prefix.

    `prefix` stands before the names of this deployment's queues and keys in the broker; `problems` were found before
    and are reported with the others.

    Raises:
        SettingsError: with every problem found, each naming pool, option, value and bound.
    """
    problems = list(problems)
    plain = {name.removeprefix(PREFIX): value for name, value in conf.items() if name.startswith(PREFIX)}
    shared, raw_pools = plain.pop("ec2", {}), plain.pop("pools", None)
    good = read(Settings, plain, "settings flame_*", problems, also=("ec2", "pools"))
    found = list(_pools(raw_pools, shared, environ, problems))
    pools = tuple(pool for pool, _ in found)
    settings = Settings(**{"owner": _owner(app_name, broker_urls, prefix), **good}, pools=pools)
    problems += _queue_problems(pools)
    if "http_token" not in plain:
        problems += page_problems(settings)
    if settings.backend == "ec2":
        problems += [problem for pool, given in found for problem in _ec2_problems(pool, broker_urls, given)]
        if "owner" not in good and not prefix and _is_sqs(broker_urls[0]):
            problems.append("setting flame_owner is required with SQS: the broker's URL tells no deployments apart")
    if problems:
        raise SettingsError(problems)
    return settings


def _pools(
    raw: Any, shared: Any, environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[PoolSettings, set[str]]]:
    """Yield each pool, and the names of the options that were given for it, refused ones too."""
    ec2_names = {f.name for f in fields(Ec2Options)}
    common = read(Ec2Options, shared, "flame_ec2", problems)
    if not isinstance(raw, Mapping) or not raw:
        problems.append(f"flame_pools must be a dict with at least one pool by name, got {kind_of(raw)}")
        return
    for name, options in raw.items():
        where = f"pool {name!r}"
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,62}", name):
            problems.append(f"{where}: a pool's name is made of at most 63 letters, digits and . _ -")
            continue
        if not isinstance(options, Mapping):
            problems.append(f"{where}: expected a dict of options, got {kind_of(options)}")
            continue
        own = read(PoolSettings, {k: v for k, v in options.items() if k not in ec2_names}, where, problems)
        ec2 = common | read(Ec2Options, {k: v for k, v in options.items() if k in ec2_names}, where, problems)
        ec2.setdefault("app", environ.get("RELEASE_NAME") or None)
        if "queues" in own:
            given = {*options, *(shared if isinstance(shared, Mapping) else ())}
            yield PoolSettings(name=name, **own, ec2=Ec2Options(**ec2)), given


def page_problems(settings: Settings) -> Iterator[str]:
    """Yield why the status page may not be served where it should be: whoever reaches it sees all of it."""
    if settings.http is not None and not settings.http.is_loopback and settings.http_token is None:
        yield f"setting flame_http_token is required where flame_http ({settings.http}) is not a loopback address"


def _queue_problems(pools: tuple[PoolSettings, ...]) -> Iterator[str]:
    counts = Counter(queue for pool in pools for queue in pool.queues)
    for queue, count in counts.items():
        if count > 1:
            names = ", ".join(repr(pool.name) for pool in pools if queue in pool.queues)
            yield f"pools {names}: queue {queue!r} is in {count} pools; a queue belongs to one pool"
    for pool in pools:
        if pool.max < pool.min:
            yield f"pool {pool.name!r}: option 'max' must be at least 'min' ({pool.min}), got {pool.max}"


def _ec2_problems(pool: PoolSettings, broker_urls: tuple[str, ...], given: set[str]) -> Iterator[str]:
    """Yield what an EC2 pool lacks; what is wrong with an option that was `given` is told already."""
    where, ec2 = f"pool {pool.name!r}", pool.ec2
    for name, hint in (("s3_bundle_url", " (s3://bucket/release.tar.gz)"), ("app", " (or set RELEASE_NAME)")):
        if getattr(ec2, name) is None and name not in given:
            yield f"{where}: option {name!r} is required with flame_backend 'ec2'{hint}"
    yield from _contradictions(where, ec2)
    if not (ec2.launch_template_id or ec2.auto_configure):
        for name in PLACE:
            if not getattr(ec2, name) and name not in given:
                yield f"{where}: option {name!r} is required without 'launch_template_id' or 'auto_configure'"
    for url in () if ec2.allow_local_broker else filter(_is_local, broker_urls):
        yield (
            f"{where}: a runner could never reach the broker at {_place(url)}; set broker_url to an address "
            "that the runners' network knows"
        )


def _contradictions(where: str, ec2: Ec2Options) -> Iterator[str]:
    if ec2.image_id and ec2.launch_template_id:
        yield f"{where}: options 'image_id' and 'launch_template_id' are both given; remove one of them"
    if ec2.s3_bundle_sha256 and ec2.s3_bundle_url and ec2.s3_bundle_url.endswith("/"):
        yield f"{where}: option 's3_bundle_sha256' is of one file, and 's3_bundle_url' is a prefix; remove one of them"


def _is_local(url: str) -> bool:
    scheme = url.split("://")[0].split("+")[0]
    if scheme in {"memory", "filesystem"} or url.startswith(("sqla+sqlite", "sqlalchemy+sqlite")):
        return True
    host = urlsplit(url).hostname or ""
    if _is_sqs(url):
        return host.startswith("127.")  # kombu says localhost where the URL names no host
    needs_host = scheme in {"redis", "rediss", "amqp", "amqps", "pyamqp"}
    return host == "localhost" or host.startswith("127.") or host == "::1" or (needs_host and not host)


def _is_sqs(url: str) -> bool:
    return urlsplit(url).scheme.lower() == "sqs"


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _owner(app_name: str, broker_urls: tuple[str, ...], prefix: str) -> str:
    parts = urlsplit(broker_urls[0] if broker_urls else "")
    host = None if parts.scheme == "sqs" else parts.hostname
    port = f":{parts.port}" if host and parts.port not in (None, *USUAL_PORTS) else ""
    place = f"{host or parts.scheme}{port}{parts.path}".rstrip("/")
    return re.sub(r"[^\w.:@/+-]", "-", "/".join(filter(None, (f"{app_name}@{place}", prefix))))[:128]
