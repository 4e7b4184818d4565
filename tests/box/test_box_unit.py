"""What may a release be and do: any program, started and stopped as one likes, in a sandbox that lets work be done?"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import TimeoutError
from celery.result import AsyncResult

from celery_flame_ec2 import boot
from tests.box.bench import APP, Bench
from tests.box.box import Box
from tests.box.bundle import archive
from tests.box.burst import Burst, build_release, told
from tests.box.ec2 import BY_GUEST
from tests.servers import TlsRedisServer
from tests.waiting import wait_until

pytestmark = pytest.mark.box

PROJECT = Path(__file__).parent / "sandboxed"
PATIENCE = 120.0
ODD = [
    "", ";", "#", "-@+!:|", "%n %i %h %%", "$HOME ${HOME} $$ $MAINPID", "a\"b'c\\", "\\x41\\n\\", " \t\r\n\v\f",
    "\x01\x1b\x7f\x85\u2028\ufeff", "🔥 grüße", "$(poweroff) `poweroff`", "x" * 5000,
]  # fmt: skip
#: Writes down what it got, and goes on when that was read: a console mixes its lines with those of systemd.
SHOW = """\
#!/usr/bin/python3
import json, os, sys, time
note = os.environ["STATE_DIRECTORY"] + "/" + os.path.basename(sys.argv[0])
with open(note + ".part", "w") as file:
    json.dump([sys.argv[1:], os.getcwd(), "MAINPID" in os.environ], file)
os.rename(note + ".part", note)
while os.path.exists(note):
    time.sleep(0.1)
if note.endswith("begin"):
    time.sleep(600)
"""
#: Works until it is told to go, and ends as it is told.
PERL = """\
use strict;
$| = 1;
print "perl works\\n";
select(undef, undef, undef, 0.1) until -e "$ENV{STATE_DIRECTORY}/go";
print "perl is done\\n";
exit 0;
"""
#: A worker in another language: takes what is on the list of a Redis at this port, and ends when nothing is left.
CONSUMER = """\
use strict;
use IO::Socket::INET;
my $redis = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $ARGV[0]) or die "no Redis: $!";
my $taken = 0;
while (1) {
    print $redis "RPOP celery\\r\\n";
    my $length = <$redis>;
    last if $length =~ /^\\$-1/;
    $length =~ /^\\$(\\d+)/ or die "Redis says $length";
    read($redis, my $message, $1 + 2);
    $taken++;
}
print "perl took $taken tasks\\n";
"""
#: As FlameEC2's: commands and an environment, and no word about what it may do.
BARE_UNIT = "[Service]\nType=simple\nExecStart=/bin/true start\nExecStopPost=/bin/systemctl poweroff\nRestart=no\n"


@pytest.fixture
def bench(open_box: Box) -> Bench:
    return Bench(box=open_box)


def shown(box: Box, instance: str, name: str) -> tuple[Any, ...]:
    """Return the words that a command got, its directory, and whether it was told the process to stop."""
    note = f"/var/lib/flame-release/{name}"
    wait_until(
        lambda: box.run(instance, "test", "-e", note).returncode == 0, what=f"{name} to say what it got", timeout=60
    )
    told = json.loads(box.run(instance, "cat", note).stdout)
    box.run(instance, "rm", note)
    return tuple(told)


def test_every_word_of_start_and_stop_command_arrives_byte_for_byte(bench: Bench) -> None:
    bundle = archive({"begin": SHOW, "tools/end": SHOW})
    options = {"start_command": ("begin", *ODD), "stop_command": ("tools/end", *ODD), "hello": "start"}
    instance = bench.boot(bundle, **options)
    bench.box.wait_for_console(instance, "flame: release started")
    assert shown(bench.box, instance, "begin") == (ODD, "/srv/proj/release", False)
    bench.box.run(instance, "systemctl", "--no-block", "stop", "flame-release.service")
    assert shown(bench.box, instance, "end") == (ODD, "/srv/proj/release", True)
    assert bench.box.wait_for(instance, "terminated").cause == BY_GUEST
    console = bench.box.instance(instance).console
    assert boot.failure(console) is None
    assert "flame: ended (killed TERM)" in console


def test_a_program_that_knows_nothing_of_us_need_say_no_hello_and_its_end_ends_the_instance(
    bench: Bench,
) -> None:
    start = ("/usr/bin/perl", "work.pl")
    instance = bench.boot(archive({"work.pl": PERL}), hello="start", start_command=start)
    bench.box.wait_for_console(instance, "perl works")
    units = ("flame-release.service", "flame-age.timer", "flame-hello.timer", "flame-deadman.timer")

    def none_asks_for_a_hello() -> bool:
        states = bench.box.run(instance, "systemctl", "is-active", *units).stdout.split()
        return states == ["active", "active", "inactive", "inactive"]

    wait_until(none_asks_for_a_hello, what="the release to be active, and no timer that asks for its hello")
    bench.box.run(instance, "touch", "/var/lib/flame-release/go")
    assert bench.box.wait_for(instance, "terminated").cause == BY_GUEST
    console = bench.box.instance(instance).console
    assert boot.failure(console) is None
    assert "flame: ended (exited 0)" in console


@pytest.mark.parametrize(
    ("program", "options", "expected"),
    [
        (
            "#!/bin/sh\necho no database >&2\nexit 3\n",
            {"env": {"PATH": "/opt/none"}},  # whatever the release is told, root's programs are the machine's
            "start: the start command ended (exited 3): no database",
        ),
        ("#!/bin/sh\n", {"start_command": ("/opt/java", "-x")}, "release: the image has no /opt/java"),
        (
            "#!/bin/sh\n",
            {"sandbox": {"ReadWritePaths": ("/no/data",)}},
            "release: the image has no /no/data",
        ),
    ],
)
def test_a_program_that_cannot_work_is_a_boot_that_failed(
    program: str, options: dict[str, Any], expected: str, bench: Bench
) -> None:
    instance = bench.boot(archive({f"bin/{APP}": program}), hello="start", **options)
    assert bench.failure(instance).startswith(expected)


@pytest.fixture(scope="module")
def redis() -> Iterator[TlsRedisServer]:
    with TlsRedisServer() as server:
        yield server


def deployed(box: Box, redis: TlsRedisServer, directory: Path, bundle: Path, **pools: dict[str, Any]) -> Burst:
    redis.talk(b"FLUSHALL\r\n")
    plain = f"redis://127.0.0.1:{redis.port}/0"
    burst = Burst(box, directory, broker=plain, results=plain, bundle_url=box.upload(bundle, f"{directory.name}.tgz"))
    own = {"max": 1, "max_concurrency": 1, "idle_shutdown_after": 3}
    burst.environ["FLAME_POOLS"] = json.dumps({name: own | options for name, options in pools.items()})
    return burst


def test_a_parent_launches_a_worker_in_another_language_and_takes_its_end_for_one(
    open_box: Box, redis: TlsRedisServer, tmp_path: Path
) -> None:
    bundle = tmp_path / "perl.tar.gz"
    bundle.write_bytes(archive({"work.pl": CONSUMER}))
    start = ["/usr/bin/perl", "work.pl", str(redis.port)]
    pool = {"queues": ["celery"], "hello": "start", "start_command": start}
    with deployed(open_box, redis, tmp_path, bundle, burst=pool) as burst:
        parent = burst.parent("flame", "serve")
        burst.flood(5, 0.1)
        (instance,) = parent.says(r"pool burst: (i-\w+) ended: its program ended", timeout=PATIENCE)
        assert told(parent, "ended") == [instance]
        assert "launch failed" not in parent.output
    assert "perl took 5 tasks" in open_box.instance(instance).console
    assert open_box.wait_for(instance, "terminated").cause == BY_GUEST


WORKS = (
    "write_files", "run_programs", "tune_itself", "share", "call_back", "make_code", "calculate", "look_up", "talk_tls",
)  # fmt: skip
REFUSED = {
    "write_release": "OSError: [Errno 30]",
    "write_elsewhere": "OSError: [Errno 30]",
    "read_environment_file": "PermissionError",
    "read_environment_of_others": "FileNotFoundError",
    "see_others": "AssertionError: no process of anybody else",
    "make_namespace": "AssertionError: refused",
    "become_root": "PermissionError",
}
POOLS: dict[str, dict[str, Any]] = {
    "prefork": {},
    "threads": {"worker_options": {"pool": "threads"}},
    "gevent": {"worker_options": {"pool": "gevent"}, "max_concurrency": 4},
    "other": {"sandbox": {"MemoryDenyWriteExecute": True, "RestrictNamespaces": False, "ProtectProc": False}},
}


@pytest.fixture(scope="module")
def done(open_box: Box, redis: TlsRedisServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What came of everything a task may try, by the pool whose runner tried it."""
    directory = tmp_path_factory.mktemp("sandboxed")
    bundle = build_release(directory / "work.tar.gz", PROJECT, app="work.app")
    pools = {name: {"queues": [name], **options} for name, options in POOLS.items()}
    things: dict[str, tuple[int, ...]] = {**dict.fromkeys([*WORKS, *REFUSED], ()), "talk_tls": (redis.tls_port,)}
    with deployed(open_box, redis, directory, bundle, **pools) as burst:
        burst.parent("flame", "serve")
        wanted = [(pool, name, args) for pool in pools for name, args in things.items()]
        wanted.append(("prefork", "fork", ()))  # threads and greenlets do not go well with forks
        asked = [
            (pool, name, burst.client.send_task("work.tasks.do", (name, *args), queue=pool))
            for pool, name, args in wanted
        ]
        found: dict[str, dict[str, str]] = {pool: {} for pool in pools}
        until = time.monotonic() + 75
        for pool, name, result in asked:
            found[pool][name] = answer(result, until - time.monotonic())
    return found


def answer(result: AsyncResult[str], seconds: float) -> str:
    try:
        return str(result.get(timeout=max(seconds, 0.1)))
    except TimeoutError:
        return "no answer"


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_tasks_do_works_in_the_sandbox(pool: str, done: dict[str, dict[str, str]]) -> None:
    names = (*WORKS, *(["fork"] if pool == "prefork" else []))
    assert {name: done[pool][name] for name in names} == dict.fromkeys(names, "done")


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_what_tasks_must_not_do_is_refused(pool: str, done: dict[str, dict[str, str]]) -> None:
    assert {name: word for name, word in REFUSED.items() if not done[pool][name].startswith(word)} == {}


def test_a_setting_takes_a_directive_away_or_adds_one(done: dict[str, dict[str, str]]) -> None:
    assert done["other"]["make_namespace"] == done["other"]["see_others"] == "done"
    assert done["other"]["make_code"].startswith("PermissionError")
    assert done["other"]["write_release"].startswith(REFUSED["write_release"])


def exposure(bench: Bench, instance: str, unit: str) -> float:
    said = bench.box.run(instance, "systemd-analyze", "security", "--no-pager", unit).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found, said
    return float(found[1])


def test_systemd_rates_the_unit_as_safe_and_one_like_flame_ec2s_as_unsafe(bench: Bench) -> None:
    stay = "#!/bin/sh\nexec sleep 600\n"
    bare = bench.box.bake({"etc/systemd/system/bare.service": BARE_UNIT})
    instance = bench.boot(archive({f"bin/{APP}": stay}), hello="start", image=bare)
    bench.box.wait_for_console(instance, "flame: release started")
    ours, bare_one = (exposure(bench, instance, unit) for unit in ("flame-release.service", "bare.service"))
    bench.box.cut_power(instance)
    print(f"systemd-analyze security: {ours} for our unit, {bare_one} for one like FlameEC2's")
    assert ours <= 1.9
    assert bare_one >= 9.5
