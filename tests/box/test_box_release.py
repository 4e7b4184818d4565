"""Is a release fetched as its manifest says, and does a machine that cannot run one say why, before anything runs?"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import Any

import pytest

from tests.box.bench import APP, STAY, Bench
from tests.box.box import Box
from tests.box.bundle import archive
from tests.box.test_box_boot import DUMP
from tests.waiting import wait_until

pytestmark = pytest.mark.box

#: An image with room for 20 MB of releases.
SMALL = {
    "etc/fstab": "tmpfs /srv tmpfs size=20m 0 0\n",
    "etc/systemd/system/cloud-init-local.service.d/disk.conf": "[Unit]\nRequiresMountsFor=/srv\n",
}
HERE = f"{os.uname().machine}-manylinux_2_28"


@pytest.fixture
def bench(open_box: Box) -> Bench:
    return Bench(box=open_box)


def manifest(files: dict[str, bytes] | None = None, **other: str) -> str:
    told: dict[str, Any] = {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "mode": "755" if path.startswith("bin/") else "644"}
        for path, content in (files or {}).items()
    }
    return json.dumps(
        {"name": APP, "celery_app": "proj.app", "python": "3.11.2", "platform": HERE, "files": told} | other
    )


def device() -> bytes:
    """Return an archive with /dev/null in it, as who is root could make one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("bin/null")
        entry.type, entry.devmajor, entry.devminor, entry.mode = tarfile.CHRTYPE, 1, 3, 0o666
        tar.addfile(entry)
    return buffer.getvalue()


def release(**other: str) -> bytes:
    return archive({f"bin/{APP}": STAY, "release.json": manifest(**other)})


#: bundle, whether the disk is small, and what the machine says of it
CASES: dict[str, tuple[bytes | dict[str, bytes], bool, str]] = {
    "another machine": (
        release(platform="riscv64-manylinux_2_28"),
        False,
        "release: the release is built for riscv64, and this machine has x86_64; see --platform",
    ),
    "another Python": (
        {"release.json": manifest(python="3.1.2").encode(), f"bin/{APP}": b""},
        False,
        "fetch: the release is built for Python 3.1, and this machine has 3.11.2; see --platform, --python",
    ),
    "a newer glibc": (
        release(platform=HERE.replace("2_28", "2_99")),
        False,
        "release: the release is built for manylinux_2_99, and this machine has glibc 2.36;",
    ),
    "a device": (device(), False, "release: null in the bundle is no plain file"),
    "a bundle larger than the disk": (
        archive({f"bin/{APP}": STAY}) + bytes(25_000_000),
        True,
        "fetch: the disk is too small; set a larger root_volume (OSError: No space left: it needs",
    ),
    "what is larger than the disk when it is unpacked": (
        archive({f"bin/{APP}": STAY, "lib/zeros": "\0" * 50_000_000}),
        True,
        "unpack: the disk is too small; set a larger root_volume (the bundle cannot be unpacked: tar: ",
    ),
    "a file that its manifest does not know so": (
        {"release.json": manifest({f"bin/{APP}": b"good"}).encode(), f"bin/{APP}": b"evil"},
        False,
        "fetch: wrong checksum of ",
    ),
}


def test_what_a_machine_cannot_run_is_refused_in_one_line_and_powers_off(bench: Bench) -> None:
    image = bench.box.bake(SMALL)
    booted = {case: bench.boot(bundle, image=image if small else None) for case, (bundle, small, _) in CASES.items()}
    told = {case: bench.failure(instance) for case, instance in booted.items()}
    assert [
        f"{case}: {told[case]}" for case, (*_, expected) in CASES.items() if not told[case].startswith(expected)
    ] == []


def test_a_prefix_is_run_as_its_manifest_says_with_secrets_that_are_asked_for_until_they_come(bench: Bench) -> None:
    box = bench.box
    box.client("ssm").put_parameter(Name="/shop/dsn", Value="planted-dsn", Type="SecureString")
    for name, value in (("shop/token", "planted-token"), ("shop/db", '{"password": "planted-password"}')):
        box.client("secretsmanager").create_secret(Name=name, SecretString=value)
    for action in ("GetParameters", "BatchGetSecretValue"):
        box.cloud.fail(action, code="ThrottlingException", times=2)
    files = {f"bin/{APP}": DUMP.encode(), "lib/tool": b"tool"}
    objects = {**files, "release.json": manifest(files).encode(), "lib/stranger": b"not in the manifest"}
    env = {
        "DSN": {"from_ssm": "/shop/dsn"},
        "TOKEN": {"from_secretsmanager": "shop/token"},
        "PASSWORD": {"from_secretsmanager": "shop/db#password"},
        "AWS_ENDPOINT_URL": box.endpoint,
    }
    instance = bench.boot(objects, env=env)
    box.wait_for_console(instance, "flame: release started")
    wait_until(lambda: box.run(instance, "test", "-e", "/run/flame-release/hello").returncode == 0, what="hello")
    found = json.loads(box.run(instance, "cat", "/var/lib/flame-release/found").stdout)
    listed = box.run(instance, "find", f"/srv/{APP}/release", "-type", "f", "-printf", "%P %m\n").stdout.split("\n")
    seen = box.run(instance, "sh", "-c", "journalctl; cat /run/flame/bootstrap.py /var/log/*").stdout
    box.cut_power(instance)
    assert [found[name] for name in ("DSN", "TOKEN", "PASSWORD")] == [
        "planted-dsn",
        "planted-token",
        "planted-password",
    ]
    assert [len(box.cloud.called(action)) for action in ("GetParameters", "BatchGetSecretValue")] == [3, 3]
    assert set(filter(None, listed)) == {f"bin/{APP} 755", "lib/tool 644", "release.json 644"}
    assert "DSN" in seen
    assert "planted" not in seen + box.instance(instance).console
