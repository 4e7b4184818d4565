"""How does the example project burst in the box, deployed as an operator would deploy it?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.result import AsyncResult

from tests.box.box import Box
from tests.workers import POLICY, Program

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parent.parent.parent
PROJECT = ROOT / "examples" / "proj"
CELERY = [sys.executable, "-m", "celery", "-A", "proj.app"]
#: What the box is an instance of.
IMAGE = "debian-12"


def build_release(output: Path, project: Path = PROJECT, app: str = "proj.app", *more: str) -> Path:
    """Build the example project's release, or another's, with the command an operator would use."""
    command = [*CELERY[:-1], app, "flame", "release", "build", ".", "--name", "proj", "--image", IMAGE]
    command += ["--output", str(output), *more]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the release cannot be built:\n{done.stdout}{done.stderr}")
    return output


class Burst:
    """The example project on one broker: its release in the box's S3, its parent on the host, its runners as guests.

    `pool` and `ec2` are options beside those that every deployment in a box needs.
    """

    def __init__(
        self,
        box: Box,
        directory: Path,
        *,
        broker: str,
        results: str,
        bundle_url: str,
        pool: dict[str, Any] | None = None,
        ec2: dict[str, Any] | None = None,
        policy: str = POLICY,
    ) -> None:
        self.box = box
        self.directory = directory
        self.client = Celery("client", broker=broker, backend=results, set_as_current=False)
        self.client.conf.broker_transport_options = {"socket_timeout": 30}
        self.programs: list[Program] = []
        env = {"BROKER_URL": broker, "RESULT_BACKEND": results}
        options = {
            "s3_bundle_url": bundle_url,
            "app": "proj",
            "region": box.region,
            "image_id": box.image_id,
            "subnet_id": box.subnet_id,
            "security_group_id": box.security_group_id,
            "iam_instance_profile": box.instance_profile,
            "instance_metadata_url": box.metadata_url,
            "instance_metadata_token_url": box.metadata_token_url,
            "ec2_service_endpoint": box.endpoint,
            "s3_service_endpoint": box.endpoint,
            "allow_local_broker": True,
            "boot_timeout": 60,
            "env": env,
        }
        small = {"queues": ["celery"], "max": 3, "max_concurrency": 4, "idle_shutdown_after": 3}
        self.environ = {
            **box.environment(),
            **env,
            "FLAME_BACKEND": "ec2",
            "FLAME_EC2": json.dumps(options | (ec2 or {})),
            "FLAME_POOLS": json.dumps({"burst": small | (pool or {})}),
            "FLAME_POLICY": policy,
            "PYTHONPATH": f"{PROJECT}:{ROOT}",
            "C_FORCE_ROOT": "1",
        }

    def parent(self, *words: str, ready: str = r"ready\.|serving ", level: str = "INFO") -> Program:
        """Start `celery -A proj.app WORDS -l LEVEL` on the host, and wait until it is at work."""
        command = [*CELERY, *words, "-l", level]
        program = Program(command, directory=self.directory, name=f"parent{len(self.programs)}", env=self.environ)
        program.start()
        self.programs.append(program)
        program.says(ready)
        return program

    def flood(self, count: int, seconds: float) -> list[AsyncResult[Any]]:
        """Send so many tasks that nap for `seconds`."""
        with self.client.producer_pool.acquire(block=True) as producer:
            return [self.client.send_task("proj.tasks.nap", (seconds,), producer=producer) for _ in range(count)]

    def close(self) -> None:
        for program in self.programs:
            program.stop()
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def told(program: Program, word: str) -> list[str]:
    """Return the ids of the runners that a parent's log says came `up` or `ended`, in order."""
    return re.findall(rf"pool burst: (i-\w+) (?:is )?{word}\b", program.output)
