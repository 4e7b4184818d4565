"""How does a test boot an instance with a release of its own making?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_flame_ec2 import boot
from celery_flame_ec2.config import Ec2Options, PoolSettings, Settings
from celery_flame_ec2.parent import Parent
from celery_flame_ec2.runner import Limits
from tests.box.box import Box
from tests.box.ec2 import BY_GUEST

GONE = 10.0  #: seconds from a failure to the end of the instance
APP = "proj"

HELLO = '#!/bin/sh\ntouch "$FLAME_HELLO_FILE"\n'
STAY = f"{HELLO}exec sleep 600\n"
MUTE = "#!/bin/sh\nexec sleep 600\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Boots instances of a box with a bundle of this test's own making."""

    box: Box

    def boot(
        self,
        bundle: bytes | Mapping[str, bytes] | None,
        *,
        limits: Limits | None = None,
        image: str | None = None,
        **options: Any,
    ) -> str:
        """Return the id of an instance with this bundle in its bucket; `options` are of `flame_ec2`.

        What is no archive is objects below a prefix.
        """
        key = random.randbytes(8).hex() + ("/" if isinstance(bundle, Mapping) else ".tar.gz")
        client = self.box.client("s3")
        for name, body in (bundle if isinstance(bundle, Mapping) else {"": bundle}).items():
            if body is not None:
                client.put_object(Bucket=self.box.cloud.bucket, Key=key + name, Body=body)
        user_data = boot.user_data(boot.document(self.letter(limits), self._options(key, **options)))
        return self.box.boot(user_data, **({"ImageId": image} if image else {}))

    def letter(self, limits: Limits | None = None) -> Parent:
        """Return what the instances are told."""
        return Parent(owner="test", pool="p", backend="ec2", queues=("q",), concurrency=1, limits=limits or Limits())

    def settings(self, key: str) -> Settings:
        """Return the settings of a parent whose runners run the bundle at this key."""
        place: dict[str, Any] = {
            "region": self.box.region,
            "ec2_service_endpoint": self.box.endpoint,
            "image_id": self.box.image_id,
            "subnet_id": (self.box.subnet_id,),
            "security_group_id": (self.box.security_group_id,),
            "iam_instance_profile": self.box.instance_profile,
        }
        pool = PoolSettings(name="p", queues=("q",), max_concurrency=1, ec2=self._options(key, **place))
        return Settings(backend="ec2", owner="test", pools=(pool,))

    def _options(self, key: str, **options: Any) -> Ec2Options:
        return Ec2Options(
            app=APP,
            s3_bundle_url=f"s3://{self.box.cloud.bucket}/{key}",
            s3_service_endpoint=self.box.endpoint,
            instance_metadata_url=self.box.metadata_url,
            instance_metadata_token_url=self.box.metadata_token_url,
            **options,
        )

    def failure(self, instance: str, *, timeout: float = 60.0) -> str:
        """Return what a boot failed of, once the instance has powered itself off after saying so, and said it once."""
        self.box.wait_for_console(instance, boot.FAILURE_PREFIX, timeout)
        ended = self.box.wait_for(instance, "terminated", GONE)
        assert ended.cause == BY_GUEST
        console = self.box.instance(instance).console
        assert console.count(boot.FAILURE_PREFIX) == 1
        return boot.failure(console) or ""
