"""Is a bundle what its manifest says, and would it run where it is meant to? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ReleaseError
from ..finding import Finding, failed, ok, unknown, warning
from .contents import Contents
from .manifest import NAME, File, Manifest

#: How EC2 calls the architecture of a platform.
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
AGAIN = "build it with `flame release build`, and push that"


def inspect(found: Contents, program: str) -> Iterator[Finding]:
    """Tell whether runners can start this program in it, and whether every file is the one that was built."""
    yield _program(found, program)
    if found.manifest is None:
        yield warning("files", f"it has no {NAME}: none can be compared", "build it with `flame release build`")
        return
    try:
        manifest = Manifest.decode(found.manifest)
    except ReleaseError as exc:
        yield failed("files", str(exc), AGAIN)
    else:
        yield _files(found, manifest)


def _program(found: Contents, program: str) -> Finding:
    if program.startswith("/"):
        return ok("program", f"{program}, of the image")
    entry = found.files.get(program)
    if entry is None:
        return failed("program", f"it has no {program}", "build it so, or set option 'app'")
    if isinstance(entry, File) and entry.mode != 0o755:
        return failed("program", f"{program} is not executable (chmod 755)", AGAIN)
    return ok("program", program)


def _files(found: Contents, manifest: Manifest) -> Finding:
    names = sorted(found.files.keys() | manifest.files.keys())
    wrong = [name for name in names if found.files.get(name) != manifest.files.get(name)]
    if not wrong:
        return ok("files", f"all {len(names)} are those that {NAME} names")
    told = [f"{name} ({_how(name, found, manifest)})" for name in wrong[:3]]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return failed("files", f"{', '.join(told)}{more}: not what {NAME} says", AGAIN)


def _how(name: str, found: Contents, manifest: Manifest) -> str:
    if name not in found.files:
        return "missing"
    return "changed" if name in manifest.files else "not named there"


def fits(facts: Mapping[str, str], architecture: str | None) -> Iterator[Finding]:
    """Tell what instances must be like, by what was said of the release; `architecture` is theirs, in EC2's words."""
    if not {"python", "platform"} <= facts.keys():
        yield unknown("target", "nothing is said of what it was built for", AGAIN)
        return
    python, platform = facts["python"], facts["platform"]
    minor = ".".join(python.split(".")[:2])
    built = next((name for name in ARCHITECTURES if platform.startswith(name)), None)
    told = f"built for Python {python} on {platform}: the image must have python{minor}"
    if built and architecture and ARCHITECTURES[built] != architecture:
        remedy = f"build it with --platform for {architecture}, or change option 'image_id'"
        yield failed("target", f"built for {platform}, and the image is for {architecture}", remedy)
    else:
        yield ok("target", told)
