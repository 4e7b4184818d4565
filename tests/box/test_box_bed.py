"""Is the box what it claims to be: containers that live and end as instances?"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.box.box import Box, Ended
from tests.box.history import Transition
from tests.waiting import wait_until

POWER_OFF = b"#cloud-boothook\n#!/bin/sh\necho hello from the guest >/dev/console\nsystemctl --no-block poweroff\n"
STAY = b"#cloud-boothook\n#!/bin/sh\necho staying >/dev/console\n"

WHO = b"""#cloud-boothook
#!/usr/bin/python3
import json, urllib.request

BASE = "http://instance-metadata:%d/latest/"

def get(path, method="GET", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    with urllib.request.urlopen(urllib.request.Request(BASE + path, method=method, headers=headers)) as answer:
        return answer.read().decode()

token = get("api/token", "PUT", X_aws_ec2_metadata_token_ttl_seconds="60")
found = get("meta-data/instance-id", X_aws_ec2_metadata_token=token)
with open("/dev/console", "w") as console:
    print("I am", found, file=console)
"""


def of(box: Box, instance_id: str) -> list[tuple[str, str]]:
    return [(event.state, event.cause) for event in box.events if event.instance_id == instance_id]


def describe(box: Box, instance_id: str) -> dict[str, object]:
    answer = box.client("ec2").describe_instances(InstanceIds=[instance_id])
    found: dict[str, object] = answer["Reservations"][0]["Instances"][0]
    return found


def test_a_guest_that_powers_off_ends_its_instance(open_box: Box) -> None:
    instance_id = open_box.boot(POWER_OFF)
    open_box.wait_for(instance_id, "terminated")
    assert of(open_box, instance_id) == [
        ("pending", "launched"),
        ("running", "booted"),
        ("shutting-down", "guest powered off"),
        ("terminated", "guest powered off"),
    ]
    ended = describe(open_box, instance_id)
    assert ended["State"] == {"Code": 48, "Name": "terminated"}
    assert ended["StateReason"] == {
        "Code": "Client.InstanceInitiatedShutdown",
        "Message": "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
    }


def test_console_output_is_what_the_guest_wrote(open_box: Box) -> None:
    instance_id = open_box.boot(POWER_OFF)
    open_box.wait_for(instance_id, "terminated")
    output = open_box.client("ec2").get_console_output(InstanceId=instance_id)["Output"]
    text = output if "cloud-init" in output else base64.b64decode(output).decode()
    assert "\nhello from the guest\n" in text
    assert "\r" not in text
    assert open_box.directory is not None
    assert b"hello from the guest" in (open_box.directory / f"{instance_id}.console").read_bytes()


def test_terminating_an_instance_kills_its_container(open_box: Box) -> None:
    instance_id = open_box.boot(STAY)
    open_box.wait_for_console(instance_id, "staying")
    cgroup = open_box.machines.guest(instance_id).cgroup
    assert cgroup.populated
    open_box.client("ec2").terminate_instances(InstanceIds=[instance_id])
    open_box.wait_for(instance_id, "terminated")
    wait_until(lambda: not cgroup.path.exists(), what="the control group's removal")
    assert of(open_box, instance_id)[-2:] == [
        ("shutting-down", "terminated by API"),
        ("terminated", "terminated by API"),
    ]
    reason = describe(open_box, instance_id)["StateReason"]
    assert reason["Code"] == "Client.UserInitiatedShutdown"  # type: ignore[index]


def test_three_guests_with_the_same_user_data_learn_three_ids(open_box: Box) -> None:
    user_data = WHO % open_box.metadata.port
    launched = open_box.client("ec2").run_instances(
        ImageId=open_box.image_id, MinCount=1, MaxCount=3, SubnetId=open_box.subnet_id, UserData=user_data
    )
    ids = [instance["InstanceId"] for instance in launched["Instances"]]
    assert len(set(ids)) == 3
    for instance_id in ids:
        open_box.wait_for_console(instance_id, f"I am {instance_id}\n")
    assert open_box.peak >= 3
    open_box.client("ec2").terminate_instances(InstanceIds=ids)
    open_box.wait_until_empty()


def test_without_a_shutdown_behaviour_a_powered_off_instance_is_only_stopped(open_box: Box) -> None:
    launched = open_box.client("ec2").run_instances(
        ImageId=open_box.image_id, MinCount=1, MaxCount=1, UserData=POWER_OFF
    )
    instance_id = launched["Instances"][0]["InstanceId"]
    open_box.wait_for(instance_id, "stopped")
    assert describe(open_box, instance_id)["State"] == {"Code": 80, "Name": "stopped"}
    open_box.client("ec2").terminate_instances(InstanceIds=[instance_id])
    open_box.wait_for(instance_id, "terminated")


def test_power_cut_ends_a_guest_between_two_instructions(open_box: Box) -> None:
    instance_id = open_box.boot(STAY)
    open_box.wait_for_console(instance_id, "staying")
    open_box.cut_power(instance_id)
    assert open_box.wait_for(instance_id, "terminated").cause == "power cut"


def test_an_instance_terminated_before_it_booted_never_boots(open_box: Box) -> None:
    open_box.cloud.lose_answer("RunInstances")  # no part in this but to show that losing an answer is harmless here
    instance_id = open_box.boot(STAY, ClientToken="soon-gone")
    open_box.client("ec2").terminate_instances(InstanceIds=[instance_id])
    assert open_box.wait_for(instance_id, "terminated").cause == "terminated by API"
    assert [e.instance_id for e in open_box.events if e.cause == "launched"].count(instance_id) == 1


def test_systemd_and_cloud_init_of_a_guest_are_real_and_its_own(open_box: Box) -> None:
    ids = [open_box.boot(STAY) for _ in range(2)]
    for instance_id in ids:
        open_box.wait_for_console(instance_id, "finished at")
        status = open_box.run(instance_id, "cloud-init", "status", "--long")
        assert "status: done" in status.stdout
        assert open_box.run(instance_id, "systemctl", "--failed", "--quiet").stdout == ""
    machine_ids = {open_box.run(instance_id, "cat", "/etc/machine-id").stdout for instance_id in ids}
    assert len(machine_ids) == 2
    assert open_box.run(ids[0], "sh", "-c", "ps -e | grep -c systemd-journal").stdout == "1\n"
    open_box.client("ec2").terminate_instances(InstanceIds=ids)
    open_box.wait_until_empty()


def test_a_profile_gives_keys_and_the_switch_takes_them_away(open_box: Box) -> None:
    instance_id = open_box.boot(STAY)
    open_box.wait_for_console(instance_id, "staying")
    address = open_box.machines.guest(instance_id).machine.address
    url = f"http://{address}:{open_box.metadata.port}/latest"
    path = "meta-data/iam/security-credentials/"
    assert curl(url, path).splitlines() == ["200", open_box.instance_profile]
    open_box.give_credentials = False
    try:
        assert curl(url, path).splitlines()[0] == "404"
    finally:
        open_box.give_credentials = True
        open_box.client("ec2").terminate_instances(InstanceIds=[instance_id])


def test_on_the_host_the_same_url_tells_who_the_host_is(open_box: Box) -> None:
    script = (
        "import sys, urllib.request as u\n"
        "def ask(p, m='GET', **h): return u.urlopen(u.Request(p, method=m, headers=h)).read().decode()\n"
        "t = ask(sys.argv[2], 'PUT', **{'X-aws-ec2-metadata-token-ttl-seconds': '60'})\n"
        "h = {'X-aws-ec2-metadata-token': t}\n"
        "mac = ask(sys.argv[1] + 'mac', **h)\n"
        "print(ask(sys.argv[1] + f'network/interfaces/macs/{mac}/security-group-ids', **h))\n"
    )
    asked = [sys.executable, "-c", script, open_box.metadata_url, open_box.metadata_token_url]
    answer = subprocess.run(open_box.on_host(asked), capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == list(open_box.cloud.security_group_ids)


def curl(url: str, path: str) -> str:
    """Return status and body of a metadata request as a guest makes it."""
    asked = ["curl", "-s", "--noproxy", "*", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60"]
    token = subprocess.run([*asked, f"{url}/api/token"], capture_output=True, text=True, check=True).stdout
    asked = ["curl", "-s", "--noproxy", "*", "-w", "%{stderr}%{http_code}", "-H", f"X-aws-ec2-metadata-token: {token}"]
    answer = subprocess.run([*asked, f"{url}/{path}"], capture_output=True, text=True, check=True)
    return f"{answer.stderr}\n{answer.stdout}"


OPEN_AND_WAIT = """
import sys, time
from tests.box.box import Box
with Box() as box:
    instance_id = box.boot(b"#cloud-boothook\\n#!/bin/sh\\necho staying >/dev/console\\n")
    box.wait_for_console(instance_id, "staying")
    print(box.machines.guest(instance_id).cgroup.path, flush=True)
    time.sleep(600)
"""


def start_a_box() -> tuple[subprocess.Popen[str], Path]:
    """Return a process that has a box open with one guest up, and that guest's control group."""
    process = subprocess.Popen([sys.executable, "-c", OPEN_AND_WAIT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, "the box did not open"
    return process, Path(line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_box_told_to_end_leaves_nothing(able: None, number: signal.Signals) -> None:
    process, cgroup = start_a_box()
    process.send_signal(number)
    assert process.wait(30) != 0
    assert not cgroup.exists()
    assert not cgroup.parent.exists()


def test_what_a_killed_box_leaves_is_cleaned_up_by_the_next(able: None, tmp_path: Path) -> None:
    process, cgroup = start_a_box()
    process.kill()
    process.wait()
    assert "populated 1" in (cgroup / "cgroup.events").read_text(), "the guest went with the box, so nothing is shown"
    with Box(tmp_path) as box:
        assert cgroup.parent.name in box.removed
    assert not cgroup.parent.exists()


def test_a_box_does_not_touch_one_that_is_still_open(able: None, box: Box) -> None:
    instance_id = box.boot(STAY)
    box.wait_for_console(instance_id, "staying")
    with Box() as other:
        assert other.removed == []
    assert box.instance(instance_id).state == "running"
    assert box.run(instance_id, "true").returncode == 0


def test_sigterm_is_an_exception_inside_and_what_it_was_outside(able: None) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Ended), Box():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_transitions_and_lines_are_told_while_they_happen(able: None, tmp_path: Path) -> None:
    told: list[Transition] = []
    lines: list[str] = []
    with Box(tmp_path, on_transition=told.append, on_line=lambda instance_id, line: lines.append(line)) as box:
        instance_id = box.boot(POWER_OFF)
        box.wait_for(instance_id, "terminated")
        assert told == box.events
        assert "hello from the guest" in lines
