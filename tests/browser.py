"""What does a real browser make of a page? Headless Chromium, spoken to over a pipe."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.servers import _die_with_us, find_program
from tests.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of a Chromium with a profile of its own; a context manager. `problems` is what its console complains of.

    It reads commands from its file descriptor 3 and answers on 4, each a JSON text that a NUL byte ends.
    """

    def __init__(self) -> None:
        self.program = find_program("chromium", "chromium-browser")
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._rest = b""

    def open(self, url: str) -> None:
        """Go there."""
        self._call("Page.navigate", url=url)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a window, or a phone, of this size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """Return what a reader sees of an element; nothing where there is none."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def shows(self, words: str, *, selector: str = "body", timeout: float = 60.0) -> str:
        """Wait until an element's text holds these words."""
        wait_until(lambda: words in self.text(selector), what=f"{selector} showing {words!r}", timeout=timeout)
        return self.text(selector)

    def picture(self, path: Path) -> None:
        """Write a screenshot of what is in the window."""
        shot = self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))

    def __enter__(self) -> Self:
        self._directory = tempfile.mkdtemp(prefix="flame-browser-")
        read, self._in = os.pipe()
        self._out, write = os.pipe()
        command = [*_die_with_us(), self.program, *OPTIONS, f"--user-data-dir={self._directory}", "about:blank"]

        def connect() -> None:
            # by way of numbers that are neither: one of the pipes may have been given 3 or 4
            ours, theirs = os.dup2(read, 100), os.dup2(write, 101)
            os.dup2(ours, 3)
            os.dup2(theirs, 4)

        with (Path(self._directory) / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=connect, close_fds=False,
                start_new_session=True, env={**os.environ, "HOME": self._directory},
            )  # fmt: skip
        os.close(read)
        os.close(write)
        self._session = ""
        targets = wait_until(self._pages, what="a page in the browser")
        self._session = self._call("Target.attachToTarget", targetId=targets[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        return self

    def _pages(self) -> list[Any]:
        return [each for each in self._call("Target.getTargets")["targetInfos"] if each["type"] == "page"]

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self._session = ""
            self._call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        session = {"sessionId": self._session} if self._session else {}
        os.write(self._in, json.dumps({"id": number, "method": method, "params": params, **session}).encode() + b"\0")
        while True:
            message = self._read()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self._notice(message)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = os.read(self._out, 1 << 20)
            assert chunk, f"the browser ended: {(Path(self._directory) / 'log').read_text()[-2000:]}"
            self._rest += chunk
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def _notice(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.problems.append(f"{params['entry']['level']}: {params['entry']['text']} {params['entry'].get('url')}")
        if method in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
            self.problems.append(json.dumps(params)[:1000])
