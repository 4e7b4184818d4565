"""Does each means of ending an instance end it alone, with all others taken away, within the bound that is documented?

Each instance is watched by a thread of its own: all together last a little longer than the longest bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Semaphore

import pytest

import celery_flame_ec2
from celery_flame_ec2.runner import Limits
from celery_flame_ec2.watchdog import PATIENCE
from tests.box.bench import APP, HELLO, MUTE, STAY, Bench
from tests.box.box import Box, Instance
from tests.box.bundle import archive
from tests.box.ec2 import BY_GUEST
from tests.box.promises import promises, seconds
from tests.waiting import wait_until

UP = 180.0  #: seconds a machine that is this busy may take until a guest is up
AT_ONCE = 4  #: guests that boot at the same time
SLACK = 60.0  #: seconds beyond a bound, for the same reason
SHORT = 40.0  #: seconds of silence that a worker here arms the watchdog with
ROOT = Path(__file__).parent.parent.parent

RELEASE = "etc/systemd/system/flame-release.service.d/"
#: The unit's report, without what it does beside reporting.
ONLY_REPORT = "systemctl() { :; }; set -- release; . /run/flame/report"
#: Means of ending: what takes each of them away, on the image's disk.
MEANS: dict[str, tuple[str, str]] = {
    "action": (f"{RELEASE}1.conf", "[Unit]\nSuccessAction=none\nFailureAction=none\n"),
    "command": (f"{RELEASE}2.conf", f"[Service]\nExecStopPost=\nExecStopPost=+/bin/sh -c '{ONLY_REPORT}'\n"),
    "life": (f"{RELEASE}3.conf", "[Service]\nRuntimeMaxSec=infinity\n"),
    "watchdog": (f"{RELEASE}4.conf", "[Service]\nNotifyAccess=none\n"),
    "boot": ("etc/systemd/system/flame-bootstrap.service.d/1.conf", "[Unit]\nFailureAction=none\n"),
    "unstarted": ("etc/systemd/system/flame-unstarted.service.d/1.conf", "[Unit]\nConditionPathExists=/none\n"),
    "deadman": ("etc/systemd/system/flame-deadman.timer.d/1.conf", "[Timer]\nOnActiveSec=\nOnActiveSec=1w\n"),
    "hello": ("etc/systemd/system/flame-hello.timer.d/1.conf", "[Timer]\nOnBootSec=\nOnBootSec=1w\n"),
    "age": ("etc/systemd/system/flame-age.timer.d/1.conf", "[Timer]\nOnBootSec=\nOnBootSec=1w\n"),
    "force": ("etc/systemd/system/poweroff.target.d/zz.conf", "[Unit]\nJobTimeoutAction=none\n"),
}

HANG = "#!/bin/sh\nexec sleep infinity\n"
DEAF = f"#!/bin/sh\ntrap '' TERM\n{STAY}"
#: Takes the first place on the PATH, and refuses the call with this number.
REFUSE_ONCE = """\
#!/bin/sh
calls=/run/systemctl-calls
echo >>$calls
[ "$(wc -l <$calls)" -ne {number} ] || exit 1
exec /usr/bin/systemctl "$@"
"""
NEVER_BEGIN = """\
#!/bin/sh
case $* in *flame-bootstrap*) exit 1 ;; esac
exec /usr/bin/systemctl "$@"
"""
#: A worker as far as systemd can tell: it gives the sign of life that the real one gives.
SIGNS = f"""\
#!/usr/bin/python3
import os, pathlib, sys, time
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from celery_flame_ec2.watchdog import Watchdog
watchdog = Watchdog(os.environ["NOTIFY_SOCKET"], patience={SHORT})
pathlib.Path(os.environ["FLAME_HELLO_FILE"]).touch()
while True:
    watchdog.pulse()
    time.sleep(0.5)
"""


def own_modules(*names: str) -> dict[str, str]:
    """Return modules of ours for a bundle, without the package's own imports."""
    directory = Path(celery_flame_ec2.__file__).parent
    found = {f"celery_flame_ec2/{name}.py": (directory / f"{name}.py").read_text() for name in names}
    return {"celery_flame_ec2/__init__.py": "", **found}


def in_guest(*command: str) -> Callable[[Box, str], None]:
    def run(box: Box, instance: str) -> None:
        box.run(instance, *command)

    return run


def to_worker(signal: str) -> Callable[[Box, str], None]:
    return in_guest("systemctl", "kill", f"--signal={signal}", "--kill-who=main", "flame-release.service")


def nothing(box: Box, instance: str) -> None:
    """Begin to count when the worker is up: the release does the rest."""


def stick(box: Box, instance: str) -> None:
    """Let something run that does not stop, and the worker end."""
    endless = ("--property=ExecStop=/bin/sleep infinity", "--property=TimeoutStopSec=infinity")
    box.run(instance, "systemd-run", "--unit=stuck", *endless, "sleep", "infinity")
    to_worker("KILL")(box, instance)


PATIENT = Limits(boot_timeout=600)
BRIEF = Limits(boot_timeout=600, max_lifetime=5, shutdown_timeout=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What happens, by its row of the table; which means are left; what the console says when they worked.

    `fault` strikes once the worker said hello; without one it is in the image or in the release.
    """

    row: str
    left: tuple[str, ...] = ()
    release: str = STAY
    fault: Callable[[Box, str], None] | None = None
    says: str = ""
    limits: Limits = PATIENT
    bound: float | None = None  #: seconds, where the one that is documented is too long to wait for
    image: Mapping[str, str] = field(default_factory=dict)
    bundle: bool = True

    @property
    def files(self) -> dict[str, str]:
        return {path: text for name, (path, text) in MEANS.items() if name not in self.left} | dict(self.image)


FAILS = (
    "a step of the boot fails: no bundle, no right to it, a wrong checksum, no `bin/<app>`, a start command that exits"
)
SILENT = "the worker hangs, and gives signs of life, or never gave any, as a program of your own"

CASES = {
    "no bundle": Case(row=FAILS, left=("boot",), bundle=False, says="flame: boot failed: fetch: no such bundle"),
    "no interpreter, by systemd": Case(row=FAILS, left=("action",), release="#!/no/such\n", says="(exited 203)"),
    "no interpreter, by command": Case(row=FAILS, left=("command",), release="#!/no/such\n", says="(exited 203)"),
    "no bootstrap": Case(
        row="cloud-init ends and the bootstrap never began", left=("unstarted",),
        image={"usr/local/bin/systemctl": NEVER_BEGIN}, says="cloud-init is over and the bootstrap has not begun",
    ),
    "no Python answers": Case(
        row="the boot hangs before the bootstrap does anything", left=("deadman",),
        image={"usr/local/bin/python3": HANG}, says="no hello from the worker within boot_timeout",
    ),
    "the bootstrap hangs": Case(
        row="the boot hangs: no hello", left=("hello",), limits=Limits(boot_timeout=30),
        image={"usr/local/bin/tar": HANG}, says="no hello from the worker within boot_timeout",
    ),
    "no hello": Case(
        row="the boot hangs: no hello", left=("hello",), limits=Limits(boot_timeout=30), release=MUTE,
        says="no hello from the worker within boot_timeout",
    ),
    "killed, by systemd": Case(
        row="the worker is killed", left=("action",), fault=to_worker("KILL"), says="flame: ended (killed KILL)"
    ),
    "killed, by command": Case(
        row="the worker is killed", left=("command",), fault=to_worker("KILL"), says="flame: ended (killed KILL)"
    ),
    "stopped, with signs": Case(
        row="the worker hangs", left=("watchdog", "action"), bound=SHORT, release=SIGNS, fault=to_worker("STOP"),
        says="flame: ended (watchdog, killed KILL)",
    ),
    "deaf": Case(
        row=SILENT, left=("life", "action"), fault=nothing, limits=BRIEF, release=DEAF,
        says="flame: ended (timeout, killed KILL)",
    ),
    "never ended": Case(
        row="systemd does not end the unit", left=("age",), says="flame: ended (older than max_lifetime)",
        limits=Limits(boot_timeout=30, max_lifetime=5, shutdown_timeout=0),
    ),
    "stuck": Case(
        row="power-off hangs", left=("action", "force"), limits=BRIEF, fault=stick,
        says="Forcibly powering off: job timed out",
    ),
    "a reboot": Case(
        row="the machine reboots", fault=in_guest("systemctl", "reboot"), says="this instance was booted before"
    ),
    "a reset": Case(
        row="the machine reboots", fault=in_guest("sh", "-c", "sync; exec reboot -ff"),
        says="this instance was booted before",
    ),
}  # fmt: skip

#: Rows that are shown where what they need is.
ELSEWHERE = {
    "the queue is empty": "tests/box/test_box_burst.py",
    "it is too old": "tests/integration/test_child.py",
    "the broker is gone": "tests/unit/test_lifetime.py",
    "it is told to: SIGTERM": "tests/integration/test_drain.py",
    "it was cordoned, and forgotten": "tests/integration/test_cordon.py",
    "it was recalled as it booted, and EC2 did not terminate it": "tests/box/test_box_recall.py",
    "EC2 gives notice of a spot interruption": "tests/box/test_box_spot.py",
    "EC2 recommends to leave a spot instance, and `end_on_rebalance` is set": "tests/integration/test_drain.py",
    "a command to systemd fails": "test_a_command_to_systemd_that_fails_once_keeps_no_instance",
    "the kernel panics": "test_a_panic_becomes_a_reboot",
    "all of that failed": "tests/chaos/test_launch.py",
    "there is no parent any more": "tests/integration/test_ec2.py",
}


#: A release that ends at once, on an image where one call of systemctl fails: which one.
CALLS = range(1, 9)
REFUSING = {
    f"refused call {number}": Case(
        row="the boot hangs: no hello", left=tuple(MEANS), release=HELLO, limits=Limits(boot_timeout=60),
        image={"usr/local/bin/systemctl": REFUSE_ONCE.format(number=number)},
    )
    for number in CALLS
}  # fmt: skip


def bound(case: Case) -> float:
    return seconds(promises()[case.row], case.limits) if case.bound is None else case.bound


def launch(box: Box, case: Case) -> str:
    """Return the id of an instance that has finished its boot, or ended."""
    bundle = archive({f"bin/{APP}": case.release, **own_modules("watchdog", "parent", "runner", "errors")})
    instance = Bench(box=box).boot(bundle if case.bundle else None, limits=case.limits, image=box.bake(case.files))

    def booted() -> bool:
        return "finished at" in box.machines.console(instance) or box.instance(instance).state == "terminated"

    wait_until(booted, what=f"the boot of {instance}", timeout=UP)
    return instance


def end(box: Box, case: Case, busy: Semaphore) -> Instance:
    """Launch an instance, let the case happen to it, and wait until it is gone: no longer than the bound allows."""
    with busy:
        instance = launch(box, case)
    if case.fault is not None:
        hello = ("test", "-e", "/run/flame-release/hello")
        wait_until(lambda: box.run(instance, *hello).returncode == 0, what=f"hello of {instance}", timeout=UP)
        case.fault(box, instance)
    box.wait_for(instance, "terminated", bound(case) + SLACK)
    return box.instance(instance)


@pytest.fixture(scope="module")
def ends(open_box: Box) -> Iterator[dict[str, Future[Instance]]]:
    """How each instance ends, or will have."""
    cases, busy = {**CASES, **REFUSING}, Semaphore(AT_ONCE)
    longest_first = sorted(cases, key=lambda name: -bound(cases[name]))
    with ThreadPoolExecutor(len(cases)) as pool:
        yield {name: pool.submit(end, open_box, cases[name], busy) for name in longest_first}


@pytest.mark.parametrize("name", CASES)
def test_each_means_ends_an_instance_alone(name: str, ends: dict[str, Future[Instance]]) -> None:
    ended = ends[name].result()
    assert ended.cause == BY_GUEST
    assert CASES[name].says in ended.console


@pytest.mark.parametrize("name", REFUSING)
def test_a_command_to_systemd_that_fails_once_keeps_no_instance(name: str, ends: dict[str, Future[Instance]]) -> None:
    assert ends[name].result().cause == BY_GUEST


def test_every_row_of_the_table_is_shown_by_a_test() -> None:
    assert list(promises()) == [
        row for row in promises() if row in {case.row for case in CASES.values()} | ELSEWHERE.keys()
    ]
    assert [place for place in ELSEWHERE.values() if not ((ROOT / place).exists() or place in globals())] == []


def test_the_silence_that_is_documented_is_the_one_a_worker_asks_for() -> None:
    assert seconds(promises()["the worker hangs"], Limits()) == PATIENCE


@pytest.fixture(scope="module")
def healthy(open_box: Box) -> Iterator[str]:
    """An instance that is up, on whose disk a file stands for what the kernel does when it panics: stop for ever."""
    bind = "[Service]\nExecStartPre=/bin/mount --bind /etc/panic /proc/sys/kernel/panic\n"
    files = {"etc/panic": "0\n", "etc/systemd/system/cloud-init-local.service.d/panic.conf": bind}
    instance = Bench(box=open_box).boot(archive({f"bin/{APP}": STAY}), image=open_box.bake(files))
    open_box.wait_for_console(instance, "flame: release started", UP)
    yield instance
    open_box.cut_power(instance)


def test_a_panic_becomes_a_reboot(open_box: Box, healthy: str) -> None:
    after = seconds(promises()["the kernel panics"], Limits())
    assert open_box.run(healthy, "cat", "/etc/panic").stdout == f"{after:.0f}\n"


def test_nothing_of_ours_is_enabled_or_on_the_disk_to_be(open_box: Box, healthy: str) -> None:
    units = open_box.run(healthy, "find", "/etc/systemd", "/usr/lib/systemd", "/usr/local/lib", "-name", "*flame*")
    assert (units.returncode, units.stdout) == (1, "") or units.stdout == ""
    enabled = open_box.run(healthy, "systemctl", "list-unit-files", "--state=enabled,enabled-runtime", "--no-legend")
    assert "cloud-init" in enabled.stdout
    assert "flame" not in enabled.stdout
