"""How soon after its user data starts does a machine start its worker? Three ways to fetch the same bundle, in the box.

    make bench-boot [JSON=figures.json]         or: python -m benchmarks.boot [--rounds 5] [--json figures.json]

Root and some minutes. In every round each way boots a machine of its own, one after the other:

* ours: the user data of a launch
* FlameEC2's: what its start script does, with the AWS CLI that it would install there already
* the limit: `curl | tar x` of a URL signed before, then the program itself: no unit, no environment, no checksum

One S3 (moto, on this machine's own cores) serves all three. The guests' clock, which tells the moments, is the host's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from celery_flame_ec2 import boot
from celery_flame_ec2.config import Ec2Options
from celery_flame_ec2.parent import Parent
from tests.box.box import Box
from tests.box.burst import PROJECT, ROOT, build_release
from tests.box.rootfs import Recipe
from tests.servers import RedisServer
from tests.waiting import wait_until

APP = "proj"
OURS, THEIRS, LIMIT = "ours", "FlameEC2's", "curl | tar x"
#: Whom we are held against, and the largest ratio that is wanted.
AIMS = {LIMIT: 1.15, THEIRS: 1.0}
#: Wheels that make a small application as large as many are.
PADDING = ("boto3", "cryptography", "numpy", "pandas")
DONE = "bench: done"
PATIENCE = 120.0
#: Lets the AWS CLI ask once for all of an object: this S3 reads it anew for each part, and would make it slower.
WHOLE = {"root/.aws/config": "[default]\ns3 =\n  multipart_threshold = 1GB\n"}
#: Where a guest leaves a moment, by a clock that is the host's.
BEGAN, STARTED = "/run/bench-began", "/run/bench-started"

#: What FlameEC2's script does when its packages are there (probably-not/flame-ec2, templates/start.sh.eex).
SCRIPT = """\
#!/bin/sh
date +%s.%N >{BEGAN}
set -e
export HOME=/root AWS_EC2_METADATA_SERVICE_ENDPOINT={metadata}/
aws configure set default.region {region}
mkdir -p /srv/{APP}
cd /srv/{APP}
aws --endpoint-url {endpoint} s3 cp {nested} ./release.tar.gz
tar xzf release.tar.gz
rm release.tar.gz
test -d release
test -x release/bin/{APP}
touch env
cat >/etc/systemd/system/{APP}.service <<'UNIT'
[Unit]
Description=worker
After=network.target
[Service]
EnvironmentFile=/srv/{APP}/env
WorkingDirectory=/srv/{APP}/release
ExecStart=/srv/{APP}/release/bin/{APP} start
[Install]
WantedBy=multi-user.target
UNIT
chmod 755 /srv/{APP}
systemctl daemon-reload
systemctl enable {APP}
systemctl start {APP}
systemctl is-active --quiet {APP} || true
echo '{DONE}' >/dev/console
"""

LEAST = """\
#!/bin/sh
date +%s.%N >{BEGAN}
mkdir -p /srv/{APP}
curl --silent --fail '{signed}' | tar --extract --gzip --directory /srv/{APP}
date +%s.%N >{STARTED}
/srv/{APP}/bin/{APP} start &
echo '{DONE}' >/dev/console
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One boot: seconds from the start of user data, and from power-on, to the worker's process; the phases of ours."""

    way: str
    seconds: float
    whole: float
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bed:
    """A box, the bundle in its S3 (`nested` below release/, as FlameEC2 wants it), and a broker."""

    box: Box
    bundle: str
    nested: str
    broker: str
    image: str

    def ours(self) -> Figures:
        data = gzip.decompress(boot.user_data(self._document())).decode()
        noted = data.replace("#!/bin/sh\n", f"#!/bin/sh\ndate +%s.%N >{BEGAN}\n", 1)
        with self._booted(gzip.compress(noted.encode()), "flame: release started") as instance:
            said = lambda: self._run(instance, "stat", "--format=%.9Y", "/run/flame-release/hello")  # noqa: E731
            hello = float(wait_until(said, what="hello", timeout=PATIENCE))
            journal = self._run(instance, "journalctl", "--output=json", "--unit=flame-bootstrap")
            lines = [json.loads(line) for line in journal.splitlines()]
            told = {line["MESSAGE"]: int(line["__REALTIME_TIMESTAMP"]) / 1e6 for line in lines}
            moments = {
                "boothook": next(at for text, at in told.items() if text.startswith("Starting flame-bootstrap")),
                "python, metadata": next(at for text, at in told.items() if "metadata read" in text),
                "fetch, unpack": next(at for text, at in told.items() if "unpacked" in text),
                "start": self._began(instance, "flame-release"),
                "worker": hello,
            }
            return self._figures(OURS, instance, moments["start"], moments)

    def theirs(self) -> Figures:
        metadata = self.box.metadata_url.partition("/latest")[0]
        script = SCRIPT.format(
            **globals(), metadata=metadata, region=self.box.region, endpoint=self.box.endpoint, nested=self.nested
        )
        with self._booted(script.encode(), DONE) as instance:
            return self._figures(THEIRS, instance, self._began(instance, APP))

    def least(self) -> Figures:
        key = self.bundle.removeprefix(f"s3://{self.box.cloud.bucket}/")
        place = {"Bucket": self.box.cloud.bucket, "Key": key}
        script = LEAST.format(**globals(), signed=self.box.client("s3").generate_presigned_url("get_object", place))
        with self._booted(script.encode(), DONE) as instance:
            return self._figures(LIMIT, instance, float(self._run(instance, "cat", STARTED)))

    def _document(self) -> dict[str, Any]:
        own = Ec2Options(
            app=APP, s3_bundle_url=self.bundle, s3_service_endpoint=self.box.endpoint,
            instance_metadata_url=self.box.metadata_url, instance_metadata_token_url=self.box.metadata_token_url,
            env={"BROKER_URL": self.broker},
        )  # fmt: skip
        metadata = {"url": self.box.metadata_url, "token_url": self.box.metadata_token_url}
        letter = Parent(
            owner="bench", pool="bench", backend="ec2", queues=("celery",), concurrency=1, metadata=metadata
        )  # fmt: skip
        return boot.document(letter, own)

    @contextmanager
    def _booted(self, user_data: bytes, until: str) -> Iterator[str]:
        instance = self.box.boot(user_data, ImageId=self.image)
        try:
            self.box.wait_for_console(instance, until, PATIENCE)
            yield instance
        finally:
            self.box.cut_power(instance)
            self.box.wait_until_empty()

    def _run(self, instance: str, *command: str) -> str:
        return self.box.run(instance, *command).stdout.strip()

    def _began(self, instance: str, unit: str) -> float:
        """Return when a unit's program began."""
        shown = self._run(instance, "systemctl", "show", "--value", "--property=ExecMainStartTimestampMonotonic", unit)
        return int(shown) / 1e6 + time.time() - time.monotonic()

    def _figures(self, way: str, instance: str, at: float, moments: dict[str, float] | None = None) -> Figures:
        began = float(self._run(instance, "cat", BEGAN))
        ends = [began, *(moments or {}).values()]
        phases = {name: end - start for name, start, end in zip(moments or {}, ends, ends[1:], strict=False)}
        return Figures(way=way, seconds=at - began, whole=at - self.box.instance(instance).launched, phases=phases)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how many boots of each way [default: 5]")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flame-bench-") as directory, bed(Path(directory)) as (made, size):
        print(f"{platform.platform()}, load {os.getloadavg()[0]:.1f}, bundle of {size / 1e6:.1f} MB", flush=True)
        rounds = [one(made, number) for number in range(options.rounds)]
    show(rounds)
    if options.json:
        options.json.write_text(json.dumps([list(map(asdict, one.values())) for one in rounds], indent=2) + "\n")


@contextmanager
def bed(directory: Path) -> Iterator[tuple[Bed, int]]:
    print("building the release ...", flush=True)
    bundle, nested = build(directory)
    recipe = Recipe(packages=(*Recipe().packages, "awscli", "curl"))
    with Box(directory / "consoles", recipe=recipe) as box, RedisServer() as redis:
        urls = {"bundle": box.upload(bundle, "proj/1.tar.gz"), "nested": box.upload(nested, "proj/nested.tar.gz")}
        yield Bed(box=box, broker=redis.url, image=box.bake(WHOLE), **urls), bundle.stat().st_size


def build(directory: Path) -> tuple[Path, Path]:
    """Build the example project's release with more wheels, and the same once more below release/."""
    project = shutil.copytree(PROJECT, directory / "project")
    asked = (PROJECT / "requirements.txt").read_text().replace("../..", str(ROOT))
    (project / "requirements.txt").write_text("\n".join([asked, *PADDING]))
    bundle = build_release(directory / "proj.tar.gz", project, "proj.app", "--full")
    whole = directory / "nested"
    (whole / "release").mkdir(parents=True)
    subprocess.run(["tar", "xzf", bundle, "-C", whole / "release"], check=True)
    subprocess.run(["tar", "czf", directory / "nested.tar.gz", "-C", whole, "release"], check=True)
    return bundle, directory / "nested.tar.gz"


def one(made: Bed, number: int) -> dict[str, Figures]:
    """Boot each way once."""
    found = {figures.way: figures for figures in (made.ours(), made.theirs(), made.least())}
    print(f"  round {number + 1}: {', '.join(f'{way} {f.seconds:.2f} s' for way, f in found.items())}", flush=True)
    return found


def show(rounds: list[dict[str, Figures]]) -> None:
    print("\nuser data's start -> worker's process; in brackets from power-on")
    for way in (OURS, THEIRS, LIMIT):
        seconds, whole = ([getattr(one[way], name) for one in rounds] for name in ("seconds", "whole"))
        print(f"  {way:14} median {statistics.median(seconds):5.2f} s ({statistics.median(whole):.2f} s)")
    for way, aim in AIMS.items():
        ratios = [one[OURS].seconds / one[way].seconds for one in rounds]
        every = " ".join(f"{ratio:.2f}" for ratio in ratios)
        held = max(ratios) if way == THEIRS else statistics.median(ratios)
        verdict = "met" if held <= aim else "MISSED"
        print(f"  ours / {way:14} median {statistics.median(ratios):.2f}, pairs {every}; aim {aim:g}: {verdict}")
    medians = {name: statistics.median(one[OURS].phases[name] for one in rounds) for name in rounds[0][OURS].phases}
    total = sum(medians.values())
    print(f"\nours, boothook's start -> hello: {total:.2f} s")
    for name, seconds in medians.items():
        print(f"  {name:18} {seconds:5.2f} s {seconds / total:4.0%}")


if __name__ == "__main__":
    main()
