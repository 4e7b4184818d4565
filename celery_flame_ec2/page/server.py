"""How is a request answered, whatever its client does, without a round waiting for it?"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..address import Address
from ..errors import PageError
from .door import Door

logger = logging.getLogger(__name__)

#: Seconds a client may let its connection stand still, and connections at a time: for one more the oldest is closed.
PATIENCE, CONNECTIONS = 5.0, 32
#: Bytes that are sent at a time, each with that patience.
CHUNK = 16 << 10
TEXT, JSON = "text/plain; charset=utf-8", "application/json"
#: What every answer carries; the page has a policy of its own.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one request gets."""

    body: bytes
    kind: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


def says(text: str, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> Answer:
    """Return an answer of one line."""
    return Answer(body=f"{text}\n".encode(), status=status, headers=headers)


class Server:
    """Answers what each path is given for, from threads of its own, between `start` and `stop`."""

    def __init__(self, address: Address, door: Door, answers: Mapping[str, Callable[[], Answer]]) -> None:
        self.address = address
        self._door, self._answers = door, answers
        self._server: _Server | None = None

    def start(self) -> None:
        """Listen, and answer from now on.

        Raises:
            PageError: the port is in use, or the address is none of this machine.
        """
        try:
            server = self._server = _Server(self.address, self._door, self._answers)
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise PageError(f"setting flame_http: cannot listen on {self.address}: {why}") from exc
        self.address = Address(host=self.address.host, port=server.server_address[1])
        threading.Thread(target=server.serve_forever, name="flame-page", daemon=True).start()

    def leave(self) -> None:
        """Let go of the port in a process that was forked from the one that answers."""
        if self._server is not None:
            self._server.socket.close()

    def stop(self) -> None:
        """Answer no more, and let go of the port."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, address: Address, door: Door, answers: Mapping[str, Callable[[], Answer]]) -> None:
        self.door, self.answers = door, answers
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._lock, self._open = threading.Lock(), OrderedDict[Any, None]()
        super().__init__((address.host, address.port), _Handler)

    def server_bind(self) -> None:
        """Bind, without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; who came first is the likeliest to be merely slow, and goes where there are too many."""
        with self._lock:
            self._open[request] = None
            if len(self._open) > CONNECTIONS:
                _interrupt(self._open.popitem(last=False)[0])
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Go on: the thread of this request is over, and that a client went away is no news."""
        log = logger.debug if isinstance(sys.exc_info()[1], OSError) else logger.error
        log("a request to the status page was not answered", exc_info=True)


def _interrupt(request: socket.socket) -> None:
    """End what a thread waits for. It closes the connection itself: by then the number may be another connection's."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE

    def version_string(self) -> str:
        return "celery-flame-ec2"

    def log_message(self, *_: Any) -> None:
        """Log nothing: the page asks every other second."""

    def do_GET(self) -> None:
        self._send(self._answer())

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._send(says("this page is read-only", HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD"))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(self) -> Answer:
        refusal = self.server.door.refuses(
            host=self.headers.get("Host", ""), authorization=self.headers.get("Authorization", "")
        )
        if refusal is not None:
            challenge = {"WWW-Authenticate": refusal.challenge} if refusal.challenge else {}
            return says(refusal.why, refusal.status, **challenge)
        answer = self.server.answers.get(self.path.partition("?")[0])
        return answer() if answer else says(f"there is {', '.join(self.server.answers)}", HTTPStatus.NOT_FOUND)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        length = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**HEADERS, **length, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            for at in range(0, len(answer.body), CHUNK):
                self.wfile.write(answer.body[at : at + CHUNK])
