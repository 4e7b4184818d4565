"""How do you get EC2 on one machine? Containers that boot as instances, AWS's APIs, instance metadata: one `with`."""

from __future__ import annotations

import contextlib
import secrets
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tests.box import rootfs
from tests.box.claim import Claim
from tests.box.cloud import ROLE, Cloud
from tests.box.history import ALIVE, ENDED, History, Transition
from tests.box.hypervisor import CUT, Hypervisor
from tests.box.metadata import Credentials, Identity, Metadata

if TYPE_CHECKING:
    from typing_extensions import Self

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: runs a command with a hosts file of its own, in a mount namespace of its own; values are arguments, never text
WITH_HOSTS = 'hosts=$1; shift; mount --bind "$hosts" /etc/hosts; exec "$@"'


class Ended(KeyboardInterrupt):
    """Raised in the main thread by SIGTERM or SIGHUP, so that a box is cleaned up as after Ctrl-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Instance:
    """One instance as it is now."""

    instance_id: str
    state: str
    cause: str  #: of that state
    launched: float  #: time.time() of the launch
    instance_type: str
    subnet_id: str
    tags: dict[str, str]
    console: str  #: all it wrote so far


class Box:
    """EC2 in a box; a context manager. Nothing of it is left when it closes, however it closes.

    `directory` keeps the consoles (`<instance id>.console`); without one they are not kept.
    `on_transition` and `on_line(instance_id, line)` are called from the box's own threads.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        recipe: rootfs.Recipe | None = None,
        on_transition: Callable[[Transition], None] | None = None,
        on_line: Callable[[str, str], None] | None = None,
    ) -> None:
        self.directory = Path(directory) if directory is not None else None
        self.cloud = Cloud(on_transition)
        self.metadata = Metadata()
        self.removed: list[str] = []  #: boxes that were killed and have been cleaned up by this one
        self._recipe = recipe or rootfs.Recipe()
        self._on_line = on_line
        self._hypervisor: Hypervisor | None = None
        self._signals = contextlib.ExitStack()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._signals.enter_context(_ending_signals())
        try:
            self._open()
        except BaseException:  # what was begun is undone, whatever interrupts it
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut every guest's power and remove all that the box made on this machine."""
        with _undisturbed():
            self._stack.close()
        self._signals.close()

    def _open(self) -> None:
        cache = rootfs.cache_directory()
        disk = rootfs.ensure(self._recipe, cache)
        claim = Claim(cache)
        self._stack.callback(claim.release)
        self.removed = claim.take()
        self._hypervisor = Hypervisor(
            cloud=self.cloud, metadata=self.metadata, rootfs=disk, claim=claim,
            consoles=self._consoles(), on_line=self._line,
        )  # fmt: skip
        self._hosts = claim.directory / "hosts"
        self._hosts.write_text("127.0.0.1 localhost instance-metadata\n")
        self._stack.callback(self.metadata.close)
        self._hypervisor.open()
        self._stack.callback(self._hypervisor.close)
        self._stack.callback(self.cloud.close)  # first of all, so that nothing is launched any more
        self.cloud.open(machines=self._hypervisor)
        self.client("ec2").describe_instances()  # the first call takes a second: models are read, here and in moto
        self.cloud.calls.clear()
        host = self._own_identity()
        self.metadata.open(lambda: host)

    def _consoles(self) -> Path:
        if self.directory is None:
            return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flame-box-")))
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory

    # what a program under test is told

    @property
    def endpoint(self) -> str:
        """The URL of every AWS service, on the host and in the guests."""
        return self.cloud.endpoint

    @property
    def metadata_url(self) -> str:
        """Instance metadata: the same URL for every guest, and each meets itself there. On the host see `on_host`."""
        return self.metadata.url

    @property
    def metadata_token_url(self) -> str:
        return self.metadata.token_url

    @property
    def host_metadata_url(self) -> str:
        """Instance metadata of the host, by address."""
        return f"http://127.0.0.1:{self.metadata.port}/latest/meta-data/"

    @property
    def host_metadata_token_url(self) -> str:
        return f"http://127.0.0.1:{self.metadata.port}/latest/api/token"

    @property
    def image_id(self) -> str:
        return self.cloud.image_id

    @property
    def subnet_id(self) -> str:
        return self.cloud.subnet_id

    @property
    def security_group_id(self) -> str:
        return self.cloud.security_group_id

    @property
    def instance_profile(self) -> str:
        """The name of the profile that lets a guest read the bucket."""
        return ROLE

    @property
    def region(self) -> str:
        return self.cloud.region

    @property
    def credentials(self) -> Credentials:
        return self.cloud.credentials

    def environment(self) -> dict[str, str]:
        """Return what a process on the host needs in its environment: keys, and no way to the real AWS."""
        return self.cloud.environment()

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of this box's AWS."""
        return self.cloud.client(service, **options)

    def upload(self, path: Path | str, key: str) -> str:
        """Put a file into the bucket; return its s3:// URL."""
        return self.cloud.upload(path, key)

    def on_host(self, command: Sequence[str]) -> list[str]:
        """Return a command that runs `command` on the host, its pid kept; `metadata_url` tells it who the host is."""
        return ["unshare", "--mount", "--", "sh", "-euc", WITH_HOSTS, "sh", str(self._hosts), *command]

    # what the instances do

    @property
    def events(self) -> list[Transition]:
        """Every transition of every instance, in order."""
        return self.cloud.history.events

    @property
    def peak(self) -> int:
        """The most instances that were pending or running at once."""
        return self.cloud.history.peak

    def instances(self) -> list[Instance]:
        """Return every instance there ever was, in the order of launch."""
        return [self.instance(instance_id) for instance_id in self.cloud.history.states()]

    def instance(self, instance_id: str) -> Instance:
        launched = next(event.time for event in self.events if event.instance_id == instance_id)
        last = self.cloud.history.states()[instance_id]
        own = self.cloud.ec2.instance(instance_id)
        return Instance(
            instance_id=instance_id, state=last.state, cause=last.cause, launched=launched,
            instance_type=own.instance_type, subnet_id=str(own.subnet_id),
            tags={tag["key"]: tag["value"] for tag in own.get_tags()}, console=self.machines.console(instance_id),
        )  # fmt: skip

    def boot(self, user_data: bytes, **request: Any) -> str:
        """Launch one instance with this user data; return its id. It terminates when it powers off."""
        launched = self.client("ec2").run_instances(**{
            "ImageId": self.image_id, "InstanceType": "t3.nano", "MinCount": 1, "MaxCount": 1,
            "SubnetId": self.subnet_id, "SecurityGroupIds": [self.security_group_id], "UserData": user_data,
            "IamInstanceProfile": {"Name": ROLE}, "InstanceInitiatedShutdownBehavior": "terminate", **request,
        })  # fmt: skip
        return str(launched["Instances"][0]["InstanceId"])

    def bake(self, files: Mapping[str, str]) -> str:
        """Return the id of an image that has these files too, by path; what begins with #! is a program."""
        image_id = self.cloud.register_image(f"flame-box-{len(self.machines.images)}")
        self.machines.images[image_id] = files
        return image_id

    def wait_for(self, instance_id: str, state: str, timeout: float = 60.0) -> Transition:
        """Wait until an instance has come into a state; return that transition."""

        def found() -> Transition | None:
            return next((e for e in self.events if (e.instance_id, e.state) == (instance_id, state)), None)

        return self._history.wait(found, what=f"{instance_id} {state}", timeout=timeout)

    def wait_for_console(self, instance_id: str, text: str, timeout: float = 60.0) -> str:
        """Wait until an instance has written this on its console; return the whole console."""

        def found() -> str:
            console = self.machines.console(instance_id)
            return console if text in console else ""

        return self._history.wait(found, what=f"{text!r} on the console of {instance_id}", timeout=timeout)

    def wait_until_empty(self, timeout: float = 60.0) -> None:
        """Wait until every instance has terminated or stopped."""

        def empty() -> bool:
            return all(event.state in ENDED for event in self._history.states().values())

        self._history.wait(empty, what="the end of every instance", timeout=timeout)

    @property
    def alive(self) -> int:
        """How many instances are pending or running."""
        return sum(event.state in ALIVE for event in self._history.states().values())

    def cut_power(self, instance_id: str) -> None:
        """End an instance from one moment to the next, as when its hardware fails."""
        self.machines.end(instance_id, CUT)

    def interrupt(self, instance_id: str, seconds: float = 120.0) -> None:
        """Take a spot instance away in so many seconds, with the notice that EC2 gives in its metadata."""
        self.machines.interrupt(instance_id, seconds)

    def run(self, instance_id: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a guest, as root."""
        return self.machines.guest(instance_id).run(*command)

    @property
    def give_credentials(self) -> bool:
        """Whether metadata has keys for instances with a profile; may be switched at any time."""
        return self.machines.give_credentials

    @give_credentials.setter
    def give_credentials(self, value: bool) -> None:
        self.machines.give_credentials = value

    @property
    def machines(self) -> Hypervisor:
        if self._hypervisor is None:
            raise RuntimeError("the box is not open")
        return self._hypervisor

    @property
    def _history(self) -> History:
        return self.cloud.history

    def _line(self, instance_id: str, line: str) -> None:
        self._history.poke()
        if self._on_line is not None:
            self._on_line(instance_id, line)

    def _own_identity(self) -> Identity:
        """Return who the host is: an instance EC2 does not list, beside the guests, in both security groups."""
        cloud = self.cloud
        return Identity(
            instance_id=f"i-{secrets.token_hex(8)}0", image_id=cloud.image_id, instance_type="t3.nano",
            account=cloud.account, region=cloud.region, zone=f"{cloud.region}a", mac="02:00:00:00:00:01",
            subnet_id=cloud.subnet_id, vpc_id=cloud.vpc_id, security_group_ids=cloud.security_group_ids,
            local_ipv4="172.31.0.4", profile_arn=cloud.instance_profile_arn, role=ROLE,
            credentials=cloud.credentials,
        )  # fmt: skip


@contextlib.contextmanager
def _ending_signals() -> Iterator[None]:
    """Turn the signals that would kill us into an exception; only the main thread may, elsewhere nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(signal.Signals(number).name)

    ours = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup sets it
    before = {number: signal.signal(number, end) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal end us half-way through cleaning up, which takes a second at most."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDING_SIGNALS)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
