"""Does an instance boot, and where it cannot, does it say why and end itself?"""

from __future__ import annotations

import base64
import io
import json
import random
import tarfile
from typing import Any

import pytest

from celery_flame_ec2 import boot
from celery_flame_ec2.backends.ec2 import Ec2Backend
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits
from celery_flame_ec2.templates import bootstrap
from tests.box.bench import APP, HELLO, MUTE, STAY, Bench
from tests.box.box import Box
from tests.box.bundle import archive
from tests.box.ec2 import BY_GUEST
from tests.environments import by_chance
from tests.waiting import wait_until

pytestmark = pytest.mark.box

DUMP = """\
#!/usr/bin/python3
import json, os, pathlib, time
found = {os.fsdecode(name): value.decode("latin-1") for name, value in os.environb.items()}
pathlib.Path(os.environ["STATE_DIRECTORY"], "found").write_text(json.dumps(found))
pathlib.Path(os.environ["FLAME_HELLO_FILE"]).touch()
time.sleep(600)
"""

HOSTILE = {
    "QUOTES": """it's "quoted" and 'quoted' and \\"escaped\\" """,
    "COMMAND": "$(poweroff) `poweroff` ; poweroff & poweroff | poweroff",
    "EXPANSION": "$HOME ${HOME} $$ $? !! ~ * ? [a] {a,b}",
    "LINES": "first\nEOF\nUNIT\nREPORT\n\nsecond\\\nthird\n",
    "CARRIAGE": "a\r\nb\rc",
    "PERCENT": "%n %i %h %% 100%",
    "BACKSLASH": "\\ \\\\ \\n \\x41 \\$ \\` C:\\dir\\",
    "SPACES": "  both ends \t ",
    "EMPTY": "",
    "COMMENT": "# no comment ; nor this",
    "BOUNDARY": "\n--==flame==--\nContent-Type: text/x-shellscript\n\n#!/bin/sh\npoweroff\n",
    "JINJA": "## template: jinja\n{{ ds.meta_data }} {% raw %} ${{ a }}",
    "LITERAL": '\'\'\'"""\\\' DOCUMENT = "{}" {0} {app} {env}',
    "UNICODE": "grüße, мир, 世界, 🔥, \ufeff \u2028 \u00a0",
    "CONTROL": "".join(map(chr, [*range(1, 32), 127])),
    "LONG": "".join(random.Random(1).choices("$`\"'\\\n%()EOF ", k=6144)),
    "lower_case": "x",
}


@pytest.fixture
def bench(open_box: Box) -> Bench:
    return Bench(box=open_box)


#: Writes down what systemd gives a program of an environment file.
READER = """\
[Service]
Type=oneshot
EnvironmentFile=/srv/proj/release/env/%i
ExecStart=/usr/bin/env -0
StandardOutput=file:/run/read-%i
"""


def test_every_value_of_env_reaches_the_release_byte_for_byte(bench: Bench) -> None:
    chosen = by_chance(seed=6, count=200)
    files = {f"env/{n}": bootstrap.environment_file(env).decode() for n, env in enumerate(chosen)}
    instance = bench.boot(archive({f"bin/{APP}": DUMP, **files}), env=HOSTILE)
    bench.box.wait_for_console(instance, "flame: release started")
    path = "/var/lib/flame-release/found"
    wait_until(lambda: bench.box.run(instance, "test", "-e", "/run/flame-release/hello").returncode == 0, what="hello")
    found = json.loads(bench.box.run(instance, "cat", path).stdout)
    read = (
        "cat >/run/systemd/system/read@.service && systemctl daemon-reload && systemctl start $(seq -f read@%g 0 199)"
    )
    bench.box.run(instance, "sh", "-c", f"printf %s '{READER}' | ({read}); cd /run && tar cf /tmp/read.tar read-*")
    packed = base64.b64decode(bench.box.run(instance, "base64", "/tmp/read.tar").stdout)
    bench.box.cut_power(instance)
    assert {name: found.get(name) for name in HOSTILE} == {
        name: value.encode().decode("latin-1") for name, value in HOSTILE.items()
    }
    assert [env for n, env in enumerate(chosen) if not env.items() <= read_by(packed, n).items()] == []
    assert found["FLAME_RUNNER_ID"] == instance
    assert Parent.decode(found["FLAME_PARENT"]).pool == "p"


def read_by(packed: bytes, number: int) -> dict[str, str]:
    """Return the environment of the program with this number."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        member = tar.extractfile(f"read-{number}")
        assert member is not None
        pairs = member.read().decode().split("\0")[:-1]
    return dict(tuple(pair.split("=", 1)) for pair in pairs)  # type: ignore[misc]


def test_a_release_that_ends_after_its_hello_ends_the_instance_without_a_failure(bench: Bench) -> None:
    instance = bench.boot(archive({f"bin/{APP}": HELLO}))
    assert bench.box.wait_for(instance, "terminated").cause == BY_GUEST
    console = bench.box.instance(instance).console
    assert boot.failure(console) is None
    assert "flame: ended (exited 0)" in console


def test_the_release_runs_as_its_own_user_and_reads_no_secret_file(bench: Bench) -> None:
    script = f"{HELLO}id --user --name\ncat /run/flame/env || echo refused\nexec sleep 600\n"
    instance = bench.boot(archive({f"bin/{APP}": script}), user="somebody", env={"SECRET": "hidden-value"})
    console = bench.box.wait_for_console(instance, "refused")
    modes = bench.box.run(instance, "stat", "--format=%a %U", "/run/flame", "/run/flame/env").stdout
    bench.box.cut_power(instance)
    assert "somebody" in console
    assert "hidden-value" not in console
    assert modes.splitlines() == ["700 root", "600 root"]


def test_systemd_understands_the_units_and_rates_the_release_as_safe(bench: Bench) -> None:
    instance = bench.boot(archive({f"bin/{APP}": STAY}))
    bench.box.wait_for_console(instance, "flame: release started")
    timers, services = ("deadman", "hello", "age"), ("release", "bootstrap", "unstarted", "deadman", "lifetime", "off")
    units = [*(f"flame-{name}.timer" for name in timers), *(f"flame-{name}.service" for name in services)]
    said = bench.box.run(instance, "systemd-analyze", "verify", *units).stderr
    secure = bench.box.run(instance, "systemd-analyze", "security", "--threshold=20", "flame-release.service")
    bench.box.cut_power(instance)
    assert secure.returncode == 0, secure.stdout[-100:]
    assert [line for line in said.splitlines() if "flame" in line] == []


CASES: dict[str, tuple[bytes | None, dict[str, Any], str]] = {
    "no such bundle": (None, {}, "fetch: no such bundle s3://"),
    "a corrupt bundle": (
        b"no archive " * 1000,
        {},
        "unpack: the bundle cannot be unpacked: it is damaged, or not in gzip",
    ),
    "a wrong checksum": (
        archive({f"bin/{APP}": STAY}),
        {"s3_bundle_sha256": "0" * 64},
        "fetch: wrong checksum of ",
    ),
    "a bundle without the program": (archive({"bin/other": STAY}), {}, f"release: the bundle has no bin/{APP}"),
    "a program nobody may run": (archive({f"bin/{APP}": STAY}, 0o600), {}, f"release: bin/{APP} is not executable"),
    "a start command that exits at once": (
        archive({f"bin/{APP}": "#!/bin/sh\necho ImportError: no module named proj >&2\nexit 3\n"}),
        {},
        "start: the start command ended (exited 3): ImportError: no module named proj",
    ),
    "a start command that cannot be run": (
        archive({f"bin/{APP}": "#!/no/such/interpreter\n"}),
        {},
        "start: the start command ended (exited 203): ",
    ),
    "a secret that does not exist": (
        archive({f"bin/{APP}": STAY}),
        {"env": {"SECRET": {"from_ssm": "/no/such"}}},
        "environment: SECRET (/no/such): no such SSM parameter",
    ),
    "a worker that never says hello": (
        archive({f"bin/{APP}": MUTE}),
        {"limits": Limits(boot_timeout=10)},
        "start: no hello from the worker within boot_timeout",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_boot_that_fails_names_step_and_cause_and_powers_off(case: str, bench: Bench) -> None:
    bundle, options, expected = CASES[case]
    if "env" in options:
        options = {**options, "env": {**options["env"], "AWS_ENDPOINT_URL": bench.box.endpoint}}
    assert bench.failure(bench.boot(bundle, **options)).startswith(expected)


def test_an_instance_without_credentials_names_the_remedy_and_powers_off(bench: Bench) -> None:
    bench.box.give_credentials = False
    try:
        failure = bench.failure(bench.boot(archive({f"bin/{APP}": STAY})))
    finally:
        bench.box.give_credentials = True
    assert failure == "credentials: the instance has no role; set iam_instance_profile"


@pytest.mark.parametrize(
    ("signal", "expected"),
    [("KILL", "the bootstrap ended (killed KILL)"), ("STOP", "no hello from the worker within boot_timeout")],
)
def test_a_bootstrap_that_is_killed_or_hangs_powers_off(signal: str, expected: str, bench: Bench) -> None:
    env = {"SECRET": {"from_ssm": "/slow"}, "AWS_ENDPOINT_URL": bench.box.endpoint}
    bench.box.cloud.delay("GetParameters", 30, times=1)
    instance = bench.boot(archive({f"bin/{APP}": STAY}), env=env, limits=Limits(boot_timeout=15))
    bench.box.wait_for_console(instance, "flame: fetched and unpacked")
    bench.box.run(instance, "systemctl", "kill", f"--signal={signal}", "--kill-who=main", "flame-bootstrap.service")
    failure = bench.failure(instance)
    bench.box.cloud.heal()
    assert failure.endswith(expected)


def test_a_second_boot_powers_off(bench: Bench) -> None:
    instance = bench.boot(archive({f"bin/{APP}": MUTE}))
    bench.box.wait_for_console(instance, "flame: release started")
    bench.box.run(instance, "/var/lib/cloud/instance/boothooks/boothook.sh")
    assert bench.failure(instance).endswith("this instance was booted before, and a runner runs once")


def test_a_parent_keeps_to_the_release_it_pinned_while_that_of_a_new_deploy_launches_the_new_one(bench: Bench) -> None:
    box, key = bench.box, "pinned.tar.gz"
    s3, bucket = box.client("s3"), box.cloud.bucket
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    def deployed(release: str) -> tuple[str, Ec2Backend]:
        script = f"{HELLO}echo this is the {release} release\nexec sleep 600\n"
        put = s3.put_object(Bucket=bucket, Key=key, Body=archive({f"bin/{APP}": script}))
        backend = Ec2Backend(bench.settings(key), environ=box.environment())
        backend.prepare()
        return put["VersionId"], backend

    parents = {release: deployed(release) for release in ("older", "newer")}
    runners = {release: backend.launch(bench.letter(), 1)[0].id for release, (_, backend) in parents.items()}
    for release, instance in runners.items():
        box.wait_for_console(instance, f"this is the {release} release")
    listed = {runner.id: runner.release for runner in parents["newer"][1].runners()}
    for instance in runners.values():
        box.cut_power(instance)
    for release, instance in runners.items():
        assert listed[instance] == f"s3://{bucket}/{key}?versionId={parents[release][0]}"
