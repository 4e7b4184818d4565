"""Which real servers do the tests talk to?

Every server listens on a free port of 127.0.0.1, lives in a directory of its own and is ended by its own pid.
Where util-linux is installed a server also dies with the thread that started it, so a killed test run leaves nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tests.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

START_TIMEOUT = 90.0  #: seconds; RabbitMQ needs 5 to 10 on an idle machine
STOP_TIMEOUT = 20.0  #: seconds between SIGTERM and SIGKILL


class ServerMissing(Exception):
    """Raised when a server's program is not installed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_program(*candidates: str) -> str:
    """Return the first candidate (name or path) that can be run.

    Raises:
        ServerMissing: none is installed.
    """
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise ServerMissing(f"{Path(candidates[-1]).name} is not installed")


def kill_group(pid: int) -> None:
    """End all processes of a group that are left, without a word."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


class Process:
    """One child process: its log in `directory`, its life in our hands."""

    def __init__(
        self, command: Sequence[str], *, directory: Path, name: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.command = [*_die_with_us(), *command]
        self.directory, self.name, self.env = directory, name, dict(env or {})
        self.log = directory / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.directory, env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def must_live(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self.name} exited with {self._process.returncode}:\n{self.log.read_text()[-3000:]}")

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """End it and what it started, as the end of its unit's control group or of its machine does."""
        kill_group(self.pid)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _die_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


class Server(ABC):
    """A server on a free port; a context manager. `restart` keeps port and directory."""

    name: str

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"flame-{self.name}-"))
        self.process = Process(self.command(), directory=self.directory, name=self.name, env=self.environment())

    @property
    @abstractmethod
    def url(self) -> str: ...

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    @abstractmethod
    def answers(self) -> bool: ...

    def environment(self) -> Mapping[str, str]:
        return {}

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        self.process.start()
        wait_until(self._is_up, what=f"{self.name} answering on port {self.port}", timeout=START_TIMEOUT)

    def _is_up(self) -> bool:
        self.process.must_live()
        try:
            return self.answers()
        except OSError:  # not listening yet
            return False

    def pause(self) -> None:
        """Stop the process where it is: connections stay open and nothing answers."""
        self.process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.signal(signal.SIGCONT)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def stop(self) -> None:
        """End the server; its directory stays, for `restart`."""
        self.process.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also Ctrl-C: `__exit__` is not called, and the server would live on
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def talk(self, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as conn:
            conn.sendall(sent)
            return conn.recv(512)


class RedisServer(Server):
    """redis-server without persistence; what it held is gone after `restart`."""

    name = "redis"

    def __init__(self, *, password: str = "") -> None:
        self.password = password
        super().__init__()

    def command(self) -> Sequence[str]:
        options = {
            "--bind": "127.0.0.1", "--port": str(self.port), "--dir": str(self.directory),
            "--save": "", "--appendonly": "no", "--requirepass": self.password,
        }  # fmt: skip
        return [find_program("redis-server"), *(word for option in options.items() for word in option)]

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        return self.talk(b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))


class LastingRedisServer(RedisServer):
    """redis-server that still has after a restart what it held; it writes every change down."""

    def command(self) -> Sequence[str]:
        options = ["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
        return [*super().command(), *options]

    def writes(self) -> Iterator[list[bytes]]:
        """Yield the words of every command that changed something, in order, as Redis noted it."""
        for path in sorted(self.directory.rglob("*.aof")):
            with path.open("rb") as file:
                while line := file.readline():
                    if line.startswith(b"*"):
                        yield [_bulk(file) for _ in range(int(line[1:]))]


def _bulk(file: BinaryIO) -> bytes:
    """Read one word of the protocol of Redis."""
    text = file.read(int(file.readline()[1:]))
    file.readline()
    return text


class TlsRedisServer(RedisServer):
    """redis-server with a second port that speaks TLS under a certificate of its own making."""

    def __init__(self) -> None:
        self.tls_port = free_port()
        super().__init__()

    def command(self) -> Sequence[str]:
        key, certificate = self.directory / "key.pem", self.directory / "cert.pem"
        subprocess.run(
            [find_program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "2", "-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        return [
            *super().command(), "--tls-port", str(self.tls_port), "--tls-auth-clients", "no",
            "--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate),
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.tls_port}/0?ssl_cert_reqs=none"


class SentinelServer(Server):
    """A sentinel that knows one Redis under the name `mymaster`."""

    name = "sentinel"

    def __init__(self, master: RedisServer) -> None:
        self.master = master
        super().__init__()

    def command(self) -> Sequence[str]:
        configuration = self.directory / "sentinel.conf"  # which the sentinel rewrites
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\nsentinel monitor mymaster 127.0.0.1 {self.master.port} 1\n"
        )
        return [find_program("redis-server"), str(configuration), "--sentinel"]

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        return self.talk(b"SENTINEL get-master-addr-by-name mymaster\r\n").startswith(b"*2")


class RabbitServer(Server):
    """rabbitmq-server with its own node name, distribution port and epmd; durable queues outlive `restart`."""

    name = "rabbitmq"

    def __init__(self) -> None:
        self.epmd_port, self.dist_port = free_port(), free_port()
        super().__init__()
        self.epmd = Process(
            [find_program("epmd"), "-address", "127.0.0.1", "-port", str(self.epmd_port)],
            directory=self.directory, name="epmd",
        )  # fmt: skip
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "disk_free_limit.absolute = 1MB",  # or a small machine blocks every publisher
            "vm_memory_high_watermark.relative = 0.9",
            "log.console = true",
            "log.file = false",
        ]
        return "\n".join(lines) + "\n"

    def command(self) -> Sequence[str]:
        # Debian's wrapper on PATH changes user and directory; the script it wraps does neither.
        return [find_program("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")]

    def environment(self) -> Mapping[str, str]:
        here = self.directory
        return {
            "HOME": str(here),  # the Erlang cookie
            "RABBITMQ_NODENAME": f"flame{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RUNNING_UNDER_SYSTEMD": "true",  # makes the start script exec the server: the pid we hold is its own
        }

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def answers(self) -> bool:
        return self.talk(b"AMQP\x00\x00\x09\x01")[:1] == b"\x01"  # connection.start

    def start(self) -> None:
        if not self.epmd.running:
            self.epmd.start()
        super().start()

    def close(self) -> None:
        self.stop()
        self.epmd.stop()
        super().close()


class PrometheusServer(Server):
    """A Prometheus that asks one target for metrics, twice a second, and evaluates these rules as often."""

    name = "prometheus"

    def __init__(self, target: str, rules: Path) -> None:
        super().__init__()
        configuration = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "flame", "static_configs": [{"targets": [target]}]}],
        }
        (self.directory / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML

    def command(self) -> Sequence[str]:
        return [
            find_program("prometheus"), f"--config.file={self.directory}/prometheus.yml",
            f"--storage.tsdb.path={self.directory}/data", f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        return self.talk(b"GET /-/ready HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression is now."""
        words = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{words}", timeout=10) as answer:
                return list(json.load(answer)["data"]["result"])
        except urllib.error.HTTPError as exc:
            raise ValueError(f"{expression}: {exc.read().decode()}") from exc


class MotoServer(Server):
    """A stand-in for the AWS APIs; `url` is the endpoint of every service."""

    name = "moto"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def sqs_broker_url(self) -> str:
        return f"sqs://testing:testing@127.0.0.1:{self.port}//"

    def answers(self) -> bool:
        return self.talk(b"GET /moto-api/ HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.")

    def reset(self) -> None:
        """Forget every queue, bucket and instance."""
        request = urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass
