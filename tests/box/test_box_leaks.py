"""Is a secret found anywhere but where it must be: on a runner, in what it says, in what its parent writes?"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.box import leaks
from tests.box.box import Box
from tests.box.burst import CELERY, Burst
from tests.box.leaks import Needle
from tests.servers import RedisServer

pytestmark = pytest.mark.box

PATIENCE = 120.0
#: Where each secret is given: by reference, or plainly.
NEEDLES = {"ssm": Needle(), "secretsmanager": Needle(), "plain": Needle()}
REFERENCES = ("ssm", "secretsmanager")
ENV = "/run/flame/env"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A burst on one runner that is still up, and one on a runner that could not boot."""

    burst: Burst
    box: Box
    up: str
    texts: dict[str, str]


@pytest.fixture(scope="module")
def finished(open_box: Box, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    directory = tmp_path_factory.mktemp("leaks")
    open_box.client("ssm").put_parameter(Name="/proj/a", Value=NEEDLES["ssm"].text, Type="SecureString")
    open_box.client("secretsmanager").create_secret(Name="proj/b", SecretString=NEEDLES["secretsmanager"].text)
    open_box.client("ssm").put_parameter(Name="/proj/bad", Value=f"{NEEDLES['ssm'].text}\0", Type="SecureString")
    url = open_box.upload(release, "leaks.tar.gz")
    pool = {"max": 1, "idle_shutdown_after": 3600}
    with (
        RedisServer() as redis,
        Burst(open_box, directory, broker=redis.url, results=redis.url, bundle_url=url, pool=pool) as burst,
    ):
        env = json.loads(burst.environ["FLAME_EC2"])["env"] | {
            "AWS_ENDPOINT_URL": open_box.endpoint, "PLAIN": NEEDLES["plain"].text,
            "BY_SSM": {"from_ssm": "/proj/a"}, "BY_SECRET": {"from_secretsmanager": "proj/b"},
        }  # fmt: skip
        pools = json.loads(burst.environ["FLAME_POOLS"])
        pools["burst"]["env"] = env
        pools["broken"] = {"queues": ["broken"], "max": 1, "env": env | {"BAD": {"from_ssm": "/proj/bad"}}}
        burst.environ["FLAME_POOLS"] = json.dumps(pools)
        parent = burst.parent("flame", "serve", level="DEBUG")
        done = burst.flood(3, 0.1)
        burst.client.send_task("proj.tasks.nap", (0.1,), queue="broken")
        parent.says(r"pool broken: launch failed: i-\w+ did not come up: environment: the value of BAD has a character")
        assert {result.get(timeout=PATIENCE)["pool"] for result in done} == {"burst"}
        (up,) = parent.says(r"pool burst: (i-\w+) is up", timeout=PATIENCE)
        texts = {"parent's log": parent.output, **said(burst), **asked(open_box)}
        texts |= {f"console of {each.instance_id}": each.console for each in open_box.instances()}
        yield Finished(burst=burst, box=open_box, up=up, texts=texts)


def said(burst: Burst) -> dict[str, str]:
    """Return what commands print that show how things stand."""
    commands = (["status"], ["status", "--json"], ["plan"], ["user-data", "burst"], ["user-data", "burst", "--mime"])
    texts = {}
    for words in (*commands, ["doctor"], ["iam-policy"]):
        done = subprocess.run(
            [*CELERY, "flame", *words],
            env=burst.environ,
            cwd=burst.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        texts[f"flame {' '.join(words)}"] = done.stdout + done.stderr
    return texts


def asked(box: Box) -> dict[str, str]:
    """Return what was asked of EC2, and what it keeps: user data unpacked by whoever searches it."""
    texts = {"requests to EC2": "\n".join(str(dict(call.params)) for call in box.cloud.calls if call.service == "ec2")}
    texts |= {f"tags of {each.instance_id}": str(each.tags) for each in box.instances()}
    return texts


def test_secrets_given_by_reference_are_in_nothing_that_is_sent_logged_or_printed(finished: Finished) -> None:
    assert len(finished.texts) >= 10
    assert [place for place, text in finished.texts.items() if len(text) < 20] == []
    references = {name: NEEDLES[name] for name in REFERENCES}
    assert leaks.found_in(finished.texts, references) == set()


def test_a_plain_value_is_in_the_user_data_as_documented_and_in_no_log(finished: Finished) -> None:
    assert leaks.found_in(finished.texts, {"plain": NEEDLES["plain"]}) == {("plain", "requests to EC2")}


@pytest.mark.parametrize("name", NEEDLES)
def test_no_other_user_of_the_instance_and_no_journal_sees_a_secret(name: str, finished: Finished) -> None:
    assert leaks.on_instance(finished.box, finished.up, NEEDLES[name]) == set()


@pytest.mark.parametrize("name", REFERENCES)
def test_a_secret_given_by_reference_is_in_one_file_for_root_and_in_the_workers_environment(
    name: str, finished: Finished
) -> None:
    assert leaks.files(finished.box, finished.up, NEEDLES[name]) == {ENV: "600 root"}
    own = f"/proc/{main_process(finished)}/environ"
    assert NEEDLES[name].text in finished.box.run(finished.up, "cat", own).stdout


def main_process(finished: Finished) -> int:
    shown = ("systemctl", "show", "--property=MainPID", "--value", "flame-release.service")
    return int(finished.box.run(finished.up, *shown).stdout)


PLANTED = {
    "journal": "logger $secret",
    "command lines": "systemd-run --quiet sh -c 'sleep 600; : '$secret",
    "environments others may read": "systemd-run --quiet --uid=nobody --setenv=X=$secret sleep 600",
    "units": "systemd-run --quiet --setenv=X=$secret sleep 600",
    "files others may read": "echo $secret >/srv/left; chmod 644 /srv/left",
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_leak_that_is_planted_is_found(place: str, finished: Finished) -> None:
    planted = Needle()
    finished.box.run(finished.up, "sh", "-c", f"secret={planted.text}; {PLANTED[place]}")
    assert place in leaks.on_instance(finished.box, finished.up, planted)


def test_a_leak_in_what_is_written_is_found_plain_encoded_and_packed() -> None:
    planted = Needle()
    encoded = (base64.b64encode(b"y" * before + f"{planted.text} after".encode()).decode() for before in range(4))
    packed = base64.b64encode(gzip.compress(f"random {random.randbytes(50).hex()} {planted.text}".encode())).decode()
    for text in (planted.text, *encoded, packed):
        assert leaks.found_in({"x": f"a {text} b"}, {"p": planted}) == {("p", "x")}
    assert leaks.found_in({"x": Needle().text}, {"p": planted}) == set()
