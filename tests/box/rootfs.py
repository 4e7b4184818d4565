"""What is on a guest's disk when it first boots?"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

logger = logging.getLogger(__name__)

#: program -> Debian package that brings it
PROGRAMS = {"debootstrap": "debootstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}

#: cloud-init as the image has it, less the modules for what a guest lacks: sshd, disks, a boot loader, vendors' agents
CLOUD_CONFIG = """\
datasource_list: [NoCloud]
network: {config: disabled}
preserve_hostname: true
manage_etc_hosts: false
cloud_init_modules: [migrator, seed_random, bootcmd, write-files, ca-certs, users-groups]
cloud_config_modules: [apt-pipelining, apt-configure, timezone, disable-ec2-metadata, runcmd]
cloud_final_modules:
 - package-update-upgrade-install
 - write-files-deferred
 - scripts-vendor
 - scripts-per-once
 - scripts-per-boot
 - scripts-per-instance
 - scripts-user
 - final-message
 - power-state-change
"""


class BoxUnusable(Exception):
    """Raised when this machine cannot run guests; says what is missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A small Debian with the cloud-init and the python3 of the release. Whatever changes here makes another disk."""

    suite: str = "bookworm"
    packages: tuple[str, ...] = (
        "ca-certificates",
        "cloud-init",
        "dbus",
        "iproute2",
        "libpam-systemd",
        "passwd",
        "procps",
        "python3",
        "python3-cffi-backend",  # debootstrap does not follow the virtual package that asks for it
        "systemd",
        "systemd-sysv",
        "zstd",
    )
    files: dict[str, str] = field(
        default_factory=lambda: {
            "etc/cloud/cloud.cfg.d/90_box.cfg": CLOUD_CONFIG,
            "etc/hostname": "localhost\n",
            "etc/machine-id": "",  # empty: each instance makes its own at its first boot
        }
    )
    #: what belongs to the machine that built the disk, or would give all guests the same identity
    removed: tuple[str, ...] = ("etc/resolv.conf", "var/lib/dbus/machine-id")
    #: units a guest is quicker without and nothing we test needs
    masked: tuple[str, ...] = (
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "cloud-init-hotplugd.socket",
        "console-getty.service",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
        "fstrim.timer",
        "getty@tty1.service",
        "systemd-update-utmp.service",
        "systemd-update-utmp-runlevel.service",
    )

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def cache_directory() -> Path:
    """Return where disks and the state of living boxes are kept: FLAME_BOX_CACHE, or below /var/cache."""
    return Path(os.environ.get("FLAME_BOX_CACHE", "/var/cache/celery-flame-ec2"))


def what_is_missing() -> str | None:
    """Return why this machine cannot run guests, with the remedy; None where it can."""
    if os.geteuid() != 0:
        return "guests are containers: that needs root"
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    return f"not installed: {' '.join(missing)} (apt-get install {' '.join(missing)})" if missing else None


def ensure(recipe: Recipe, cache: Path) -> Path:
    """Return the disk made by the recipe; build it first, about 100 s, where this machine has none yet.

    Raises:
        BoxUnusable: not root, a program is missing, or debootstrap failed.
    """
    if reason := what_is_missing():
        raise BoxUnusable(reason)
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"rootfs-{recipe.digest}"
    if not path.exists():
        with _one_builder(cache / f"rootfs-{recipe.digest}.lock"):
            if not path.exists():
                _build(recipe, path)
    return path


@contextlib.contextmanager
def _one_builder(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(recipe: Recipe, path: Path) -> None:
    for abandoned in path.parent.glob(f"{path.name}.building-*"):
        shutil.rmtree(abandoned)
    building = Path(tempfile.mkdtemp(prefix=f"{path.name}.building-", dir=path.parent))
    try:
        building.chmod(0o755)
        logger.warning("building the guests' disk in %s, once per machine: about 100 s", path)
        _debootstrap(recipe, building)
        _adapt(recipe, building)
        building.rename(path)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # gone already when all went well


def _debootstrap(recipe: Recipe, target: Path) -> None:
    # in a mount namespace of its own: debootstrap mounts /proc in the target, and we may have to delete that
    command = ["unshare", "--mount", "--", "debootstrap", "--variant=minbase"]
    command += [f"--include={','.join(recipe.packages)}", recipe.suite, str(target)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise BoxUnusable(f"debootstrap failed with status {done.returncode}:\n{last}")


def _adapt(recipe: Recipe, root: Path) -> None:
    for name, text in recipe.files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for unit in recipe.masked:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    for name in recipe.removed:
        (root / name).unlink(missing_ok=True)
