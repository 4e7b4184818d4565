"""Where are an app's releases, and who uses them?"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
from celery import Celery

from ..backends.ec2 import library, lookups
from ..backends.ec2.clients import Clients, Place
from ..backends.ec2.cookbook import Cookbook
from ..backends.ec2.shelf import Uses
from ..backends.ec2.store import Store
from ..config import Ec2Options, Settings
from ..edition import tag
from ..errors import BackendError, ReleaseError, SettingsError
from ..settings import settings_of
from ..unit import program
from .show import noted

#: Seconds that S3 may be silent: somebody waits, and a whole file may be on its way.
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Shop:
    """One app's settings, and AWS as they name it."""

    app: Celery
    settings: Settings
    clients: Clients
    cookbook: Cookbook

    def urls(self) -> list[str]:
        """Return the bundles that the settings name."""
        named = [pool.ec2.s3_bundle_url for pool in self.settings.pools if self.settings.backend == "ec2"]
        return list(dict.fromkeys(filter(None, named)))

    def options(self, url: str) -> Ec2Options:
        """Return the options of the pool whose bundle is this or beside it; else those of the first one."""
        bucket = url.split("/")[2]
        pools = [pool.ec2 for pool in self.settings.pools]
        close = (ec2 for ec2 in pools if (ec2.s3_bundle_url or "").split("/")[2:3] == [bucket])
        return next((ec2 for ec2 in pools if ec2.s3_bundle_url == url), next(close, pools[0]))

    def store(self, url: str) -> tuple[Store, str]:
        """Return the bucket that an s3:// URL names, and the key in it.

        Raises:
            BackendError: nothing names a region.
        """
        bucket, _, key = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise ReleaseError(f"{url!r} is no s3://bucket/key")
        options = self.options(url)
        region = self.cookbook.place(options).region
        return Store(self.clients.s3(Place(region=region, endpoint=options.s3_service_endpoint)), bucket), key

    def folder(self, url: str | None) -> str:
        """Return the URL of the folder that holds releases: this one, or the one that the settings tell."""
        if url is not None:
            return url if url.endswith("/") else f"{url}/"
        folders = list(dict.fromkeys(above(each) for each in self.urls()))
        if len(folders) != 1:
            named = ", ".join(folders) or "none"
            raise ReleaseError(f"the settings name no one folder of releases ({named}): give s3://bucket/prefix/")
        return folders[0]

    def name(self, url: str) -> str:
        """Return the name of the release that runners start."""
        name = self.options(url).app or os.environ.get("RELEASE_NAME")
        if not name:
            raise SettingsError(["option 'app' is not set: nothing says which bin/<app> runners start"])
        return name

    def program(self, url: str) -> str:
        """Return what runners start, as a path in the release or an absolute one."""
        return program(dataclasses.replace(self.options(url), app=self.name(url)))

    def architecture(self, url: str) -> str | None:
        """Return what the instances are that run this bundle, where options name their image and EC2 tells."""
        for ec2 in (pool.ec2 for pool in self.settings.pools if pool.ec2.s3_bundle_url == url):
            if ec2.image_id and not ec2.image_id.startswith(lookups.RESOLVE):
                with contextlib.suppress(BackendError):
                    return lookups.architecture(self.clients.ec2(self.cookbook.place(ec2)), ec2.image_id)
        return None

    def uses(self) -> Uses:
        """Return who uses which release, as far as settings, parents' notes and EC2 tell."""
        by: dict[str, tuple[str, ...]] = {}
        untold: list[str] = []
        for name, who in self._users(untold):
            by[name] = (*by.get(name, ()), who)
        return Uses(by=by, unknown=tuple(untold))

    def _users(self, untold: list[str]) -> Iterator[tuple[str, str]]:
        for url in self.urls():
            yield tag(url, None), "settings"
        left, trouble = noted(self.app, self.settings)
        untold += [f"what parents pinned is unknown: {trouble}"] if trouble else []
        for name, standing in left.standings.items():
            if standing.release:
                yield standing.release, f"parent (pool {name})"
        for place in dict.fromkeys(self.cookbook.place(pool.ec2) for pool in self.settings.pools):
            try:
                for runner, release in library.runners(self.clients.ec2(place)):
                    if release:
                        yield release, runner
                    else:
                        untold.append(f"{runner} does not tell which release it runs")
            except BackendError as exc:
                untold.append(f"which runners there are is unknown: {exc}")


def above(url: str) -> str:
    """Return the folder in which a bundle stands."""
    return f"{url.removesuffix('/').rpartition('/')[0]}/"


@contextlib.contextmanager
def opened(ctx: click.Context) -> Iterator[Shop]:
    """Give the shop of the app that a command was called for."""
    app, clients = ctx.obj.app, Clients(read_timeout=PATIENCE)
    cookbook = Cookbook(clients, environ=os.environ, clock=time.monotonic)
    try:
        yield Shop(app=app, settings=settings_of(app), clients=clients, cookbook=cookbook)
    finally:
        clients.close()
