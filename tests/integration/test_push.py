"""Releases in S3, by the commands: pushed, checked, listed and pruned, against moto's S3 and EC2."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from botocore.exceptions import EndpointConnectionError
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner, Result

from celery_flame_ec2.backends.ec2 import library
from celery_flame_ec2.backends.ec2 import push as push_module
from celery_flame_ec2.backends.ec2.push import AT_ONCE, push, push_unpacked
from celery_flame_ec2.backends.ec2.store import Store
from celery_flame_ec2.cli import flame
from celery_flame_ec2.errors import ReleaseError
from celery_flame_ec2.release.contents import Contents, contents
from tests.box.cloud import Cloud
from tests.unit.test_release_contents import TEXT, packed

FOLDER = "proj/"


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def cloud(one_cloud: Cloud) -> Iterator[Cloud]:
    yield one_cloud
    one_cloud.heal()
    s3, ec2 = one_cloud.client("s3"), one_cloud.client("ec2")
    for found in s3.list_objects_v2(Bucket=one_cloud.bucket, Prefix=FOLDER).get("Contents", ()):
        s3.delete_object(Bucket=one_cloud.bucket, Key=found["Key"])
    for instance in _instances(ec2):
        ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def _instances(ec2: Any) -> list[dict[str, Any]]:
    return [found for each in ec2.describe_instances()["Reservations"] for found in each["Instances"]]


@pytest.fixture
def s3(cloud: Cloud) -> Any:
    return cloud.client("s3")


def bundle(directory: Path, name: str = "1.tar.gz", **changes: Any) -> Path:
    path = directory / name
    path.write_bytes(gzip.compress(packed(**changes), mtime=0))
    return path


def sent(*, into: Any, cloud: Cloud, path: Path, unpacked: bool = False) -> Any:
    store = Store(into, cloud.bucket)
    if unpacked:
        return push_unpacked(store, path, f"{FOLDER}1/", app="proj", program="bin/proj", progress=lambda _: None)
    return push(store, path, FOLDER + path.name, app="proj", program="bin/proj", progress=lambda _: None)


def head(s3: Any, cloud: Cloud, key: str) -> Any:
    return s3.head_object(Bucket=cloud.bucket, Key=key, ChecksumMode="ENABLED")


def keys(s3: Any, cloud: Cloud) -> set[str]:
    listed = s3.list_objects_v2(Bucket=cloud.bucket, Prefix=FOLDER).get("Contents", ())
    return {found["Key"].removeprefix(FOLDER) for found in listed}


# pushing


def test_a_bundle_is_there_with_its_checksum_and_what_it_is_made_of(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    path, told = bundle(tmp_path), list[int]()
    pushed = push(
        Store(s3, cloud.bucket), path, f"{FOLDER}1.tar.gz", app="proj", program="bin/proj", progress=told.append
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (pushed.url, pushed.sha256, pushed.new) == (f"s3://{cloud.bucket}/{FOLDER}1.tar.gz", sha256, True)
    found = head(s3, cloud, f"{FOLDER}1.tar.gz")
    assert found["ChecksumSHA256"]
    assert found["Metadata"]["flame-sha256"] == sha256
    assert found["Metadata"]["flame-celery"] == "5.6.0"
    assert sum(told) == path.stat().st_size


@pytest.mark.parametrize("unpacked", [False, True])
def test_the_same_again_is_well_and_sends_nothing(cloud: Cloud, s3: Any, tmp_path: Path, unpacked: bool) -> None:
    path = bundle(tmp_path)
    sent(into=s3, cloud=cloud, path=path, unpacked=unpacked)
    cloud.calls.clear()
    assert not sent(into=s3, cloud=cloud, path=path, unpacked=unpacked).new
    assert not cloud.called("PutObject")


@pytest.mark.parametrize("unpacked", [False, True])
def test_other_bytes_never_take_the_place_of_a_bundle_and_both_checksums_are_told(
    cloud: Cloud, s3: Any, tmp_path: Path, unpacked: bool
) -> None:
    first = sent(into=s3, cloud=cloud, path=bundle(tmp_path), unpacked=unpacked)
    other = bundle(tmp_path, manifest=TEXT.replace(b"abc", b"def"))
    with pytest.raises(ReleaseError, match="is there with other bytes") as caught:
        sent(into=s3, cloud=cloud, path=other, unpacked=unpacked)
    assert first.sha256 in str(caught.value)
    assert len([word for word in str(caught.value).replace(";", " ").replace(",", " ").split() if len(word) == 64]) == 2


def test_a_race_is_settled_by_s3_and_the_loser_is_told(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    path, key = bundle(tmp_path), f"{FOLDER}1.tar.gz"
    other = cloud.client("s3")
    s3.meta.events.register_first(
        "before-call.s3.PutObject", lambda **_: other.put_object(Bucket=cloud.bucket, Key=key, Body=b"first") and None
    )
    with pytest.raises(ReleaseError, match="is there with other bytes"):
        sent(into=s3, cloud=cloud, path=path)
    assert other.get_object(Bucket=cloud.bucket, Key=key)["Body"].read() == b"first"


def test_a_write_that_s3_calls_a_conflict_is_tried_again(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    cloud.fail("PutObject", code="ConditionalRequestConflict", status=409)
    assert sent(into=s3, cloud=cloud, path=bundle(tmp_path)).new
    assert len(cloud.called("PutObject")) >= 2


def test_files_go_one_by_one_and_the_manifest_last(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    cloud.calls.clear()
    pushed = sent(into=s3, cloud=cloud, path=bundle(tmp_path), unpacked=True)
    assert pushed.url == f"s3://{cloud.bucket}/{FOLDER}1/"
    assert keys(s3, cloud) == {"1/bin/proj", "1/lib/a.py", "1/release.json"}
    assert [call.params["Key"] for call in cloud.called("PutObject")][-1] == f"{FOLDER}1/release.json"


def test_a_push_that_breaks_off_leaves_no_release_and_the_next_one_goes_on(
    cloud: Cloud, s3: Any, tmp_path: Path
) -> None:
    broken = cloud.client("s3")

    def cut(request: Any, **_: Any) -> None:
        if request.url.endswith("lib/a.py"):
            raise EndpointConnectionError(endpoint_url=request.url)

    broken.meta.events.register("before-send.s3.PutObject", cut)
    path = bundle(tmp_path)
    with pytest.raises(ReleaseError, match=r"without release\.json what is under .* is no release: push it again"):
        sent(into=broken, cloud=cloud, path=path, unpacked=True)
    assert "1/release.json" not in keys(s3, cloud)
    assert sent(into=s3, cloud=cloud, path=path, unpacked=True).new
    assert keys(s3, cloud) == {"1/bin/proj", "1/lib/a.py", "1/release.json"}


def test_a_push_that_is_interrupted_sends_nothing_more(
    cloud: Cloud, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = threading.Event()

    class Pool(ThreadPoolExecutor):
        def __exit__(self, *exc_info: Any) -> Any:
            ending.set()
            return super().__exit__(*exc_info)

    def read(path: Path, each: Any = None) -> Contents:
        for number in range(2 * AT_ONCE) if each else ():
            each(f"lib/{number}.py", b"")
        if each:
            raise KeyboardInterrupt
        return contents(path)

    monkeypatch.setattr(push_module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(push_module, "contents", read)
    s3.meta.events.register("before-send.s3.PutObject", lambda **_: ending.wait(60) and None)
    with pytest.raises(ReleaseError, match=r"broken off; without release\.json"):
        sent(into=s3, cloud=cloud, path=bundle(tmp_path), unpacked=True)
    assert len(keys(s3, cloud)) == AT_ONCE


@pytest.mark.parametrize(
    ("changes", "unpacked", "told"),
    [
        ({"proj": None}, False, "has no bin/proj"),
        ({"manifest": None}, True, "has no release.json"),
        ({"a": b"changed"}, False, r"lib/a\.py \(changed\): not what release.json says"),
    ],
)
def test_what_no_runner_could_start_is_not_pushed(
    cloud: Cloud, s3: Any, tmp_path: Path, changes: dict[str, Any], unpacked: bool, told: str
) -> None:
    with pytest.raises(ReleaseError, match=told):
        sent(into=s3, cloud=cloud, path=bundle(tmp_path, **changes), unpacked=unpacked)
    assert not keys(s3, cloud)


def test_a_hard_link_is_pushed_in_an_archive_alone(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    link = tarfile.TarInfo("lib/c.py")
    link.type, link.linkname = tarfile.LNKTYPE, "lib/a.py"
    linked = TEXT.replace(
        b'"lib/b.py"', b'"lib/c.py": ' + json.dumps(json.loads(TEXT)["files"]["lib/a.py"]).encode() + b', "lib/b.py"'
    )
    path = bundle(tmp_path, manifest=linked)
    with tarfile.open(tmp_path / "plain", "w") as tar, tarfile.open(path) as before:
        for member in before:
            tar.addfile(member, before.extractfile(member) if member.isfile() else None)
        tar.addfile(link)
    path.write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    with pytest.raises(ReleaseError, match=r"lib/c\.py is a hard link"):
        sent(into=s3, cloud=cloud, path=path, unpacked=True)
    assert "1/release.json" not in keys(s3, cloud)
    assert sent(into=s3, cloud=cloud, path=path).new


def test_the_manifest_is_deleted_before_anything_else_is(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    sent(into=s3, cloud=cloud, path=bundle(tmp_path), unpacked=True)
    calls: list[list[str]] = []
    s3.meta.events.register(
        "provide-client-params.s3.DeleteObjects",
        lambda params, **_: calls.append([each["Key"] for each in params["Delete"]["Objects"]]),
    )
    (there,) = library.shelved(Store(s3, cloud.bucket), FOLDER)
    library.remove(Store(s3, cloud.bucket), there)
    assert calls[0] == [f"{FOLDER}1/release.json"]
    assert not keys(s3, cloud)


def test_a_bundle_of_any_language_is_pushed_without_a_manifest(cloud: Cloud, s3: Any, tmp_path: Path) -> None:
    sent(into=s3, cloud=cloud, path=bundle(tmp_path, manifest=None))
    assert head(s3, cloud, f"{FOLDER}1.tar.gz")["Metadata"]["flame-name"] == "proj"


# the commands


class Shop:
    """An app whose runners run what is in the folder, and its operator."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.cloud, self.directory = cloud, directory
        self.url = f"s3://{cloud.bucket}/{FOLDER}1.tar.gz"

    def run(self, *words: str) -> Result:
        app = Celery("shop", broker="redis://broker.internal:6379/0", set_as_current=False)
        app.conf.update(
            flame_backend="ec2", flame_lease=False, flame_owner="shop",
            flame_pools={"video": {"queues": ["video"], "max_concurrency": 1}},
            flame_ec2={
                "app": "proj", "s3_bundle_url": self.url, "region": self.cloud.region,
                "ec2_service_endpoint": self.cloud.endpoint, "s3_service_endpoint": self.cloud.endpoint,
                "image_id": self.cloud.image_id, "subnet_id": self.cloud.subnet_id,
                "security_group_id": self.cloud.security_group_id,
            },
        )  # fmt: skip
        return CliRunner().invoke(flame, ["release", *words], obj=CLIContext(app=app, no_color=True, workdir=None))

    def push(self, name: str, **changes: Any) -> Result:
        return self.run("push", str(bundle(self.directory, name, **changes)))

    def launched(self, release: str | None, owner: str = "other") -> str:
        tags = {"flame:owner": owner, **({"flame:release": release} if release else {})}
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        answer = self.cloud.client("ec2").run_instances(
            ImageId=self.cloud.image_id, MinCount=1, MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": listed}],
        )  # fmt: skip
        return str(answer["Instances"][0]["InstanceId"])


@pytest.fixture
def shop(cloud: Cloud, tmp_path: Path) -> Shop:
    return Shop(cloud, tmp_path)


def test_push_puts_a_file_beside_the_configured_one_and_prints_what_to_set(shop: Shop) -> None:
    done = shop.push("2.tar.gz")
    assert done.exit_code == 0, done.output
    sha256 = hashlib.sha256((shop.directory / "2.tar.gz").read_bytes()).hexdigest()
    url = shop.url.replace("1.tar.gz", "2.tar.gz")
    assert done.stdout == f'"s3_bundle_url": "{url}",\n"s3_bundle_sha256": "{sha256}",\n'
    assert shop.push("2.tar.gz").exit_code == 0
    refused = shop.push("2.tar.gz", manifest=TEXT + b"\n")
    assert refused.exit_code == 1
    assert "is there with other bytes" in refused.stderr


def test_check_finds_a_pushed_release_well_in_both_forms(shop: Shop) -> None:
    shop.push("1.tar.gz")
    done = shop.run("check")
    assert done.exit_code == 0, done.output
    for told in (f"bundle: {shop.url}", "program: bin/proj", "all 3 are those", "built for Python 3.11.2"):
        assert told in done.stdout
    shop.run("push", "--unpacked", str(bundle(shop.directory)))
    done = shop.run("check", f"{shop.url.removesuffix('.tar.gz')}/")
    assert done.exit_code == 0, done.output
    assert "all 3 are those" in done.stdout


def test_check_names_what_is_wrong_and_quick_believes_s3(shop: Shop, s3: Any) -> None:
    assert shop.run("check").exit_code == 1
    shop.run("push", "--unpacked", str(bundle(shop.directory)))
    s3.put_object(Bucket=shop.cloud.bucket, Key=f"{FOLDER}1/lib/a.py", Body=b"changed")
    url = f"{shop.url.removesuffix('.tar.gz')}/"
    done = shop.run("check", url, "--json")
    assert done.exit_code == 1
    (wrong,) = [each for each in json.loads(done.stdout)["findings"] if each["verdict"] == "failed"]
    assert wrong["seen"] == "lib/a.py (changed): not what release.json says"
    assert shop.run("check", url, "--quick").exit_code == 0


def test_where_check_has_no_room_it_says_so_and_blames_no_release(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.push("1.tar.gz")
    (tmp_path / "full").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    done = shop.run("check", "--json")
    (unknown,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "contents"]
    assert unknown["verdict"] == "unknown"
    assert unknown["seen"].startswith(f"cannot work in {tmp_path / 'full'}: ")
    assert re.fullmatch(r"it needs some \d+ MB there, or say --quick", unknown["remedy"])


def test_list_tells_who_uses_what(shop: Shop) -> None:
    for name in ("1.tar.gz", "2.tar.gz", "3.tar.gz"):
        shop.push(name)
    runner = shop.launched(f"{shop.url.replace('1.tar', '2.tar')}?versionId=v7")
    done = shop.run("list", "--json")
    assert done.exit_code == 0, done.output
    found = {each["url"][-8:]: each["used_by"] for each in json.loads(done.stdout)["releases"]}
    assert found == {"1.tar.gz": ["settings"], "2.tar.gz": [runner], "3.tar.gz": []}
    assert f"2.tar.gz  {runner}" in shop.run("list").stdout


def test_prune_keeps_the_newest_and_what_is_in_use(shop: Shop, s3: Any) -> None:
    for name in ("1.tar.gz", "2.tar.gz", "3.tar.gz", "4.tar.gz"):
        shop.push(name)
    shop.run("push", "--unpacked", str(bundle(shop.directory, "0.tar.gz")))
    shop.launched(shop.url.replace("1.tar", "2.tar"))
    before = keys(s3, shop.cloud)
    assert shop.run("prune", "--keep=1", "--dry-run").exit_code == 0
    assert shop.run("prune", "--keep=1").exit_code == 1  # nobody answers
    assert keys(s3, shop.cloud) == before
    done = shop.run("prune", "--keep=0", "--yes")
    assert done.exit_code == 0, done.output
    assert keys(s3, shop.cloud) == {"1.tar.gz", "2.tar.gz"}


def test_prune_spares_what_came_into_use_while_it_asked(shop: Shop, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("2.tar.gz", "3.tar.gz"):
        shop.push(name)
    monkeypatch.setattr(
        click, "confirm", lambda *_, **__: shop.launched(shop.url.replace("1.tar", "2.tar"))
    )  # the operator who thinks
    assert shop.run("prune", "--keep=0").exit_code == 0
    assert keys(s3, shop.cloud) == {"2.tar.gz"}


@pytest.mark.parametrize("trouble", ["EC2 does not answer", "a runner of before"])
def test_prune_deletes_nothing_where_it_is_not_known_what_runs(shop: Shop, s3: Any, trouble: str) -> None:
    for name in ("1.tar.gz", "2.tar.gz"):
        shop.push(name)
    if trouble == "EC2 does not answer":
        shop.cloud.fail("DescribeInstances", code="UnauthorizedOperation", status=403, times=None)
    else:
        shop.launched(None)
    done = shop.run("prune", "--keep=0", "--yes")
    assert done.exit_code == 69
    assert "nothing is deleted" in done.stderr
    assert keys(s3, shop.cloud) == {"1.tar.gz", "2.tar.gz"}
