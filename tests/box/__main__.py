"""How do you watch instances boot? `python -m tests.box` opens a box and shows what happens in it until Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import textwrap
import threading
import time

from tests.box.box import Box
from tests.box.history import Transition
from tests.box.rootfs import BoxUnusable
from tests.servers import RedisServer, ServerMissing

#: what every guest says at boot and nobody asked
NOISE = ("[  OK  ]", "         ", "ci-info", "systemd 2", "Detected ")


class Screen:
    """Lines with the seconds since the start and the instance they are about."""

    def __init__(self) -> None:
        self._started = time.time()

    def transition(self, event: Transition) -> None:
        self.line(event.instance_id, f"=> {event.state} ({event.cause})", event.time)

    def console(self, instance_id: str, text: str) -> None:
        if text.strip() and not text.startswith(NOISE) and "ci-info:" not in text:
            self.line(instance_id, text, time.time())

    def line(self, who: str, text: str, when: float) -> None:
        print(f"{when - self._started:7.2f}  {who:20} {text}", flush=True)


def usage(box: Box, redis: RedisServer) -> str:
    exports = "\n".join(f"export {name}={shlex.quote(value)}" for name, value in box.environment().items())
    settings = f"""\
        app.conf.broker_url = {redis.url!r}
        app.conf.worker_autoscaler = "celery_flame_ec2:Autoscaler"
        app.conf.flame_backend = "ec2"
        app.conf.flame_ec2 = {{
            "s3_bundle_url": "s3://{box.cloud.bucket}/<key>",
            "image_id": {box.image_id!r},
            "subnet_id": {box.subnet_id!r},
            "security_group_id": {box.security_group_id!r},
            "iam_instance_profile": {box.instance_profile!r},
            "region": {box.region!r},
            "ec2_service_endpoint": {box.endpoint!r},
            "s3_service_endpoint": {box.endpoint!r},
            "instance_metadata_url": {box.metadata_url!r},
            "instance_metadata_token_url": {box.metadata_token_url!r},
            "allow_local_broker": True,
        }}"""
    bucket = f"aws --endpoint-url {box.endpoint} s3 ls {box.cloud.bucket}"
    return "\n\n".join([exports, textwrap.dedent(settings), f"What is in the bucket: {bucket}"])


def watch() -> None:
    screen = Screen()
    with RedisServer() as redis, Box(on_transition=screen.transition, on_line=screen.console) as box:
        for name in box.removed:
            print(f"cleaned up after box {name}, which was killed")
        print(usage(box, redis), "\n\nThe box is open. Ctrl-C closes it.", sep="", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        print("\nclosing: every guest's power is cut", flush=True)
    launched = len(box.instances())
    print(
        f"closed: {launched} instances were launched, at most {box.peak} at once; none is left, and no file of theirs"
    )


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # a profile of the user's own has no part in this
    try:
        watch()
    except (BoxUnusable, ServerMissing) as exc:
        print(f"The box cannot be opened: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
