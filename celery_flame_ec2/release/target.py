"""What machine is a release for?"""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ReleaseError

#: What instances have, and what others call it.
ARCHITECTURES: Mapping[str, str] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
#: As old as anything that has Python 3.10 or later: its wheels run on every image of `IMAGES`.
_GLIBC = "2_28"
_OLDEST = (3, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """What an image has: its own Python, which stays the same as long as it is maintained, and the version of glibc."""

    python: str
    glibc: str


#: By what their makers publish: https://packages.debian.org, https://packages.ubuntu.com, and for Amazon Linux
#: https://docs.aws.amazon.com/linux/al2023/ug/python.html and .../ug/core-glibc.html. Debian 13 has glibc 2.41, of
#: which uv 0.13 knows nothing.
IMAGES: Mapping[str, Image] = {
    "amazon-linux-2023": Image(python="3.9", glibc="2_34"),
    "debian-12": Image(python="3.11.2", glibc="2_36"),
    "debian-13": Image(python="3.13.5", glibc="2_40"),
    "ubuntu-22.04": Image(python="3.10.12", glibc="2_35"),
    "ubuntu-24.04": Image(python="3.12.3", glibc="2_39"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a runner has: its full Python version ("3.11.2"), and its platform as uv names it."""

    python: str
    platform: str

    @property
    def minor(self) -> str:
        return ".".join(self.python.split(".")[:2])

    @property
    def architecture(self) -> str:
        return self.platform.partition("-")[0]

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"


def choose(*, image: str | None = None, python: str | None = None, platform: str | None = None) -> Target:
    """Return the target: what is given, else what the image has, else what this machine has.

    `platform` may be no more than an architecture.

    Raises:
        ReleaseError: there is no such image, Python or platform, or none that runs Celery.
    """
    has = _image(image) if image else Image(python=machine.python_version(), glibc=_GLIBC)
    architecture, _, libc = (platform or machine.machine()).partition("-")
    if architecture not in ARCHITECTURES:
        known = " or ".join(sorted(set(ARCHITECTURES.values())))
        raise ReleaseError(f"{platform or architecture!r} is no platform of a runner: it begins with {known}")
    target = f"{ARCHITECTURES[architecture]}-{libc or f'manylinux_{has.glibc}'}"
    return Target(python=_accepted(python or has.python, image if not python else None), platform=target)


def _image(name: str) -> Image:
    if name not in IMAGES:
        known = ", ".join(IMAGES)
        raise ReleaseError(f"{name!r} is none of the images known here ({known}): say --python and --platform instead")
    return IMAGES[name]


def _accepted(python: str, image: str | None) -> str:
    if not re.fullmatch(r"3\.\d+(\.\d+)?", python):
        raise ReleaseError(f"{python!r} is not a Python version; it looks like 3.11.2")
    if tuple(map(int, python.split(".")[:2])) < _OLDEST:
        remedy = f"; put a later one on the image, and say which: --image {image} --python 3.11.2" if image else ""
        raise ReleaseError(f"Python {python} is too old: a runner needs {'.'.join(map(str, _OLDEST))} or later{remedy}")
    return python
