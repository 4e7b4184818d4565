"""Is the release where runners fetch it, and is it the one that is meant? Pure: answers of S3 in, findings out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....edition import differences, edition_of
from ....finding import Finding, failed, ok, unknown, warning
from ..refusals import Refusal
from .asker import not_told

Answer = Mapping[str, Any] | Refusal
MISSING = frozenset({"HTTP 404", "NoSuchKey", "NoSuchBucket", "NotFound"})


def bucket(answer: Answer, name: str, region: str) -> Finding | None:
    """Tell whether the bucket is there and near; None where who may read the bundle need not know."""
    if isinstance(answer, Refusal):
        if answer.code in MISSING:
            return failed("bundle", f"there is no bucket {name}", "create it, or check option 's3_bundle_url'")
        return None if answer.forbidden else not_told("bundle", answer)
    home = answer.get("BucketRegion") or region
    if home == region:
        return None
    told = f"{name} is in {home}, the runners are in {region}: transfer is billed, and no endpoint for S3 leads there"
    return warning("bundle's region", told, f"copy the bundle to a bucket in {region}, and set 's3_bundle_url' to it")


def file(answer: Answer, url: str, sha256: str | None) -> Finding:
    """Tell whether one file is there and is the one with this checksum."""
    if isinstance(answer, Refusal):
        return _refused(answer, url)
    size = int(answer.get("ContentLength", 0))
    if not size:
        return failed("bundle", f"{url} is empty", _upload(url))
    told = f"{url}, {_bytes(size)}"
    if sha256 is None:
        return ok("bundle", told)
    kept = edition_of(url, answer).sha256
    if kept is None:
        return ok("bundle", f"{told}; S3 keeps no SHA-256 of the whole to compare with 's3_bundle_sha256'")
    if kept != sha256:
        remedy = f"set 's3_bundle_sha256' to {kept}, or upload the bundle that is meant"
        return failed("bundle", f"{url} has another checksum than 's3_bundle_sha256': every runner refuses it", remedy)
    return ok("bundle", f"{told}, with the SHA-256 of 's3_bundle_sha256'")


def there(head: Mapping[str, Any] | None, url: str, sha256: str | None) -> Finding:
    """Tell whether what S3 said of a bundle, or of the release.json under a prefix, is well; None: there is none."""
    if head is None:
        return failed("bundle", f"there is no {url}", _upload(url))
    return file(head, url, sha256)


def own(own: Mapping[str, str], theirs: Mapping[str, str]) -> Finding | None:
    """Tell whether the bundle is of the release that this process runs; None where neither tells."""
    told = differences(own, theirs)
    if told:
        what = f"the bundle is of another release than what runs here: {'; '.join(told)}"
        return warning("release", what, "deploy the parent and push the bundle from one revision")
    return ok("release", "the bundle is of what runs here, as far as both tell") if theirs else None


def prefix(answer: Answer, url: str) -> Finding:
    """Tell whether anything is under a prefix."""
    if isinstance(answer, Refusal):
        return _refused(answer, url)
    if not answer.get("KeyCount"):
        return failed("bundle", f"nothing is under {url}", "upload the release there, or check option 's3_bundle_url'")
    return ok("bundle", f"there are objects under {url}")


def role(roles: list[str], url: str) -> Finding:
    """Say that nobody but the runner's own role can tell whether that may read the bundle, and how to ask IAM."""
    bucket_name, _, key = url.removeprefix("s3://").partition("/")
    partition = roles[0].split(":")[1] if roles else "aws"
    resource = f"arn:{partition}:s3:::{bucket_name}/{key}{'*' if url.endswith('/') else ''}"
    ask = f"aws iam simulate-principal-policy --action-names s3:GetObject --resource-arns {resource}"
    who = roles[0] if roles else "ROLE-ARN"
    told = "whether the runner's role may read the bundle is not tried here"
    return unknown("runner's role", told, f"{ask} --policy-source-arn {who}")


def _refused(answer: Refusal, url: str) -> Finding:
    if answer.code in MISSING:
        return failed("bundle", f"there is no {url}", _upload(url))
    if answer.forbidden:
        told = f"the caller may not read {url}, so whether it is there cannot be told"
        return unknown("bundle", told, "ask as someone with s3:GetObject and s3:ListBucket there")
    return not_told("bundle", answer)


def _upload(url: str) -> str:
    unpacked = "--unpacked " if url.endswith("/") else ""
    return f"celery flame release push {unpacked}FILE, or check option 's3_bundle_url'"


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"
