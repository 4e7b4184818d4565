#!/bin/sh /run/flame/install
"""What happens on an instance between power-on and its release? Standard library only, Python 3.9 or newer.

cloud-init runs this file as its second boothook. The first one left /run/flame/install, which makes this file
flame-bootstrap.service and returns. The service fetches the bundle, resolves the environment and starts the release;
where a launch template's user data has to prepare the host first, it arms the timers and leaves the rest to
flame-prepared.service, which systemd begins when cloud-init is over. Whatever goes wrong ends it, with step and cause
in /run/flame; its unit then prints one line, `flame: boot failed: <step>: <cause>`, and powers off.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn
from urllib.parse import quote, unquote_plus, urlsplit

#: The configuration: boot.py puts it here as JSON in a Python literal.
DOCUMENT = "{}"
HOME = "/var/lib/flame-release"
MANIFEST = "release.json"
CHUNK = 1 << 18  #: bytes
ATTEMPTS = 5
TRANSIENT = frozenset({429, 500, 502, 503, 504})
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refused(Exception):
    """Raised when the boot cannot go on; its text is the cause, in words for the operator."""


class BootError(Exception):
    """Raised out of the step in which the boot failed."""

    def __init__(self, step: str, cause: str) -> None:
        super().__init__(f"{step}: {cause}")
        self.step, self.cause = step, cause


class Boot:
    """The steps. `root` stands before every path, `command` runs a program: both for tests."""

    def __init__(
        self, document: Mapping[str, Any], *, root: str = "", command: Callable[..., None] | None = None
    ) -> None:
        self.document = document
        self.app: str = document["app"]
        self.run = f"{root}/run/flame"
        self.cloud_init = f"{root}/run/cloud-init"
        self.units = f"{root}/run/systemd/system"
        self.home = f"{root}/srv/{self.app}"
        self.command = command or run_program

    def all_steps(self) -> None:
        """Boot; where a template's user data prepares the host, only as far as must not wait for that."""
        if not self.document["prepared_by_template"]:
            return self.start_release(self.spawn(self.arm))
        self.arm()
        with self.step("template"):
            self.command("systemctl", "--no-block", "start", "flame-prepared.service")
        return say("waiting for the launch template's user data")

    def remaining_steps(self) -> None:
        """Go on when cloud-init is over; not on a host it could not prepare, where who knows what is missing."""
        with self.step("template"):
            self.accept_host()
        self.start_release()

    def start_release(self, *beside: threading.Thread) -> None:
        began = time.monotonic()
        beside = (*beside, self.spawn(self.add_user))
        with self.step("metadata"):
            metadata = Metadata(self.document)
        with self.step("credentials"):
            aws = Aws(self.document, metadata.region(), metadata.domain(), metadata.keys())
        say(f"metadata read in {time.monotonic() - began:.1f} s")
        environment = self.spawn(lambda: self.write_environment(aws, metadata.instance_id))
        self.install_release(aws)
        for thread in (*beside, environment):
            thread.join()
        with self.step("start"):
            self.command("systemctl", "--no-block", "start", "flame-release.service")
            self.command("systemctl", "daemon-reload")  # for what is new of units that were there before
        say(f"release started {time.monotonic() - began:.1f} s after the bootstrap")

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Make whatever goes wrong inside a BootError of this step."""
        if threading.current_thread() is threading.main_thread():  # what runs beside must not hide where we stand
            self.note("step", name)
        try:
            yield
        except BootError:
            raise
        except Exception as exc:  # every failure has to end in one line and in power-off
            cause = str(exc) if isinstance(exc, Refused) else f"{type(exc).__name__}: {exc}"
            if re.search("No space left|Wrote only", cause):  # as Python, and as tar may say it
                cause = f"the disk is too small; set a larger root_volume ({cause})"
            raise BootError(name, cause) from exc

    def note(self, name: str, text: str) -> None:
        with open(f"{self.run}/{name}", "w", encoding="utf-8", errors="replace") as file:
            file.write(text)

    def give_up(self, failed: BootError) -> NoReturn:
        """Leave step and cause, on one line, to the unit's report; end from whatever thread this is."""
        self.note("step", failed.step)
        self.note("cause", re.sub(r"[\x00-\x1f\x7f]+", " ", failed.cause)[:500])
        os._exit(1)

    def spawn(self, work: Callable[[], None]) -> threading.Thread:
        """Run a step beside the others; if it fails, the boot ends at once."""

        def guarded() -> None:
            try:
                work()
            except BootError as failed:
                self.give_up(failed)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def arm(self) -> None:
        """Put the release's unit in place, and timers with this runner's times in that of the first one."""
        with self.step("arm"):
            for name, text in self.document["units"].items():
                with open(f"{self.units}/{name}", "w", encoding="utf-8") as file:
                    file.write(text)
            # systemd reads a unit it has not seen yet by itself: no reload, which would stall the boot here
            self.command("systemctl", "start", "flame-hello.timer", "flame-age.timer")
            self.command("systemctl", "--no-block", "stop", "flame-deadman.timer")

    def accept_host(self) -> None:
        try:
            with open(f"{self.cloud_init}/result.json", encoding="utf-8") as file:
                errors = json.load(file)["v1"]["errors"]
        except FileNotFoundError:
            raise Refused("cloud-init was ended before the launch template's user data was done") from None
        if errors:
            raise Refused(f"the launch template's user data failed: {'; '.join(map(str, errors))}")

    def add_user(self) -> None:
        user = self.document["user"]
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", HOME, "--shell", "/bin/false"]
        with self.step("environment"):
            try:
                pwd.getpwnam(user)
            except KeyError:  # there is no such user yet
                self.command("useradd", *options, user)

    def write_environment(self, aws: Aws, instance_id: str) -> None:
        """Write what the release finds in its environment, for nobody but root to read."""
        with self.step("environment"):
            variables = {
                "HOME": HOME,
                "LANG": "C.UTF-8",
                "PATH": PATH,
                "RELEASE_NAME": self.app,
                **resolved(self.document["env"], aws),
                "FLAME_PARENT": base64.b64encode(json.dumps(self.document["letter"]).encode()).decode(),
                "FLAME_RUNNER_ID": instance_id,
                "FLAME_HELLO_FILE": "/run/flame-release/hello",
            }
            with open(os.open(f"{self.run}/env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(environment_file(variables))

    def install_release(self, aws: Aws) -> None:
        """Fetch the bundle to /srv/<app>/release; nothing in it runs before all of it is there and verified."""
        url: str = self.document["bundle"]
        fresh = f"{self.home}/release.new"
        with self.step("fetch"):
            os.makedirs(fresh)
            began = time.monotonic()
            bucket = Bucket(aws, url, {name: self.document[name] for name in ("version", "etag", "sha256")})
            if url.endswith("/"):
                size = bucket.fetch_all(fresh)
            else:
                bundle = Download(bucket, bucket.key)
                size = bundle.size
                need_room(size, fresh)
        if not url.endswith("/"):
            with self.step("unpack"):
                unpack(self.verified(bundle), url, fresh)
        say(f"fetched and unpacked {size / 1e6:.1f} MB in {time.monotonic() - began:.1f} s")
        with self.step("release"):
            self.accept(fresh)

    def verified(self, bundle: Download) -> Iterator[bytes]:
        with self.step("fetch"):
            yield from bundle.chunks()
            bundle.verify(bundle.bucket.sha256)

    def accept(self, fresh: str) -> None:
        only_files(fresh, (os.path.realpath(self.home) + "/release", "/usr/"))
        need_machine(manifest(fresh), self.document["env"].get("PATH"))
        program = self.document["program"]
        for path in (program, *self.document["paths"]):
            if not os.path.exists(os.path.join(fresh, path)):  # an absolute one is the image's
                raise Refused(f"the {'image' if path[0] == '/' else 'bundle'} has no {path}")
        if os.stat(os.path.join(fresh, program)).st_mode & 0o555 != 0o555:
            raise Refused(f"{program} is not executable for everyone (chmod 755)")
        os.chmod(fresh, 0o755)  # noqa: S103  an archive of a private directory would lock the release's user out
        shutil.rmtree(f"{self.home}/release", ignore_errors=True)  # an image may have an older one baked in
        os.rename(fresh, f"{self.home}/release")


class Metadata:
    """What the instance knows of itself (IMDSv2)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        token = ask(
            "PUT",
            document["metadata_token_url"],
            {"x-aws-ec2-metadata-token-ttl-seconds": "300"},
            timeout=2.0,
            kept={},
        )
        if token.status != 200:
            raise Refused(f"instance metadata gave no token ({token.status})")
        self.token = token.read().decode()
        self.instance_id = self.must("instance-id")

    def get(self, path: str) -> str | None:
        """Return a leaf; None where there is none."""
        url = f"{self.document['metadata_url'].rstrip('/')}/{path}"
        response = ask("GET", url, {"x-aws-ec2-metadata-token": self.token}, timeout=2.0, kept={})
        if response.status == 404:
            return None
        if response.status != 200:
            raise Refused(f"instance metadata answered {response.status} to {path}")
        return response.read().decode()

    def must(self, path: str) -> str:
        value = self.get(path)
        if not value:
            raise Refused(f"instance metadata has no {path}")
        return value

    def region(self) -> str:
        return self.document["region"] or self.must("placement/region")

    def domain(self) -> str:
        """Return the partition's DNS suffix; it only matters where no endpoint is configured."""
        return "" if self.document["s3_endpoint"] else self.get("services/domain") or "amazonaws.com"

    def keys(self) -> dict[str, str]:
        """Return the role's temporary keys; they may come a moment after the machine."""
        for pause in (0.5, 1.0, 2.0, 0.0):
            role = self.get("iam/security-credentials/")
            if role:
                break
            time.sleep(pause)
        else:
            raise Refused("the instance has no role; set iam_instance_profile")
        keys: dict[str, str] = json.loads(self.must(f"iam/security-credentials/{role.split()[0]}"))
        if keys.get("Code", "Success") != "Success":
            raise Refused(f"no keys for role {role.split()[0]}: {keys['Code']} {keys.get('Message', '')}")
        return keys


class Aws:
    """Requests signed with the role's keys."""

    def __init__(self, document: Mapping[str, Any], region: str, domain: str, keys: Mapping[str, str]) -> None:
        self.document, self.region, self.domain, self.keys = document, region, domain, keys
        self.kept = threading.local()  #: connections, each thread's own

    def endpoint(self, service: str) -> str | None:
        """Return the configured endpoint, by our own option or by the SDKs' variables in the release's env."""
        names = ("AWS_ENDPOINT_URL_" + service.upper(), "AWS_ENDPOINT_URL")
        configured = [self.document["s3_endpoint"] if service == "s3" else None]
        configured += [self.document["env"].get(name) for name in names]
        return next((url.rstrip("/") for url in configured if isinstance(url, str) and url), None)

    def send(
        self, service: str, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> http.client.HTTPResponse:
        name = service.replace("_", "")
        signed = sign(method, url, headers, body, keys=self.keys, region=self.region, service=name, now=time.time())
        return ask(method, url, signed, body, kept=self.kept.__dict__)

    def call(self, service: str, target: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Call a JSON API such as ssm or secrets_manager; again, after a growing pause, where it is asked too often."""
        host = f"https://{service.replace('_', '')}.{self.region}.{self.domain}"
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": target}
        url = f"{self.endpoint(service) or host}/"
        for pause in (1, 2, 4, 8, 16, 32, 0):
            response = self.send(service, "POST", url, headers, json.dumps(payload).encode())
            answer = response.read()
            said: dict[str, Any] = json.loads(answer) if answer.startswith(b"{") else {}
            if response.status == 200:
                return said
            kind = str(said.get("__type", response.status)).rpartition("#")[2]
            if not re.search("Throttl|TooManyRequests|RequestLimit", kind):
                break
            time.sleep(pause * (0.1 + os.urandom(1)[0] / 999))  # others were told so at the same moment
        raise Refused(f"{target}: {kind}: {said.get('message') or said.get('Message', '')}")


class Bucket:
    """Where the bundle is: `s3://bucket/key`. Of it, or of a prefix's release.json, only the pinned state is taken."""

    def __init__(self, aws: Aws, url: str, pin: Mapping[str, str | None]) -> None:
        self.aws, self.url = aws, url
        self.version, self.etag, self.sha256 = pin["version"], pin["etag"], pin["sha256"]
        self.name, _, self.key = url[len("s3://") :].partition("/")
        self.pinned = self.key + MANIFEST if self.key.endswith("/") else self.key

    def base(self) -> str:
        endpoint = self.aws.endpoint("s3")
        host = f"s3.{self.aws.region}.{self.aws.domain}"
        if endpoint or "." in self.name:  # no certificate covers a bucket name with dots as a host name
            return f"{endpoint or 'https://' + host}/{self.name}"
        return f"https://{self.name}.{host}"

    def get(self, key: str, query: str = "", **headers: str) -> http.client.HTTPResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key == self.pinned:
            query = f"versionId={quote(self.version, safe='')}" if self.version else ""
            named.update({"if-match": self.etag} if self.etag else {})
        url = f"{self.base()}/{quote(key)}" + (f"?{query}" if query else "")
        response = self.aws.send("s3", "GET", url, named)
        if response.status in (200, 206):
            return response
        home = response.headers.get("x-amz-bucket-region")
        if home and home != self.aws.region:
            self.aws = Aws(self.aws.document, home, self.aws.domain, self.aws.keys)
            return self.get(key, query, **headers)
        raise Refused(self.explain(response, key))

    def explain(self, response: http.client.HTTPResponse, key: str) -> str:
        said = response.read(CHUNK).decode("utf-8", "replace")
        code, message = (
            found.group(1) if (found := re.search(f"<{tag}>(.*?)</{tag}>", said, re.DOTALL)) else ""
            for tag in ("Code", "Message")
        )
        if key == self.pinned and self.etag and response.status in (404, 412) and code != "NoSuchBucket":
            which = f"version {self.version}" if self.version else f"ETag {self.etag}"
            return f"s3://{self.name}/{key} is no longer the one that the parent pinned ({which} is gone)"
        if code == "NoSuchKey" or (response.status == 404 and not code):
            return f"no such bundle s3://{self.name}/{key}"
        if code == "NoSuchBucket":
            return f"no such bucket s3://{self.name}"
        if response.status == 403:
            needed = "s3:GetObject, for a pinned version s3:GetObjectVersion, and s3:ListBucket to tell what is missing"
            return f"S3 refused {self.url} ({code or 403}: {message}); the instance's role needs {needed}"
        return f"S3 answered {response.status} to {self.url} ({code}: {message})"

    def listed(self) -> Iterator[tuple[str, int]]:
        """Yield what is under the prefix, with its size, page by page."""
        import xml.etree.ElementTree as xml  # only a prefix needs it, and it costs start-up time

        more = {"encoding-type": "url", "list-type": "2", "prefix": self.key}
        while more:
            query = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(more.items()))
            page = xml.fromstring(self.get("", query).read())  # noqa: S314
            for found in page.iterfind("{*}Contents"):
                path = unquote_plus(found.findtext("{*}Key") or "")[len(self.key) :]
                if path[-1:] not in {"", "/"}:
                    yield path, int(found.findtext("{*}Size") or 0)
            token = page.findtext("{*}NextContinuationToken")
            more = {**more, "continuation-token": token} if token else {}

    def fetch_all(self, directory: str) -> int:
        """Fetch what the manifest names, or else everything, several objects at a time; return the bytes."""
        from concurrent.futures import ThreadPoolExecutor

        sizes = dict(self.listed())
        files: dict[str, Any] = {path: {} for path in sizes}
        if self.etag or MANIFEST in sizes:
            self.fetch_one(directory, MANIFEST, {"sha256": self.sha256})
            release = manifest(directory)
            need_machine(release, self.aws.document["env"].get("PATH"))
            files = release.get("files", files)
        elif not sizes:
            raise Refused(f"no such bundle {self.url}")
        fetched = [path for path in files if "link" not in files[path]]
        for path in fetched:
            if path not in sizes:
                raise Refused(f"{MANIFEST} names {path}, which is not under {self.url}")
        need_room(sum(sizes[path] for path in fetched), directory)
        with ThreadPoolExecutor(8) as pool:
            size = sum(pool.map(lambda path: self.fetch_one(directory, path, files[path]), fetched))
        for path in sorted(files.keys() - set(fetched), reverse=True):  # so that none is made through another
            os.symlink(files[path]["link"], inside(directory, path))
        return size

    def fetch_one(self, directory: str, path: str, told: Mapping[str, Any]) -> int:
        """Fetch one object to its place, as the manifest tells of it; without that S3, which keeps no modes, does."""
        place = inside(directory, path)
        bundle = Download(self, self.key + path)
        with open(place, "wb") as file:
            file.writelines(bundle.chunks())
        bundle.verify(told.get("sha256"))
        if told.get("mode", "755" if place.split("/")[-2] == "bin" else "") == "755":
            os.chmod(place, 0o755)  # noqa: S103
        return bundle.size


class Download:
    """One object as a stream. A connection that breaks is taken up again where it broke."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key
        self.response = bucket.get(key, x_amz_checksum_mode="ENABLED")
        self.size = int(self.response.headers["Content-Length"])
        self.etag = self.response.headers.get("ETag", "")
        self.checksum = self.response.headers.get("x-amz-checksum-sha256", "")
        self.received = 0
        self.digest = hashlib.sha256()

    def chunks(self) -> Iterator[bytes]:
        silent = 0
        while self.received < self.size:
            chunk = self.read()
            if chunk:
                silent = 0
                self.received += len(chunk)
                self.digest.update(chunk)
                yield chunk
                continue
            silent += 1
            if silent == ATTEMPTS:
                raise Refused(f"S3 sent {self.received} of {self.size} bytes of {self.key}")
            self.response = self.bucket.get(self.key, range=f"bytes={self.received}-", if_match=self.etag)

    def read(self) -> bytes:
        try:
            return self.response.read(CHUNK)
        except (OSError, http.client.HTTPException):  # the caller asks for the rest
            return b""

    def verify(self, expected: str | None) -> None:
        """Compare with the checksum S3 keeps (of the whole, not of a multipart's parts) and the parent's."""
        kept = "" if "-" in self.checksum else base64.b64decode(self.checksum).hex()
        for checksum in filter(None, (expected, kept)):
            if checksum != self.digest.hexdigest():
                raise Refused(f"wrong checksum of {self.key}: {self.digest.hexdigest()}, expected {checksum}")


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    keys: Mapping[str, str],
    region: str,
    service: str,
    now: float,
) -> dict[str, str]:
    """Return the headers (lower case) of a request signed with Signature Version 4; its path and query are encoded."""
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    payload = hashlib.sha256(body).hexdigest()
    signed = {**headers, "host": parts.netloc, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    if keys.get("Token"):
        signed["x-amz-security-token"] = keys["Token"]
    names = ";".join(sorted(signed))
    lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
    canonical = "\n".join([method, parts.path or "/", parts.query, *lines, "", names, payload])
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + keys["SecretAccessKey"]).encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"{keys['AccessKeyId']}/{scope}"
    signed["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return signed


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    timeout: float = 10.0,  # seconds a server may be silent
    kept: dict[str, http.client.HTTPConnection],
) -> http.client.HTTPResponse:
    """Send a request; again, after a growing pause, where no answer or a server's trouble came back.

    On a connection that was kept: with TLS a new one costs 30 ms of CPU time. It is kept again.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    attempt = 0
    while True:
        attempt += 1
        try:
            connection = kept.pop(parts.netloc, None) or kind(parts.hostname or "", parts.port, timeout=timeout)
            connection.request(method, target, body or None, dict(headers))
            response = connection.getresponse()
            if attempt == ATTEMPTS or response.status not in TRANSIENT:
                kept[parts.netloc] = connection
                return response
        except (OSError, http.client.HTTPException) as exc:
            if attempt == ATTEMPTS:
                raise Refused(f"no answer from {parts.scheme}://{parts.netloc} ({type(exc).__name__}: {exc})") from exc
        time.sleep(0.1 * 2**attempt)


def resolved(env: Mapping[str, Any], aws: Aws) -> dict[str, str]:
    """Return the variables with every reference replaced by what it refers to."""
    variables = dict(env)
    for kind, read in (("from_ssm", parameters), ("from_secretsmanager", secrets)):
        wanted = {name: value[kind] for name, value in env.items() if isinstance(value, dict) and kind in value}
        found = read(aws, {reference: name for name, reference in wanted.items()})
        variables.update({name: found[reference] for name, reference in wanted.items()})
    for name, value in variables.items():
        # systemd reads no such
        if any(not c or 0xD800 <= c < 0xE000 or 0xFDD0 <= c < 0xFDF0 or c % 65536 > 65533 for c in map(ord, value)):
            raise Refused(f"the value of {name} has a character that no environment can hold")
    return variables


def parameters(aws: Aws, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what SSM has for each reference; `wanted` says which variable needs it."""
    found = {}
    for names in portions(wanted, 10):
        with blamed(" ".join(f"{wanted[name]} ({name})" for name in names)):
            answer = aws.call("ssm", "AmazonSSM.GetParameters", {"Names": names, "WithDecryption": True})
        for each in answer["Parameters"]:
            for kind in ("Name", "ARN"):
                found[each.get(kind, "") + each.get("Selector", "")] = each["Value"]
    for name, variable in wanted.items():
        if name not in found:
            raise Refused(f"{variable} ({name}): no such SSM parameter")
    return found


def secrets(aws: Aws, wanted: Mapping[str, str]) -> dict[str, str]:
    """Return what Secrets Manager has for each reference, as `parameters` does."""
    found: dict[str, Any] = {}
    names = {reference.partition("#")[0] for reference in wanted}
    for some in portions(names, 20) if len(names) > 1 else ():
        with contextlib.suppress(Refused):  # whatever this did not bring is asked for by itself, and says why not
            answer = aws.call("secrets_manager", "secretsmanager.BatchGetSecretValue", {"SecretIdList": some})
            for each in answer["SecretValues"]:
                found.update({each["Name"]: each, each["ARN"]: each})
    values = {}
    for reference, variable in wanted.items():
        name, _, key = reference.partition("#")
        with blamed(f"{variable} ({reference})"):
            if name not in found:
                found[name] = aws.call("secrets_manager", "secretsmanager.GetSecretValue", {"SecretId": name})
            values[reference] = chosen(found[name], key)
    return values


@contextlib.contextmanager
def blamed(whom: str) -> Iterator[None]:
    try:
        yield
    except Refused as exc:
        raise Refused(f"{whom}: {exc}") from None


def chosen(secret: Mapping[str, Any], key: str) -> str:
    """Return a secret, or what it has at a key: a reference `name#key` is to a JSON object."""
    try:
        text = secret["SecretString"]
        value = json.loads(text)[key] if key else text
    except (ValueError, LookupError, TypeError):  # their words may be the secret's own
        raise Refused("the secret is binary, or no JSON object with this key") from None
    return value if isinstance(value, str) else json.dumps(value)


def portions(names: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield the names, as many at a time as one call may ask for."""
    listed = sorted(names)
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def environment_file(variables: Mapping[str, str]) -> bytes:
    """Return the text of a systemd EnvironmentFile that gives every value back byte for byte."""
    lines = (f'{name}="' + re.sub(r'(["\\])', r"\\\1", value) + '"\n' for name, value in variables.items())
    return "".join(lines).encode()


def unpack(chunks: Iterable[bytes], name: str, directory: str) -> None:
    """Stream an archive into `tar`.

    Raises:
        Refused: it is no archive, or this machine cannot read it.
    """
    # as root `tar` would keep owners and setuid bits; here everything is root's, and nothing is setuid
    options = ["--extract", "--no-same-owner", "--no-same-permissions", "--file", "-", "--directory", directory]
    if not name.endswith(".zst"):
        chunks = inflated(chunks)
    elif shutil.which("zstd"):
        options.append("--zstd")
    else:
        raise Refused("the image has no zstd; install it there, or publish the bundle as .tar.gz")
    with open(os.memfd_create("tar"), "w+b") as said:
        with (
            contextlib.suppress(BrokenPipeError),  # tar gave up, and says why
            subprocess.Popen(["tar", *options], stdin=subprocess.PIPE, stderr=said) as tar,
        ):
            for chunk in chunks:
                tar.stdin.write(chunk)  # type: ignore[union-attr]
        said.seek(0)
        words = said.read().decode("utf-8", "replace").split("\n")
    if tar.returncode:
        raise Refused("the bundle cannot be unpacked: " + "; ".join(filter(None, words[:4])))


def inflated(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what gzip packed; this takes half the time of the program."""
    member = zlib.decompressobj(31)
    try:
        for chunk in chunks:
            while chunk:
                if member.eof:
                    member = zlib.decompressobj(31)
                yield member.decompress(chunk, 4 * CHUNK)
                chunk = member.unconsumed_tail or member.unused_data
    except zlib.error as exc:
        raise Refused(f"the bundle cannot be unpacked: it is damaged, or not in gzip format ({exc})") from exc
    if not member.eof:
        raise Refused("the bundle cannot be unpacked: it is cut off")


def need_room(size: int, directory: str) -> None:
    free = shutil.disk_usage(directory).free
    if size > free:
        raise OSError(f"No space left: it needs {size / 1e6:.1f} MB, and has {free / 1e6:.1f}")


def manifest(directory: str) -> dict[str, Any]:
    """Return what `release build` says of the release in it; of any other it says nothing."""
    try:
        with open(f"{directory}/{MANIFEST}", encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "celery_app" in found else {}


def need_machine(release: Mapping[str, Any], path: str | None) -> None:
    """Refuse a release that is built for another machine; `path` is where it would look for its Python."""
    kind, _, system = release.get("platform", "").partition("-")
    machine, libc = os.uname().machine, str(os.confstr("CS_GNU_LIBC_VERSION"))
    own = "{}.{}.{}".format(*sys.version_info)
    minor = ".".join(release.get("python", own).split(".")[:2])
    if kind not in ("", machine):
        needed, found = kind, machine
    elif system.startswith("manylinux_") and numbers(libc) < numbers(system):
        needed, found = system, libc
    elif not own.startswith(minor + ".") and not shutil.which("python" + minor, path=path or PATH):
        needed, found = "Python " + minor, own
    else:
        return
    raise Refused(f"the release is built for {needed}, and this machine has {found}; see --platform, --python")


def numbers(text: str) -> list[int]:
    return list(map(int, re.findall(r"\d+", text)))


def only_files(directory: str, bounds: tuple[str, ...]) -> None:
    """Refuse devices, pipes, and links that lead out of the bounds."""
    left = [directory]
    while left:
        for entry in os.scandir(left.pop()):
            if entry.is_symlink():
                if not os.path.realpath(entry.path).startswith(bounds):
                    raise Refused(f"{entry.name} in the bundle leads out of it")
            elif entry.is_dir():
                left.append(entry.path)
            elif not entry.is_file():
                raise Refused(f"{entry.name} in the bundle is no plain file")


def inside(directory: str, relative: str) -> str:
    """Return the path of an object in the release, its directory made; refuse one that would lie outside."""
    if "\0" in relative or any(part in ("", ".", "..") for part in relative.split("/")):
        raise Refused(f"{relative!r} under the prefix is no path inside a release")
    place = f"{directory}/{relative}"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    return place


def run_program(*words: str) -> None:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise Refused(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()}")


def say(text: str) -> None:
    print(f"flame: {text}", flush=True)


def main() -> None:
    os.umask(0o022)
    boot = Boot(json.loads(DOCUMENT))
    try:
        boot.remaining_steps() if sys.argv[1:] == ["prepared"] else boot.all_steps()
    except BootError as failed:
        boot.give_up(failed)


if __name__ == "__main__":
    main()
