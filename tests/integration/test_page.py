"""Is the status page served as it says, to browsers and monitoring, whatever clients do?"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from celery_flame_ec2.address import Address
from celery_flame_ec2.config import PoolSettings, Settings
from celery_flame_ec2.errors import PageError
from celery_flame_ec2.page import Page
from celery_flame_ec2.page.door import Door
from celery_flame_ec2.page.server import CONNECTIONS, Answer, Server
from tests.browser import Browser
from tests.conftest import servers_or_skip
from tests.overviews import hostile, overview, pool
from tests.waiting import wait_until
from tests.workers import Deployment, one_line_error

TOKEN = "correct-horse-battery-staple"
PATHS = ("/", "/status.json", "/history.json", "/metrics", "/healthz")
HOSTILE = """<script>document.title='pwned'</script><img src=x onerror="document.title='pwned'">'"&amp;{{7*7}}\u202e"""
POOL = {"queues": ["celery"], "max": 2, "max_concurrency": 2, "idle_shutdown_after": 1.0}


def settings(*pools: str, token: str | None = None) -> Settings:
    names = pools or ("video",)
    return Settings(pools=tuple(PoolSettings(name=name, queues=(name,)) for name in names), http_token=token)


@contextlib.contextmanager
def served(made: Settings, host: str = "127.0.0.1") -> Iterator[tuple[Page, int]]:
    page = Page(made, Address(host=host, port=0))
    page.start()
    try:
        yield page, page.address.port
    finally:
        page.stop()


@pytest.fixture
def shown() -> Iterator[int]:
    """The port of a page that shows a round."""
    with served(settings()) as (page, port):
        page.after_round(overview(pool(waiting=7)), 0.25)
        yield port


@pytest.fixture
def browser() -> Iterator[Browser]:
    with servers_or_skip(), Browser() as opened:
        yield opened


def ask(
    port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    with contextlib.closing(connection):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_each_path_is_answered_with_its_kind_and_nothing_is_kept_or_sniffed(shown: int) -> None:
    kinds = dict.fromkeys(PATHS, "application/json") | {
        "/": "text/html",
        "/metrics": "text/plain",
        "/healthz": "text/plain",
    }
    for path, kind in kinds.items():
        status, headers, body = ask(shown, path)
        assert status == 200
        assert headers["Content-Type"].split(";")[0] == kind
        assert headers["Content-Length"] == str(len(body))
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert ask(shown, path, method="HEAD")[2] == b""
    assert ask(shown, "/?anything=goes")[0] == 200
    assert ask(shown, "/../etc/passwd")[0] == 404


def test_the_status_is_what_flame_status_prints(shown: int) -> None:
    assert json.loads(ask(shown, "/status.json")[2]) == json.loads(json.dumps(overview(pool(waiting=7)).as_json()))


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_written(shown: int, method: str) -> None:
    status, headers, body = ask(shown, "/", method=method)
    assert (status, headers["Allow"], body) == (405, "GET, HEAD", b"this page is read-only\n")


def test_a_website_cannot_read_it_by_a_name_of_its_own(shown: int) -> None:
    for path in PATHS:
        assert ask(shown, path, Host=f"evil.example:{shown}")[0] == 421
        assert ask(shown, path, Host=f"localhost:{shown}")[0] == 200


def test_with_a_token_nothing_is_told_without_it() -> None:
    basic = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with served(settings(token=TOKEN)) as (page, port):
        page.after_round(overview(owner="secret-owner"), 0.1)
        for path in PATHS:
            status, headers, body = ask(port, path)
            assert status == 401
            assert headers["WWW-Authenticate"].startswith("Basic ")
            assert b"secret-owner" not in body
            for shown in (f"Bearer {TOKEN}", f"Basic {basic}"):
                assert ask(port, path, Authorization=shown, Host="status.example")[0] == 200


def test_ipv6_has_a_loopback_too() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with served(settings(), host="::1") as (_, port):
        assert ask(port, "/", host="::1")[0] == 200


def test_of_many_clients_that_stall_those_that_came_first_are_dropped_for_others(
    shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_flame_ec2.page.server._Handler.timeout", None)
    with contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(stalling(shown)) for _ in range(2 * CONNECTIONS)]
        assert ask(shown, "/healthz")[0] == 200
        assert all(is_dropped(each) for each in stalled[:CONNECTIONS])
        wait_until(lambda: page_threads() <= CONNECTIONS, what="no more threads than connections")
    wait_until(lambda: page_threads() == 0, what="no thread that answers nobody")


def test_a_client_that_stalls_is_dropped_though_nobody_else_comes(shown: int) -> None:
    with stalling(shown) as stalled:
        assert is_dropped(stalled)


def test_a_client_that_reads_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    patience, body = 0.5, bytes(8 << 20)
    monkeypatch.setattr("celery_flame_ec2.page.server._Handler.timeout", patience)
    server = Server(Address(host="127.0.0.1", port=0), Door(token=None), {"/": lambda: Answer(body=body)})
    server.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.connect(("127.0.0.1", server.address.port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began, got = time.monotonic(), 0
        while more := len(client.recv(64 << 10)):
            got += more
            time.sleep(patience / 50)  # it is slow, but never still
        assert time.monotonic() - began > patience  # or it was not slow
    server.stop()
    assert got > len(body)


@contextlib.contextmanager
def stalling(port: int) -> Iterator[socket.socket]:
    """A client that does not finish its question."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        with contextlib.suppress(OSError):  # it may be dropped by now
            client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        yield client


def is_dropped(client: socket.socket) -> bool:
    """Wait for the server to close a connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def page_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


def test_a_port_that_is_taken_is_told_with_the_setting_and_the_address(shown: int) -> None:
    other = Page(settings(), Address(host="127.0.0.1", port=shown))
    with pytest.raises(
        PageError, match=rf"^setting flame_http: cannot listen on 127\.0\.0\.1:{shown}: Address already"
    ):
        other.start()
    other.stop()


def test_a_page_that_is_stopped_lets_go_of_its_port() -> None:
    with served(settings()) as (_, port):
        pass
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_serve_shows_a_burst_live_and_stops_with_the_service(redis_url: str, tmp_path: Path, browser: Browser) -> None:
    with Deployment(tmp_path, redis_url, flame_pools={"pool": POOL}) as work:
        server = work.start("server", "flame", "serve", "--http", "127.0.0.1:0")
        (port,) = map(int, server.says(r"status page on http://127\.0\.0\.1:(\d+)/"))
        browser.size(1000, 900)
        browser.open(f"http://127.0.0.1:{port}/")
        browser.shows("No runner", selector="#runners")
        browser.run("window.stays = true")

        holding = [work.send("hold", number, str(tmp_path / "go")) for number in range(4)]
        wait_until(lambda: len(work.noted("holding")) == 4, what="four tasks at work", timeout=60)
        for runner in work.runners():
            browser.shows(runner, selector="#runners")
        wait_until(lambda: browser.text("#runners").count("\tup\t2\t") == 2, what="two busy runners", timeout=60)
        # one decision or two: the first may have come when not all tasks were there
        wait_until(lambda: re.search(r"launch [12]: ", history(port)), what="the decision in the history")
        assert {family.name for family in metrics(port)} > {"flame_runners", "flame_launches", "flame_boot_seconds"}
        assert value(port, "flame_boot_phase_seconds_count", pool="pool", phase="worker") == 2
        assert 0 < value(port, "flame_boot_phase_seconds_sum", pool="pool", phase="worker") < 120
        assert browser.run("document.querySelectorAll('figure svg[role=img]').length") == 2

        (tmp_path / "go").touch()
        browser.shows("No runner", selector="#runners")
        browser.shows("idle for", selector="#ended")
        assert browser.run("window.stays"), "the page was loaded anew"
        assert [result.get(timeout=20) for result in holding] == [0, 1, 2, 3]
        server.signal(signal.SIGTERM)
        assert server.ends() == 0
        browser.shows("no answer for", selector="#trouble")
        assert [problem for problem in browser.problems if "ERR_CONNECTION_REFUSED" not in problem] == []


def history(port: int) -> str:
    return " ".join(each["text"] for each in json.loads(ask(port, "/history.json")[2])["decisions"])


def metrics(port: int) -> list[Any]:
    return list(text_string_to_metric_families(ask(port, "/metrics")[2].decode()))


def value(port: int, name: str, **labels: str) -> float:
    samples = [sample for family in metrics(port) for sample in family.samples]
    (found,) = [sample.value for sample in samples if (sample.name, sample.labels) == (name, labels)]
    return float(found)


def test_hostile_texts_are_shown_as_text(browser: Browser) -> None:
    with served(settings(HOSTILE)) as (page, port):
        page.after_round(hostile(HOSTILE), 0.1)
        for width, dark in ((1000, False), (390, True)):
            browser.size(width, 900, dark=dark)
            browser.open(f"http://127.0.0.1:{port}/")
            for place in ("#owner", "#leader", "#trouble", "#pools h2", "#pools dl", "#runners", "#ended"):
                browser.shows(HOSTILE, selector=place)
            browser.shows(f"held at 3 and paused by {HOSTILE}", selector="#pools dl")
            assert browser.run("document.title") == f"{HOSTILE}: flame"
            assert browser.run("document.images.length + document.scripts.length") == 1
            assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.problems == []


def test_the_browsers_own_question_for_a_password_opens_the_page(browser: Browser) -> None:
    with served(settings(token=TOKEN)) as (page, port):
        page.after_round(overview(pool(waiting=7)), 0.1)
        browser.open(f"http://127.0.0.1:{port}/")
        assert "proj@broker" not in browser.text()
        browser.open(f"http://me:{TOKEN}@127.0.0.1:{port}/")
        browser.shows("proj@broker/0", selector="#owner")
        assert TOKEN not in browser.run("document.documentElement.outerHTML + location.href")


def test_serve_refuses_what_it_cannot_serve(redis_url: str, tmp_path: Path, shown: int) -> None:
    with Deployment(tmp_path, redis_url, flame_pools={"pool": POOL}) as work:
        line = one_line_error(work.run("flame", "serve", "--http", f"127.0.0.1:{shown}"))
        assert line == f"Error: setting flame_http: cannot listen on 127.0.0.1:{shown}: Address already in use"
        line = one_line_error(work.run("flame", "serve", "--http", "0.0.0.0:0"))
        assert line == (
            "Error: setting flame_http_token is required where flame_http (0.0.0.0:0) is not a loopback address"
        )


def test_a_worker_shows_a_page_and_goes_on_without_where_the_port_is_taken(redis_url: str, tmp_path: Path) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, Deployment(tmp_path, redis_url, flame_pools={"pool": POOL}) as work:
        port = taken.getsockname()[1]
        work.conf["flame_http"] = f"127.0.0.1:{port}"
        first = work.worker("--autoscale=1,1", name="first")
        first.says(f"this worker shows no status page: setting flame_http: cannot listen on 127.0.0.1:{port}")
        taken.close()
        second = work.worker("--autoscale=1,1", name="second")
        second.says(f"status page on http://127.0.0.1:{port}/")
        wait_until(lambda: ask(port, "/healthz")[0] == 200, what="a worker whose rounds go on")
        assert work.send("square", 7).get(timeout=20)["square"] == 49
        second.signal(signal.SIGTERM)
        assert second.ends() == 0
        assert first.running
