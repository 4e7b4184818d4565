"""Where does a reader stand who types what the documents print?

In a copy of this repository, before a shell, beside a Redis and an AWS on loopback that has what the settings of the
documents name. They name what is not here, as a subnet or a broker: `real` has what stands for each.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery

from tests.box.cloud import ROLE, Cloud
from tests.servers import RedisServer, free_port, kill_group
from tests.waiting import PATIENCE
from tests.workers import Program, living

from .pages import ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

BUCKET = "releases"  #: of the documents' s3_bundle_url
COPIED = ("setup.cfg", "setup.py", "README.md", "LICENSE", "celery_flame_ec2", "examples", "extras")
QUIET = "ignore:You're running the worker with superuser"


class Place:
    """A context manager; what was started there ends with it. `directory` is where the reader is now."""

    def __init__(self, home: Path, redis: RedisServer, cloud: Cloud, real: Mapping[str, str]) -> None:
        self.clone = home / "celery-flame-ec2"
        self.directory = self.clone
        self.said = ""  #: by the last command
        self._home, self._redis, self._cloud = home, redis, cloud
        self._temporary = Path(tempfile.mkdtemp(prefix="flame-"))  # short, for it is printed
        self._open: list[Program] = []
        address = f"127.0.0.1:{redis.port}"
        self.real = {
            "127.0.0.1:9809": f"127.0.0.1:{free_port()}",
            "127.0.0.1:6379": address,
            '"redis://broker.internal:6379/0"\n': f'"redis://{address}/0"\n',
            **real,
        }

    def __enter__(self) -> Self:
        """Put a clone there."""
        self.clone.mkdir(parents=True)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.clone / name, ignore=shutil.ignore_patterns("__pycache__", "dist"))
            else:
                shutil.copy(ROOT / name, self.clone)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for terminal in self._open:
            kill_group(terminal.pid)
            terminal.ends()
        for pid in self.runners().values():
            kill_group(pid)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def clear_shelf(self, *keys: str) -> None:
        """Have nothing in the bucket of releases but these, which are none."""
        s3 = self._cloud.client("s3")
        for found in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
            s3.delete_object(Bucket=BUCKET, Key=found["Key"])
        for key in keys:
            s3.put_object(Bucket=BUCKET, Key=key, Body=b"release", ChecksumAlgorithm="SHA256")

    def write(self, path: str, text: str) -> None:
        """Add to a file what a page says stands in it."""
        with (self.directory / path).open("a") as file:
            file.write(self.translated(text))

    def translated(self, text: str) -> str:
        for printed, real in self.real.items():
            text = text.replace(printed, real)
        return text

    def translated_back(self, text: str) -> str:
        for printed, real in self.real.items():
            text = text.replace(real, printed)
        there = str(self._temporary)
        text = text.replace(there, "/tmp").replace(f"127.0.0.1-{self._redis.port}", "127.0.0.1")
        text = text.replace(str(self._home), "/home/ann")
        return text.replace(f" {platform.node()}, pid", " host, pid")

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            **self._cloud.environment(),
            "AWS_ENDPOINT_URL": self._cloud.endpoint,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "BROKER_URL": self._redis.url,
            "CELERY_BROKER_URL": self._redis.url,
            "TMPDIR": str(self._temporary),
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": QUIET,
            "COLUMNS": "100",
        }

    @property
    def broker(self) -> Celery:
        client = Celery("reader", broker=self._redis.url, set_as_current=False)
        client.conf.task_send_sent_event = True
        return client

    def answers(self) -> list[Any]:
        """Return what workers say that are asked whether they are there."""
        return list(self.broker.control.ping(timeout=0.5))

    def runners(self) -> dict[str, int]:
        """Return the process of each runner on this machine."""
        return living(self._temporary)

    def run(self, text: str) -> int:
        """Have the shell run it to its end, say y where it asks, and go where it leads; return the exit code."""
        where = self._home / "where"
        done = subprocess.run(
            ["sh", "-c", f'{self.translated(text)}\ncode=$?\npwd > "$0"\nexit $code', str(where)],
            cwd=self.directory, env=self.environ, input="y\n", capture_output=True, text=True, timeout=3 * PATIENCE,
            check=False,
        )  # fmt: skip
        self.directory, self.said = Path(where.read_text().strip()), done.stderr + done.stdout
        return done.returncode

    def start(self, text: str) -> Program:
        """Have a shell run it in a terminal of its own."""
        # The shell becomes what it runs, which so dies with us, whatever ends us.
        command = ["env", "-C", str(self.directory), "sh", "-c", f"exec {self.translated(text)}"]
        terminal = Program(command, directory=self._home, name=f"terminal{len(self._open)}", env=self.environ)
        terminal.start()
        self._open.append(terminal)
        return terminal

    def interrupt(self, terminal: Program) -> int:
        """Type Ctrl-C there: it reaches all that runs in front. Return the exit code."""
        os.killpg(terminal.pid, signal.SIGINT)
        return terminal.ends()

    def seen(self) -> str:
        """Return all that is on the screen: of the last command, and of each terminal."""
        return self.translated_back("\n".join([self.said, *(terminal.output for terminal in self._open)]))


def _open_route(cloud: Cloud) -> None:
    ec2 = cloud.client("ec2")
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=cloud.vpc_id)
    table = ec2.describe_route_tables()["RouteTables"][0]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)


def named(cloud: Cloud) -> dict[str, str]:
    """Return what this AWS has for each thing that the documents' settings name, having made what it lacks."""
    _open_route(cloud)
    where = {"LocationConstraint": cloud.region}
    cloud.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
    cloud.client("ssm").put_parameter(Name="/proj/database-url", Value="postgresql://", Type="SecureString")
    return {
        "ami-0abcdef1234567890": cloud.image_id,
        "subnet-0aaaaaaaa": cloud.subnet_ids[0],
        "subnet-0bbbbbbbb": cloud.subnet_ids[1],
        "sg-0aaaaaaaa": cloud.security_group_id,
        '"proj-runner"': f'"{ROLE}"',
        "eu-west-1": cloud.region,
        '"app": "proj",': '"app": "proj", "allow_local_broker": True,',
    }
