"""What answers as AWS? moto behind a layer that adds what it lacks, in this process, on 127.0.0.1."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import boto3
from moto import settings
from moto.ec2.models import ec2_backends
from moto.iam.models import iam_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, make_server

from tests.box import wire
from tests.box.conditions import Conditions
from tests.box.ec2 import Ec2, Machines
from tests.box.faults import Call, Delay, Effect, Fault, Faults, LoseAnswer, Refuse
from tests.box.history import History, Transition
from tests.box.keys import Keys
from tests.box.metadata import Credentials

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

REGION = "eu-central-1"
PARTITION = "aws"
BUNDLE = "bundle.tar.gz"  #: the key of what a launch may refer to, and no instance could run
ROLE = "flame-runner"  #: the role, and its instance profile
CLOSED_PORT = "http://127.0.0.1:9"


class Cloud:
    """AWS on loopback, with an account of its own. Without machines an instance runs as soon as it is launched.

    A session that is passed in has read AWS's models already: a second less for every client.
    It has an image, two subnets in different zones, two security groups, an instance profile, and a bucket with
    one empty bundle.
    """

    def __init__(
        self,
        on_transition: Callable[[Transition], None] | None = None,
        session: boto3.session.Session | None = None,
    ) -> None:
        self.account = f"{secrets.randbelow(10**12):012d}"
        self.region = REGION
        self.credentials = Credentials(access_key_id="testing", secret_access_key="testing", token="")
        self.keys = Keys(self.credentials)
        self.history = History(on_transition)
        self.calls: list[Call] = []
        self._faults = Faults()
        self._moto: wire.WSGI = DomainDispatcherApplication(create_backend_app)
        self.ec2 = Ec2(self._moto, self._backend, self.history)
        self._session: Any = session or boto3.session.Session()
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self.image_id = self.vpc_id = self.bucket = self.instance_profile_arn = ""
        self.subnet_ids: tuple[str, ...] = ()
        self.security_group_ids: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self, machines: Machines | None = None) -> None:
        """Listen on a free port, and make what a launch refers to."""
        self.ec2.machines = machines
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="aws", daemon=True)
        self._thread.start()
        try:
            self._furnish()
        except BaseException:  # what was begun is undone, whatever interrupts it
            self.close()
            raise

    def close(self) -> None:
        self._faults.release()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = None

    @property
    def endpoint(self) -> str:
        """The URL of every service."""
        if self._server is None:
            raise RuntimeError("the cloud is not open")
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def bundle_url(self) -> str:
        return f"s3://{self.bucket}/{BUNDLE}"

    @property
    def subnet_id(self) -> str:
        return self.subnet_ids[0]

    @property
    def security_group_id(self) -> str:
        return self.security_group_ids[0]

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of this cloud."""
        return self._session.client(
            service, endpoint_url=self.endpoint, region_name=self.region,
            aws_access_key_id=self.credentials.access_key_id,
            aws_secret_access_key=self.credentials.secret_access_key, **options,
        )  # fmt: skip

    def upload(self, path: Path | str, key: str) -> str:
        """Put a file into the bucket; return its s3:// URL."""
        self.client("s3").upload_file(str(path), self.bucket, key)
        return f"s3://{self.bucket}/{key}"

    def register_image(self, name: str) -> str:
        """Return the id of one more image."""
        backend = self._backend(self.region)
        image = backend.amis[backend.register_image(name, "a guest's disk").id]
        image.architecture, image.root_device_name = "x86_64", "/dev/xvda"
        return str(image.id)

    def environment(self) -> dict[str, str]:
        """Return what a process on this machine needs in its environment: keys, and no way to the real AWS."""
        return {
            "AWS_ACCESS_KEY_ID": self.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ENDPOINT_URL": CLOSED_PORT,
        }

    # faults

    def fail(
        self, action: str, *, code: str, message: str = "injected", status: int = 400,
        times: int | None = 1, where: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """Refuse the next `times` calls (None: all) whose wire parameters are those of `where`."""
        self._add(action, Refuse(code=code, message=message, status=status), times, where)

    def delay(
        self, action: str, seconds: float, *, times: int | None = None, where: Mapping[str, str] | None = None
    ) -> None:
        """Do such calls `seconds` late."""
        self._add(action, Delay(seconds=seconds), times, where)

    def lose_answer(self, action: str, *, times: int | None = 1, where: Mapping[str, str] | None = None) -> None:
        """Do such calls, then drop the connection instead of answering."""
        self._add(action, LoseAnswer(), times, where)

    @property
    def conditions(self) -> Conditions:
        """What EC2 is short of, slow with and strict about, to be set."""
        return self.ec2.conditions

    def heal(self) -> None:
        """End every fault, and every shortage, lag and limit; what was counted for them is counted anew."""
        self._faults.clear()
        self.ec2.conditions = Conditions(time.monotonic)

    def _add(self, action: str, effect: Effect, times: int | None, where: Mapping[str, str] | None) -> None:
        self._faults.add(Fault(action=action, effect=effect, times=times, where=dict(where or {})))

    # what it holds

    def called(self, action: str) -> list[Call]:
        """Return the calls of one action so far, refused and lost ones too."""
        return [call for call in list(self.calls) if call.action == action]

    def _backend(self, region: str) -> Any:
        return ec2_backends[self.account][region]

    def _furnish(self) -> None:
        settings.ENABLE_AMI_VALIDATION = True
        settings.EC2_ENABLE_INSTANCE_TYPE_VALIDATION = True
        with mock.patch.dict(os.environ, MOTO_EC2_LOAD_DEFAULT_AMIS="false"):  # 1300 images, a second
            backend = self._backend(self.region)
        self.image_id = self.register_image("flame-box")
        subnets = sorted(backend.get_default_subnets().items())
        self.subnet_ids = tuple(subnet.id for _, subnet in subnets[:2])
        self.vpc_id = subnets[0][1].vpc_id
        self.security_group_ids = tuple(
            backend.create_security_group(name, name, self.vpc_id).id for name in ("flame-box-a", "flame-box-b")
        )
        iam = iam_backends[self.account][PARTITION]
        role = iam.create_role(ROLE, "{}", "/", None, "", [], "3600")
        self.instance_profile_arn = iam.create_instance_profile(ROLE, "/", [role.name]).arn
        self.bucket = f"flame-box-{secrets.token_hex(4)}"
        s3 = s3_backends[self.account][PARTITION]
        s3.create_bucket(self.bucket, self.region)
        s3.put_object(self.bucket, BUNDLE, b"")

    # one request

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = wire.read_body(environ)
        call = wire.parse(environ, body)
        self.calls.append(call)
        environ["HTTP_X_MOTO_ACCOUNT_ID"] = self.account
        try:
            self.keys.check(call, environ, body)
            effects = self._faults.effects(call)
            self._hold_up(effects)
            answer = self._do(call, environ, start_response)
        except wire.Refusal as refused:
            return wire.refusal(call, refused.refuse).send(start_response)
        if any(isinstance(effect, LoseAnswer) for effect in effects):
            _drop(environ)
        return answer

    def _hold_up(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Delay):
                self._faults.sleep(effect.seconds)
            elif isinstance(effect, Refuse):
                raise wire.Refusal(effect.code, effect.message, effect.status)

    def _do(self, call: Call, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if call.service != "ec2":
            return self._moto(environ, start_response)
        return self.ec2(call, environ).send(start_response)


def _drop(environ: Mapping[str, Any]) -> None:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError("the answer is lost on purpose")


class _Handler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        logger.debug(message, *args)
