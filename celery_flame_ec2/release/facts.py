"""Of which versions is a release made, and of which is this process?"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from ..errors import ReleaseError
from .manifest import NAME, Manifest
from .revision import revision

PACKAGES = ("celery", "celery-flame-ec2")
#: Where the release would lie that this process runs.
OWN = Path(__file__).resolve().parents[3] / NAME


def facts_of(text: bytes) -> dict[str, str]:
    """Return what matters of a `release.json`, in few words; "manifest" is its own SHA-256.

    Raises:
        ReleaseError: it cannot be read.
    """
    manifest = Manifest.decode(text)
    packages = {name: manifest.packages[name] for name in PACKAGES if name in manifest.packages}
    git = {"revision": manifest.git} if manifest.git else {}
    own = {"name": manifest.name, "python": manifest.python, "platform": manifest.platform}
    return {**own, **packages, **git, "manifest": hashlib.sha256(text).hexdigest()}


def own_facts(manifest: Path = OWN) -> dict[str, str]:
    """Return the same of this process: of its release, else of what is installed and where it was started."""
    try:
        return facts_of(manifest.read_bytes())
    except (OSError, ReleaseError):  # it runs from no release, or from one of another version
        versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    found = revision(Path.cwd())
    return {**versions, "revision": found} if found else versions
