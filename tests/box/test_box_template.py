"""Does a launch template's own user data prepare the host before the release starts, and can nothing of it leak one?"""

from __future__ import annotations

import email.message
import functools
import gzip
import random
import threading
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from celery_flame_ec2 import boot, userdata
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits
from tests.box.box import Box
from tests.box.bundle import archive
from tests.box.ec2 import BY_GUEST

pytestmark = pytest.mark.box

APP = "proj"
GONE = 15.0  #: seconds from a failure to the end of the instance
#: A release that cannot start without what the template prepares.
NEEDY = '#!/bin/sh\nset -e\nsaid=$(cat /etc/prepared)\necho "found: $said"\ntouch "$FLAME_HELLO_FILE"\nexec sleep 600\n'

SCRIPT = "#!/bin/sh\nsleep 2\nprintf 'prepared by a script: %s\\n' 'grüße, $HOME \\ \"quoted\"' >/etc/prepared\n"
CONFIG = "#cloud-config\nwrite_files:\n- path: /etc/prepared\n  content: prepared by cloud-config\n"
RUNCMD = "#cloud-config\nruncmd:\n- [sh, -c, 'sleep 2; echo prepared by runcmd >/etc/prepared']\n"
BOOTHOOK = "#cloud-boothook\n#!/bin/sh\necho prepared by a boothook >/etc/prepared\n"
JINJA = "## template: jinja\n#cloud-config\nbootcmd:\n- echo prepared by {{ v1.cloud_name }} >/etc/prepared\n"


def multipart() -> bytes:
    message: email.message.Message = MIMEMultipart()
    message.attach(MIMEText(CONFIG.replace("/etc/prepared", "/etc/first"), "cloud-config"))  # type: ignore[attr-defined]
    message.attach(MIMEText("#!/bin/sh\nmv /etc/first /etc/prepared\n", "x-shellscript"))  # type: ignore[attr-defined]
    return message.as_bytes()


def launch(box: Box, theirs: bytes, *, limits: Limits | None = None, release: str = NEEDY) -> str:
    """Boot as a pool with a template does: what EC2 keeps in base64 is read, checked and sent beside ours."""
    key = f"{random.randbytes(8).hex()}.tar.gz"
    box.client("s3").put_object(Bucket=box.cloud.bucket, Key=key, Body=archive({f"bin/{APP}": release}))
    options = Ec2Options(
        app=APP,
        s3_bundle_url=f"s3://{box.cloud.bucket}/{key}",
        s3_service_endpoint=box.endpoint,
        instance_metadata_url=box.metadata_url,
        instance_metadata_token_url=box.metadata_token_url,
    )
    letter = Parent(owner="test", pool="p", backend="ec2", queues=("q",), concurrency=1, limits=limits or Limits())
    return box.boot(boot.user_data(boot.document(letter, options), userdata.part(theirs)))


def failure(box: Box, instance: str, *, timeout: float = 60.0) -> str:
    """Return what a boot failed of, once the instance has powered itself off."""
    box.wait_for_console(instance, boot.FAILURE_PREFIX, timeout)
    assert box.wait_for(instance, "terminated", GONE).cause == BY_GUEST
    console = box.instance(instance).console
    assert console.count(boot.FAILURE_PREFIX) == 1
    return boot.failure(console) or ""


PREPARING: dict[str, tuple[bytes, str]] = {
    "a script": (SCRIPT.encode(), 'prepared by a script: grüße, $HOME \\ "quoted"'),
    "write_files": (CONFIG.encode(), "prepared by cloud-config"),
    "runcmd": (RUNCMD.encode(), "prepared by runcmd"),
    "a boothook": (BOOTHOOK.encode(), "prepared by a boothook"),
    "a multipart, packed": (gzip.compress(multipart()), "prepared by cloud-config"),
    "a jinja template": (JINJA.encode(), "prepared by "),
    "Windows line ends": (CONFIG.replace("\n", "\r\n").encode(), "prepared by cloud-config"),
}


@pytest.mark.parametrize("kind", PREPARING)
def test_the_release_starts_on_a_host_that_the_template_has_prepared(kind: str, open_box: Box) -> None:
    theirs, said = PREPARING[kind]
    instance = launch(open_box, theirs)
    console = open_box.wait_for_console(instance, "found: ")
    open_box.cut_power(instance)
    assert f"found: {said}" in console


def test_what_a_template_includes_by_its_url_prepares_the_host(open_box: Box, tmp_path: Path) -> None:
    (tmp_path / "prepare").write_text("#!/bin/sh\necho prepared from afar >/etc/prepared\n")
    serve = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        instance = launch(open_box, f"#include http://127.0.0.1:{server.server_port}/prepare\n".encode())
        open_box.wait_for_console(instance, "found: prepared from afar")
        server.shutdown()
    open_box.cut_power(instance)


def test_a_failing_script_ends_the_instance_and_is_named(open_box: Box) -> None:
    said = failure(open_box, launch(open_box, b"#!/bin/sh\necho prepared >/etc/prepared\nexit 7\n"))
    assert said.startswith("template: the launch template's user data failed: ")
    assert userdata.NAME in said


def test_a_hanging_script_ends_the_instance_at_boot_timeout(open_box: Box) -> None:
    theirs = b"#!/bin/sh\nwhile :; do sleep 1; done\n"
    said = failure(open_box, launch(open_box, theirs, limits=Limits(boot_timeout=15)))
    assert said == "template: no hello from the worker within boot_timeout"


def test_a_hanging_boothook_ends_the_instance_at_boot_timeout(open_box: Box) -> None:
    theirs = b"#cloud-boothook\n#!/bin/sh\nexec sleep 3600\n"
    said = failure(open_box, launch(open_box, theirs, limits=Limits(boot_timeout=15)))
    assert said == "template: no hello from the worker within boot_timeout"


@pytest.mark.parametrize("signal", ["TERM", "KILL"])
def test_cloud_init_that_is_ended_in_the_midst_ends_the_instance(signal: str, open_box: Box) -> None:
    theirs = f"#!/bin/sh\nsystemctl kill --signal={signal} --kill-who=main cloud-final.service\nsleep 5\n"
    said = failure(open_box, launch(open_box, theirs.encode()))
    assert said.startswith("template: ")


def test_a_script_that_powers_off_terminates_the_instance(open_box: Box) -> None:
    instance = launch(open_box, b"#!/bin/sh\nsystemctl poweroff\n")
    assert open_box.wait_for(instance, "terminated", 60).cause == BY_GUEST


def test_systemd_that_is_replaced_on_the_way_loses_nothing(open_box: Box) -> None:
    theirs = b"#!/bin/sh\nsystemctl daemon-reexec\nsystemctl daemon-reload\necho prepared by a script >/etc/prepared\n"
    instance = launch(open_box, theirs)
    open_box.wait_for_console(instance, "found: prepared by a script")
    timers = open_box.run(instance, "systemctl", "is-active", "flame-hello.timer", "flame-age.timer").stdout
    open_box.cut_power(instance)
    assert timers.split() == ["active", "active"]
