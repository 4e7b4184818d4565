"""What do S3 and EC2 tell of the releases that are there, and of their use?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...edition import MANIFEST, Edition, edition_of
from ...errors import ReleaseError
from ...release.contents import Contents, contents
from ...release.manifest import File, Link, Manifest
from ...release.scratch import scratch
from .clients import asking
from .instances import LIVING, OWNER, RELEASE, read_tags
from .shelf import ARCHIVES, Shelved
from .store import Store

if TYPE_CHECKING:
    from mypy_boto3_ec2 import EC2Client

AT_ONCE = 8
Progress = Callable[[int], None]


def shelved(store: Store, folder: str) -> list[Shelved]:
    """Return the releases right under a prefix: archives, and prefixes with a `release.json`.

    Raises:
        Refused: S3 does not tell.
    """
    objects, prefixes = store.listed(folder)
    keys = [found["Key"] for found in objects if found["Key"].endswith(ARCHIVES)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        archives = pool.map(lambda key: _archive(store, key), keys)
        unpacked = pool.map(lambda key: _prefix(store, key), prefixes)
        return [each for each in (*archives, *unpacked) if each is not None]


def _archive(store: Store, key: str) -> Shelved | None:
    head = store.head(key)
    if head is None:  # it is gone since it was listed
        return None
    return Shelved(
        edition=edition_of(store.url(key), head), size=head["ContentLength"], at=head["LastModified"].timestamp()
    )


def _prefix(store: Store, prefix: str) -> Shelved | None:
    head = store.head(prefix + MANIFEST)
    if head is None:
        return None
    objects, _ = store.listed(prefix, deep=True)
    size = sum(found["Size"] for found in objects)
    return Shelved(edition=edition_of(store.url(prefix), head), size=size, at=head["LastModified"].timestamp())


def remove(store: Store, each: Shelved) -> None:
    """Delete a release; of a prefix `release.json` first, so that what is left is none.

    Raises:
        Refused: S3 refuses.
        ReleaseError: something is still there.
    """
    key = each.url.removeprefix(store.url(""))
    if not key.endswith("/"):
        return store.delete([key])
    objects, _ = store.listed(key, deep=True)
    store.delete([key + MANIFEST])  # in a call of its own: within one S3 keeps no order
    return store.delete(found["Key"] for found in objects if found["Key"] != key + MANIFEST)


def runners(client: EC2Client) -> Iterator[tuple[str, str | None]]:
    """Yield id and release, None where no tag tells it, of every living runner in one place, whoever launched it.

    Raises:
        BackendError: EC2 does not tell.
    """
    filters: Any = [
        {"Name": "tag-key", "Values": [OWNER]},
        {"Name": "instance-state-name", "Values": list(LIVING)},
    ]
    with asking("ec2:DescribeInstances"):
        for page in client.get_paginator("describe_instances").paginate(Filters=filters):
            for instance in (found for each in page.get("Reservations", ()) for found in each.get("Instances", ())):
                yield str(instance.get("InstanceId")), read_tags(instance).get(RELEASE) or None


def fetched(store: Store, edition: Edition, progress: Progress) -> Contents:
    """Return what is in a bundle, every byte of it fetched.

    Raises:
        ReleaseError: it cannot be read, or is not of the checksum that it was put there with.
        Refused: S3 does not give it.
    """
    key = edition.url.removeprefix(store.url(""))
    if key.endswith("/"):
        return _fetched_prefix(store, key, progress)
    digest = hashlib.sha256()
    with scratch() as directory:
        path = directory / key.rpartition("/")[2]
        with path.open("wb") as file:
            for chunk in store.chunks(key):
                digest.update(chunk)
                file.write(chunk)
                progress(len(chunk))
        if edition.sha256 not in (None, digest.hexdigest()):
            raise ReleaseError(f"{edition.url} has SHA-256 {digest.hexdigest()}, and was put there as {edition.sha256}")
        return contents(path)


def _fetched_prefix(store: Store, prefix: str, progress: Progress) -> Contents:
    objects, _ = store.listed(prefix, deep=True)
    names = [name for found in objects if (name := found["Key"].removeprefix(prefix)) and not name.endswith("/")]
    manifest = b"".join(store.chunks(prefix + MANIFEST)) if MANIFEST in names else None
    said = Manifest.decode(manifest).files if manifest is not None else {}

    def read(name: str) -> File:
        digest = hashlib.sha256()
        for chunk in store.chunks(prefix + name):
            digest.update(chunk)
            progress(len(chunk))
        known = said.get(name)  # S3 keeps no modes: a runner takes them from the manifest, else by the directory
        mode = known.mode if isinstance(known, File) else 0o755 if "bin" in name.split("/")[-2:-1] else 0o644
        return File(sha256=digest.hexdigest(), mode=mode)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        sent = [name for name in names if name != MANIFEST]
        files: dict[str, File | Link] = dict(zip(sent, pool.map(read, sent), strict=True))
    links = {name: entry for name, entry in said.items() if isinstance(entry, Link)}
    return Contents(files={**links, **files}, manifest=manifest)
