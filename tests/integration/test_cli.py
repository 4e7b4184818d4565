"""Does `celery flame` say what it should, and fail as a Unix user expects?"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_flame_ec2.config import read_settings
from celery_flame_ec2.lease import open_lease
from celery_flame_ec2.notes import Learned, Notes, Standing
from celery_flame_ec2.policy import Failures
from celery_flame_ec2.pool import _fingerprint
from tests.servers import free_port
from tests.slow_aws import SlowAws
from tests.waiting import wait_until
from tests.workers import ROOT, Deployment, error_lines, one_line_error

COMMANDS = ["serve", "child", "plan", "status", "doctor", "user-data", "reap", "release", "release build"]
EC2 = {
    "image_id": "ami-00000000",
    "subnet_id": "subnet-00000000",
    "security_group_id": "sg-00000000",
    "app": "proj",
    "instance_type": "t3.nano",
    "region": "eu-central-1",
    "s3_bundle_url": "s3://releases/proj.tar.gz",
    "allow_local_broker": True,
}


def pools(**options: Any) -> dict[str, Any]:
    return {"pool": {"queues": ["celery"], "max": 2, "max_concurrency": 1, **options}}


def ec2(*left_out: str, **options: Any) -> dict[str, Any]:
    chosen = {name: value for name, value in {**EC2, **options}.items() if name not in left_out}
    return {"flame_pools": pools(), "flame_backend": "ec2", "flame_ec2": chosen}


BAD = {
    "a misspelt option": (
        {"flame_pools": pools(idle_shutdown=3)},
        "'idle_shutdown'; did you mean 'idle_shutdown_after'",
    ),
    "an unknown setting": ({"flame_pools": pools(), "flame_intervall": 3}, "'intervall'; did you mean 'interval'"),
    "no pool": ({}, "flame_pools must be a dict with at least one pool"),
    "a queue in two pools": (
        {"flame_pools": {**pools(), "other": {"queues": ["celery"]}}},
        "pools 'pool', 'other': queue 'celery' is in 2 pools",
    ),
    "max below min": ({"flame_pools": pools(min=3)}, "pool 'pool': option 'max' must be at least 'min' (3), got 2"),
    "no idle time": ({"flame_pools": pools(idle_shutdown_after=0)}, "'idle_shutdown_after' must be a number above 0"),
    "no bundle": (ec2("s3_bundle_url"), "pool 'pool': option 's3_bundle_url' is required"),
    "image and template": (ec2(launch_template_id="lt-00000000"), "'image_id' and 'launch_template_id' are both given"),
    "a malformed S3 URL": (ec2(s3_bundle_url="s3:/releases/x"), "'s3_bundle_url' must be s3://bucket/key that ends in"),
    "a broker on localhost": (ec2("allow_local_broker"), "a runner could never reach the broker at redis://127.0.0.1"),
    "a policy that is not there": (
        {"flame_pools": pools(), "flame_policy": "no.such:thing"},
        "option 'policy' names 'no.such:thing', which cannot be loaded",
    ),
}


@pytest.fixture
def work(redis_url: str, tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path, redis_url, flame_pools=pools()) as deployment:
        yield deployment


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, work: Deployment) -> None:
    ended = work.run("flame", *command.split(), "--help")
    assert ended.returncode == 0
    assert ended.stdout.startswith("Usage: ")
    assert not ended.stderr


def test_flame_lists_its_commands(work: Deployment) -> None:
    ended = work.run("flame", "--help")
    assert ended.returncode == 0
    assert all(command.split()[0] in ended.stdout for command in COMMANDS)


@pytest.mark.parametrize("problem", BAD)
def test_settings_that_cannot_work_are_refused_in_a_line(problem: str, redis_url: str, tmp_path: Path) -> None:
    conf, expected = BAD[problem]
    with Deployment(tmp_path, redis_url, **conf) as work:
        assert expected in error_lines(work.run("flame", "plan"))[0]


@pytest.mark.parametrize("words", [("flame", "serve"), ("worker", "--autoscale=2,1"), ("flame", "plan")])
def test_all_problems_are_reported_at_once_and_nothing_is_launched(
    words: tuple[str, ...], redis_url: str, tmp_path: Path
) -> None:
    flame = pools(min=3, idle_shutdown_after=0, shiny=True)
    with Deployment(tmp_path, redis_url, flame_pools=flame) as work, work.watched() as watch:
        lines = error_lines(work.run(*words))
        assert all("pool 'pool': " in line for line in lines)
        assert [next(word for word in ("max", "idle_shutdown_after", "shiny") if f"'{word}'" in line) for line in lines]
        assert len(lines) == 3
    assert not watch.seen


def test_a_worker_with_a_letter_nobody_can_read_is_refused(work: Deployment) -> None:
    assert "FLAME_PARENT" in one_line_error(work.run("worker", "--autoscale=2,1", FLAME_PARENT="?"))


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:{}/0", "amqp://127.0.0.1:{}//"])
def test_a_broker_that_is_down_is_named(broker: str, tmp_path: Path) -> None:
    port = free_port()
    url = broker.format(port)
    with Deployment(tmp_path, url, flame_pools=pools()) as work:
        said = one_line_error(work.run("flame", "serve"))
        assert f"127.0.0.1:{port}" in said
        planned = work.run("flame", "plan", "--json")
    assert planned.returncode == 69
    (plan,) = json.loads(planned.stdout)["pools"].values()
    assert (plan["held"], plan["launch"]) == (True, 0)


def test_wrong_aws_keys_are_named(redis_url: str, tmp_path: Path) -> None:
    refused = (
        401,
        b"<Response><Errors><Error><Code>AuthFailure</Code><Message>no</Message></Error></Errors></Response>",
    )
    with SlowAws(answer=refused) as aws, Deployment(tmp_path, redis_url, **ec2(ec2_service_endpoint=aws.url)) as work:
        said = one_line_error(work.run("flame", "serve"))
    assert "AuthFailure" in said


@pytest.mark.parametrize("name", ["plain", "moduled", "namespaced"])
def test_settings_are_found_however_an_app_is_configured(name: str, redis_url: str, tmp_path: Path) -> None:
    app = f"tests.integration.apps.{name}:app"
    with Deployment(tmp_path, redis_url, app=app) as work:
        ended = work.run("flame", "status", "--json", WORK_BROKER=redis_url)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["owner"] == name
    assert told["pools"]["pool"]["max"] == 7


@pytest.mark.parametrize("name", ["moduled", "namespaced"])
def test_a_misspelt_setting_is_found_however_an_app_is_configured(name: str, redis_url: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    module = f"tests.integration.apps.{name}_settings"
    misspelt = {"moduled": "flame_polici", "namespaced": "CELERY_FLAME_POLICI"}[name]
    wrong.write_text(f"from {module} import *\n{misspelt} = {{}}\n")
    source = (ROOT / "tests" / "integration" / "apps" / f"{name}.py").read_text()
    (tmp_path / "app.py").write_text(source.replace(module, "wrong"))
    with Deployment(tmp_path, redis_url, app="app:app") as work:
        said = one_line_error(work.run("flame", "plan", WORK_BROKER=redis_url))
    assert "'polici'; did you mean 'policy'" in said


def test_plan_says_what_would_be_done_and_does_nothing(work: Deployment) -> None:
    for number in range(5):
        work.send("square", number)
    ended = work.run("flame", "plan", "--json")
    assert ended.returncode == 0
    told = json.loads(ended.stdout)
    assert told["pools"]["pool"]["launch"] == 2
    assert "5 waiting" in told["pools"]["pool"]["reason"]
    assert "--autoscale" in told["note"]
    text = work.run("flame", "plan").stdout
    assert "pool: launch 2" in text
    assert "5 waiting" in text
    assert "no autoscaling worker answered" in text
    assert not work.runners()


def test_plan_knows_a_parent_from_a_worker_that_is_none(work: Deployment) -> None:
    plain = work.worker(name="plain")  # with worker_autoscaler set and no --autoscale: Celery ignores it
    assert "no autoscaling worker answered" in work.run("flame", "plan").stdout
    plain.stop()
    work.worker("--autoscale=2,1")
    assert "no autoscaling worker answered" not in work.run("flame", "plan").stdout


def test_status_tells_why_launches_rest(redis_url: str, tmp_path: Path) -> None:
    broken = pools(env={"PYTHONHOME": "/nowhere"})
    with Deployment(tmp_path, redis_url, flame_pools=broken) as work:
        server = work.start("server", "flame", "serve")
        work.send("square", 2)
        server.says("ERROR.*launch failed", times=2)
        told = json.loads(work.run("flame", "status", "--json").stdout)["pools"]["pool"]
        assert told["breaker"]["failed"] >= 2
        assert "did not come up" in told["breaker"]["cause"]
        text = work.run("flame", "status").stdout
    assert re.search(r"breaker  OPEN: \d+ launches failed; the next .*; local-\w+ did not\s+come\s+up: ", text)


def test_plan_and_status_go_on_from_what_the_acting_parent_noted(redis_url: str, tmp_path: Path) -> None:
    learned = Learned(at=time.time(), runtime=2.5, boot=7.0, arriving=0.25)
    failures = Failures(count=3, at=time.time(), cause="no room", pause=3600.0)
    conf = {"flame_pools": pools(), "flame_owner": "noted", "flame_lease": redis_url}
    settings = read_settings(conf, app_name="p", broker_urls=(redis_url,), environ={})
    with Deployment(tmp_path, redis_url, **conf, flame_policy="tests.integration.apps.policies:telling") as work:
        lease = open_lease(work.client, settings)
        lease.renew()
        ours = _fingerprint(settings.pools[0])
        Notes(lease).keep(set(), {"pool": Standing(failures=failures, learned=learned, settings=ours)})
        work.send("square", 1)
        planned = json.loads(work.run("flame", "plan", "--json", WORK_LEARNED=str(tmp_path / "seen")).stdout)
        told = json.loads(work.run("flame", "status", "--json").stdout)["pools"]["pool"]
        text = work.run("flame", "status").stdout
    assert "after no room" in planned["pools"]["pool"]["reason"]
    seen = json.loads((tmp_path / "seen").read_text())
    assert (round(seen["runtime"], 1), seen["boot"]) == (2.6, 7.0)
    assert told["learned"].items() >= {"runtime": 2.5, "boot": 7.0, "arriving": 0.25}.items()
    assert "s ago: runtime 2.5 s, 0.25 tasks arrive a second, boots take 7 s" in text


def test_status_shows_queues_and_runners_and_reap_ends_them(work: Deployment, tmp_path: Path) -> None:
    released = tmp_path / "released"
    server = work.start("server", "flame", "serve")
    for number in range(4):
        work.send("hold", number, str(released))
    server.says(" is up, ", times=2)
    wait_until(lambda: len(work.noted("holding")) == 2, what="both runners at work")
    runners = work.has_runners(2)

    told = json.loads(work.run("flame", "status", "--json").stdout)["pools"]["pool"]
    assert {(runner["id"], runner["state"]) for runner in told["runners"]} == {(name, "up") for name in runners}
    assert (told["queues"][0]["name"], told["max"]) == ("celery", 2)
    text = work.run("flame", "status").stdout
    assert all(f"{name}  up" in text for name in runners)
    assert re.search(r"leader   .+, pid \d+\n", text)
    assert re.search(r"lease    held; \S+", text)
    assert re.search(r"decided  \S.* ago: ", text)

    server.signal(2)
    assert server.ends() == 0
    assert "stopping on SIGINT; runners go on" in server.output
    assert work.run("flame", "reap").returncode != 0  # nobody is there to be asked
    assert work.runners() == runners
    ended = work.run("flame", "reap", "--yes")
    assert ended.returncode == 0
    assert all(name in ended.stdout for name in runners)
    work.has_runners(0)
    assert "no runner" in work.run("flame", "reap", "--yes").stdout


def test_watch_draws_in_place_on_a_terminal_and_gives_it_back(work: Deployment) -> None:
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 60, 0, 0))
    command = [sys.executable, "-m", "celery", "-A", work.app, "flame", "status", "--watch", "0.5"]
    env = {**os.environ, **work.environ, "TERM": "xterm"}
    for size in ("LINES", "COLUMNS"):  # which whoever runs the tests may have set for a terminal of its own
        env.pop(size, None)
    with subprocess.Popen(command, cwd=work.directory, env=env, stdin=its, stdout=its, stderr=its) as watching:
        os.close(its)
        shown = ""

        def drew(text: str, times: int) -> bool:
            nonlocal shown
            shown += os.read(ours, 65536).decode()
            return shown.count(text) >= times

        wait_until(lambda: drew("leader", 3), what="three frames", timeout=60)
        watching.send_signal(signal.SIGINT)
        wait_until(lambda: drew("\x1b[?1049l", 1), what="the terminal given back", timeout=60)
    os.close(ours)
    assert watching.returncode == 0
    assert shown.startswith("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H")  # which cuts what is too long
    assert shown.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
    frame = re.sub(r"\x1b\[\d*[a-zA-Z]", "", shown.split("\x1b[H")[2]).splitlines()
    assert len(frame) == 5
    assert frame[4].endswith("more lines: `flame status` shows them all")
    assert max(map(len, frame)) <= 60
    assert "Traceback" not in shown


def test_watch_prints_line_by_line_where_there_is_no_terminal(work: Deployment) -> None:
    watching = work.start("watching", "flame", "status", "--json", "--watch", "0.5")
    watching.says(r'"owner"', times=2)
    watching.signal(signal.SIGINT)
    assert watching.ends() == 0
    first, second, *_ = (json.loads(line) for line in watching.output.splitlines())
    assert first["at"] < second["at"]
    assert first.keys() == second.keys()


def test_user_data_masks_secrets_unless_asked(redis_url: str, tmp_path: Path) -> None:
    with Deployment(tmp_path, redis_url, **ec2(env={"PASSWORD": "hunter2"})) as work:
        shown = work.run("flame", "user-data", "pool")
        bare = work.run("flame", "user-data", "pool", "--show-secrets")
        mime = work.run("flame", "user-data", "pool", "--mime")
        unknown = work.run("flame", "user-data", "pol")
    assert json.loads(shown.stdout)["env"] == {"PASSWORD": "***"}
    assert json.loads(bare.stdout)["env"] == {"PASSWORD": "hunter2"}
    assert mime.stdout.startswith("MIME-Version: 1.0")
    assert "hunter2" not in shown.stdout + shown.stderr + mime.stdout + mime.stderr
    assert "no flame pool 'pol'; did you mean 'pool'?" in one_line_error(unknown)


@pytest.mark.parametrize("words", [("--help",), ("plan",), ("user-data", "pool")])
def test_nothing_imports_boto3_that_does_not_ask_aws(words: tuple[str, ...], work: Deployment) -> None:
    spy = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted({'boto3', 'botocore'} & sys.modules.keys()), file=sys.stderr))\n"
        "from celery.__main__ import main\n"
        "sys.argv[0] = 'celery'\n"
        "main()\n"
    )
    command = [sys.executable, "-c", spy, "-A", work.app, "flame", *words]
    ended = subprocess.run(
        command, cwd=work.directory, env={**os.environ, **work.environ}, capture_output=True, text=True, check=False
    )
    assert ended.stderr.splitlines()[-1] == "[]"
