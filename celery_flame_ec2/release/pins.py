"""Which versions are pinned, and by what hashes are their files known?"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ReleaseError

#: What installs packages: where nothing else asks for it, it is in an environment for those who work there.
PACKAGERS = frozenset({"pip", "setuptools", "wheel", "uv"})


def read_toml(path: str, text: str) -> dict[str, Any]:
    """Parse a TOML file's text.

    Raises:
        ReleaseError: it is none, or nothing here can read one.
    """
    try:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
    except ImportError as exc:
        raise ReleaseError(
            f'on Python 3.10 {path} is read with tomli, which is not here: pip install "celery-flame-ec2[release]"'
        ) from exc
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ReleaseError(f"{path} is not TOML: {exc}") from exc


def pins_of_lock(path: Path) -> list[str]:
    """Return what a pylock.toml pins, as lines of a requirements file.

    Raises:
        ReleaseError: it is none.
    """
    try:
        packages = read_toml(str(path), path.read_text(encoding="utf-8")).get("packages", [])
        return [_pin(package, path.parent) for package in packages]
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ReleaseError(f"{path} is no pylock.toml as PEP 751 has it ({type(exc).__name__}: {exc})") from exc


def _pin(package: Mapping[str, Any], directory: Path) -> str:
    name, files = package["name"], [*package.get("wheels", ())]
    if vcs := package.get("vcs"):
        where = f" @ {vcs['type']}+{vcs.get('url') or (directory / vcs['path']).as_uri()}@{vcs['commit-id']}"
    elif place := package.get("archive") or package.get("directory"):
        where = f" @ {place.get('url') or (directory / place['path']).resolve().as_uri()}"
    else:
        where = f"=={package['version']}"
        files += filter(None, [package.get("sdist")])
    marker = f" ; {package['marker']}" if package.get("marker") else ""
    hashes = "".join(f" --hash=sha256:{file['hashes']['sha256']}" for file in files if "sha256" in file["hashes"])
    return f"{name}{where}{marker}{hashes}"


def pins_of_export(text: str) -> list[str]:
    """Return what `uv export` prints, a line for each package; not those of which it says a path alone. Pure."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [line for line in lines if re.match(r"[A-Za-z0-9][\w.-]*(?:\[[\w.,-]+\])?(?:==| @ )", line)]


def pins_of_environment() -> list[str]:
    """Return what is installed for the running Python, as lines of a requirements file."""
    paths = sysconfig.get_paths()
    found = importlib.metadata.distributions(path=sorted({paths["purelib"], paths["platlib"]}))
    return sorted(set(_installed(found)), key=str.lower)


def _installed(distributions: Any) -> Iterator[str]:
    for dist in distributions:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
        if "vcs_info" in origin:
            yield f"{dist.name} @ {origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
        elif origin:
            yield f"{dist.name} @ {origin['url']}"
        else:
            yield f"{dist.name}=={dist.version}"
