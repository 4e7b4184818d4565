"""Which container runs for which instance, and what is the instance's state then?"""

from __future__ import annotations

import base64
import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.box.claim import Claim
from tests.box.cloud import ROLE, Cloud
from tests.box.ec2 import BY_GUEST, STOPPED, TAKEN, TERMINATED
from tests.box.guest import Guest, Machine
from tests.box.history import ENDED
from tests.box.metadata import Credentials, Identity, Metadata

logger = logging.getLogger(__name__)

CUT = "power cut"
CLOSED = "box closed"
END_TIMEOUT = 10.0  #: seconds; a killed container is gone in a tenth of one


class Hypervisor:
    """Boots a guest for every instance that is launched and marks the instance when the guest is gone.

    One thread does both, in the order in which they were asked for: `boot` and `end` never block an API call.
    """

    def __init__(
        self,
        *,
        cloud: Cloud,
        metadata: Metadata,
        rootfs: Path,
        claim: Claim,
        consoles: Path,
        on_line: Callable[[str, str], None],
    ) -> None:
        self._cloud, self._metadata, self._rootfs, self._claim = cloud, metadata, rootfs, claim
        self._consoles, self._on_line = consoles, on_line
        self.give_credentials = True
        self.images: dict[str, Mapping[str, str]] = {}  #: what an image has beyond what all have, by path
        self._taken_at: dict[str, float] = {}
        self._guests: dict[str, Guest] = {}
        self._causes: dict[str, str] = {}
        self._credentials: dict[str, Credentials] = {}
        self._closing = False
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hypervisor", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cut every guest's power; returns when all are gone."""
        cut = threading.Event()
        self._work.put(lambda: self._close(cut))
        cut.wait(END_TIMEOUT)
        for guest in self._guests.values():
            guest.join(END_TIMEOUT)
        self._work.put(None)
        self._thread.join(END_TIMEOUT)

    # what EC2 asks of it

    def boot(self, instance_id: str) -> None:
        self._work.put(lambda: self._boot(instance_id))

    def end(self, instance_id: str, cause: str) -> None:
        self._causes.setdefault(instance_id, cause)
        self._work.put(lambda: self._kill(instance_id))

    def interrupt(self, instance_id: str, seconds: float) -> None:
        """Give notice, as of a spot instance, and end it when that is over."""
        self._taken_at[instance_id] = time.time() + seconds
        timer = threading.Timer(seconds, self.end, (instance_id, TAKEN))
        timer.daemon = True
        timer.start()

    def console(self, instance_id: str) -> str:
        guest = self._guests.get(instance_id)
        return guest.console if guest else ""

    def guest(self, instance_id: str) -> Guest:
        return self._guests[instance_id]

    # its own thread

    def _run(self) -> None:
        while (job := self._work.get()) is not None:
            try:
                job()
            except Exception:  # the other instances go on
                logger.exception("the box could not do what EC2 asked of it")

    def _boot(self, instance_id: str) -> None:
        if self._closing:
            self._causes.setdefault(instance_id, CLOSED)
        if instance_id in self._causes:  # ended before its turn came
            self._finish(instance_id, self._causes[instance_id])
            return
        self._credentials[instance_id] = _new_credentials()
        self._cloud.keys.add(self._credentials[instance_id])
        address = self._metadata.admit(lambda: self._identity(instance_id))
        guest = self._guests[instance_id] = self._new_guest(instance_id, address)
        guest.start()
        self._cloud.ec2.mark(instance_id, "running", "booted")

    def _new_guest(self, instance_id: str, address: str) -> Guest:
        instance = self._cloud.ec2.instance(instance_id)
        machine = Machine(
            instance_id=instance_id, hostname=str(instance.private_dns_name).partition(".")[0],
            address=address, user_data=_user_data(instance) or b"",
            files=self.images.get(instance.image_id, {}),
        )  # fmt: skip
        return Guest(
            machine, rootfs=self._rootfs, directory=self._claim.directory / instance_id,
            console=self._consoles / f"{instance_id}.console", cgroup=self._claim.cgroup.below(instance_id),
            on_line=self._on_line, on_exit=self._on_exit,
        )  # fmt: skip

    def _kill(self, instance_id: str) -> None:
        if guest := self._guests.get(instance_id):
            guest.kill()

    def _close(self, cut: threading.Event) -> None:
        self._closing = True
        for instance_id, guest in self._guests.items():
            if self._cloud.ec2.instance(instance_id).state not in ENDED:
                self._causes.setdefault(instance_id, CLOSED)
                guest.kill()
        cut.set()

    def _on_exit(self, instance_id: str, status: int) -> None:
        self._work.put(lambda: self._gone(instance_id, status))

    def _gone(self, instance_id: str, status: int) -> None:
        guest = self._guests[instance_id]
        self._finish(instance_id, self._causes.get(instance_id) or (BY_GUEST if status == 0 else _crash(status)))
        self._metadata.dismiss(guest.machine.address)
        guest.cgroup.remove()
        shutil.rmtree(self._claim.directory / instance_id)

    def _finish(self, instance_id: str, cause: str) -> None:
        ec2 = self._cloud.ec2
        behaviour = ec2.instance(instance_id).instance_initiated_shutdown_behavior
        stops = cause == STOPPED or (cause == BY_GUEST and behaviour == "stop")
        if cause not in {TERMINATED, STOPPED}:
            ec2.mark(instance_id, "stopping" if stops else "shutting-down", cause)
        ec2.mark(instance_id, "stopped" if stops else "terminated", cause)

    # what its metadata says

    def _identity(self, instance_id: str) -> Identity:
        with self._cloud.ec2.lock:
            instance = self._cloud.ec2.instance(instance_id)
            profile = (instance.iam_instance_profile or {}).get("Arn")
            return Identity(
                instance_id=instance_id,
                image_id=instance.image_id,
                instance_type=instance.instance_type,
                account=self._cloud.account,
                region=instance.region_name,
                zone=str(instance.availability_zone),
                mac=instance.nics[0].mac_address,
                subnet_id=str(instance.subnet_id),
                vpc_id=str(instance.vpc_id),
                security_group_ids=tuple(group.id for group in instance.nics[0].group_set),
                local_ipv4=str(instance.private_ip),
                launch_index=instance.ami_launch_index,
                life_cycle=instance.lifecycle or "on-demand",
                profile_arn=profile,
                role=ROLE if profile else None,
                credentials=self._credentials[instance_id] if self.give_credentials else None,
                tags=_tags_in_metadata(instance),
                user_data=_user_data(instance),
                taken_at=self._taken_at.get(instance_id),
            )


def _crash(status: int) -> str:
    return f"guest crashed, status {status}"


def _new_credentials() -> Credentials:
    return Credentials(
        access_key_id=f"ASIA{secrets.token_hex(8).upper()}",
        secret_access_key=base64.b64encode(secrets.token_bytes(30)).decode(),
        token=base64.b64encode(secrets.token_bytes(300)).decode(),
    )


def _user_data(instance: Any) -> bytes | None:
    return base64.b64decode(str(instance.user_data)) if instance.user_data else None


def _tags_in_metadata(instance: Any) -> dict[str, str] | None:
    if instance.metadata_options.instance_metadata_tags != "enabled":
        return None
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}
