"""What does a reader do with a page: what is typed, what is put into files, what is to be seen then?"""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests.waiting import PATIENCE, wait_until
from tests.workers import Program

from .pages import Block, blocks
from .place import Place
from .shell import Command, commands

README = "README.md"
#: What has been pushed by who did what the README says.
PUSHED = "proj/1.4.2.tar.gz"
#: Where a page begins in a clone; elsewhere in the example that the README's settings are added to.
BEGINS = {
    "docs/django.md": ".",
    "docs/quickstart.md": "..",
    "docs/status.md": "examples/proj",
    "examples/django/README.md": "examples/django",
    "examples/proj/README.md": "examples/proj",
}
#: What a page that does not begin with it takes for granted.
BEFORE = {
    "docs/simulate.md": "celery -A proj.app worker -E -Q video\n",
    "docs/status.md": "celery -A proj.app worker --autoscale=2,1\n",
}
#: Pages that have the reader put their examples in Python into proj/app.py.
WRITTEN = {README, "docs/quickstart.md"}
#: Pages that show, in blocks without a language, what is to be seen after what was typed.
SHOWN = {"docs/quickstart.md"}
#: What runs until it is told to end, and what tells that it is up; a worker is asked.
WORKER = r"celery .*\bworker "
ENDLESS = {
    WORKER: "",
    r" flame serve": r"serving \w",
    r" flame record (?!.*--for)": r"recording ",
    r"--watch": "leader",
}
#: What stands for a part of a command that the reader is to fill in.
FILLED = {"[POOL]": "default", " POOL": " default", "NUMBER": "1"}
#: Commands that do not end with 0 here, and why.
EXITS = {("docs/operations.md", "flame cordon"): 1}  # an instance of this AWS runs nothing that would answer
#: Lines that are not looked for: what is cordoned at the end of a burst is chance; here the broker's address is of this
#: machine alone, the keys are of a user, the way to S3 is a gateway, and the role has a name of its own.
OTHERWISE = "cordon|^✓ (broker for runners|credentials|route to SN|instance profile):|simulate-principal-policy"
PRINTED = doctest.OutputChecker()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Reader:
    """Goes through a page from top to bottom."""

    def __init__(self, page: str, place: Place) -> None:
        self.page, self.place = page, place
        self._worker: Program | None = None
        self._others: list[Program] = []
        self._unseen: list[str] = []

    def read(self, skipped: set[str]) -> None:
        """Type each command but the skipped ones, write each file, look for what is to be seen."""
        self._begin()
        for block in (each for each in blocks() if each.page == self.page):
            if block.language in {"sh", "console"}:
                for command in commands(block):
                    if str(command) not in skipped:
                        self._type(command)
            elif block.language == "python" and self.page in WRITTEN:
                self._write(block)
            elif not block.language and self.page in SHOWN:
                self._see(block)
        self._end()
        assert not self._unseen, "\n".join(self._unseen)

    def _begin(self) -> None:
        place = self.place
        place.directory = (place.clone / BEGINS.get(self.page, "examples/proj")).resolve()
        begun = self.page not in BEGINS and self.page != README
        place.clear_shelf(*[PUSHED] * begun)
        if begun:
            for block in blocks("python"):
                if block.page == README:
                    place.write("proj/app.py", block.text)
        if self.page in BEFORE:
            self._start(BEFORE[self.page])

    def _end(self) -> None:
        for terminal in [*self._others, self._worker]:
            if terminal:
                self._interrupt(terminal)

    def _write(self, block: Block) -> None:
        """Put it into the app, once the worker that has read it is ended."""
        if self._worker:
            self._interrupt(self._worker)
            self._worker = None
        self.place.write("proj/app.py", block.text)

    def _interrupt(self, terminal: Program) -> None:
        # After Ctrl-C a worker of Celery's, ended well, says 1.
        assert self.place.interrupt(terminal) == (terminal is self._worker), terminal.tail
        assert "Traceback" not in terminal.output, terminal.tail

    def _type(self, command: Command) -> None:
        for text in _filled(command.text):
            if _is_endless(text):
                self._start(text)
                continue
            code = self.place.run(self._with_runner(text))
            wanted = next((code for (page, words), code in EXITS.items() if page == self.page and words in text), 0)
            assert code == wanted, f"{command}: exit code {code}\n{self.place.said}"
            assert "Traceback" not in self.place.said, self.place.said
            if command.prints:
                self._must_have_printed(command)

    def _with_runner(self, text: str) -> str:
        """Fill in the id of a runner that is up, and has work: one that is cordoned ends when it has none."""
        if not text.rstrip().endswith("RUNNER") and " RUNNER " not in text:
            return text
        wait_until(lambda: len(self.place.answers()) > 1, what="a runner's answer")
        if " cordon " in text:
            for _ in range(6):
                self.place.broker.send_task("proj.tasks.nap", [15])
        return text.replace("RUNNER", min(self.place.runners()))

    def _must_have_printed(self, command: Command) -> None:
        said = self.place.translated_back(self.place.said)
        if not PRINTED.check_output(command.prints, said, FLAGS):
            example = doctest.Example(command.text, command.prints)
            raise AssertionError(f"{command}\n{PRINTED.output_difference(example, said, FLAGS)}")

    def _start(self, text: str) -> None:
        if re.search(WORKER, _bare(text)):
            if self._worker:
                self._interrupt(self._worker)
            self._worker = self.place.start(text)
            wait_until(self.place.answers, what="the worker's answer")
            return
        terminal = self.place.start(text)
        terminal.says(next(says for pattern, says in ENDLESS.items() if re.search(pattern, _bare(text))))
        if " record " in text:
            self._work(recorded=self.place.directory / _bare(text).split()[-1])
            self._interrupt(terminal)
        else:
            self._others.append(terminal)

    def _work(self, *, recorded: Path) -> None:
        """Have the worker do some tasks of the queue that is recorded."""
        for _ in range(5):
            self.place.broker.send_task("proj.tasks.nap", [0.1], queue="video")
        wait_until(lambda: len(recorded.read_text().splitlines()) > 5, what="five tasks recorded")

    def _see(self, block: Block) -> None:
        wanted = [line for line in _lines(block.text) if not re.search(OTHERWISE, line)]

        def missing() -> list[str]:
            there = set(_lines(self.place.seen()))
            return [line for line in wanted if line not in there]

        try:
            wait_until(lambda: not missing(), what=f"{block} to be seen", timeout=PATIENCE / 2, poll=0.5)
        except AssertionError as exc:  # and on: whoever mends a page wants to know all of it
            self._unseen.append("\n    ".join([str(exc), "lines that are not there:", *missing()]))


def _filled(text: str) -> list[str]:
    """Return what a reader may type: what stands in brackets may be left out."""
    texts = [text.replace("[POOL]", ""), text] if "[POOL]" in text else [text]
    for blank, word in FILLED.items():
        texts = [each.replace(blank, word) for each in texts]
    return texts


def _bare(text: str) -> str:
    """Return a command without what is said about it."""
    return " ".join(shlex.split(text, comments=True))


def _is_endless(text: str) -> bool:
    return any(re.search(pattern, _bare(text)) for pattern in ENDLESS)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines without what differs from run to run: numbers, ids, addresses, moments."""
    whole = re.sub(r"\n {11}(?=\S)", " ", text)  # what `flame status` goes on with in the next line
    for line in whole.splitlines():
        line = re.sub(r"^\[[\d: ,-]+: \w+/\w+\] ", "", line)
        line = re.sub(r"\b(local|i|rtb|subnet|ami|sg)-[0-9a-f]+\b", r"\1-ID", line)
        line = re.sub(r"\b(broker\.internal|127\.0\.0\.1)(:\d+)?", "BROKER", line)
        line = re.sub(r"\b[0-9a-f]{32,}\b", "HASH", line)
        line = re.sub(r"(\d[\d.:]*)( min| h)?\b", "N", line)
        line = re.sub(r"(\w+-ID)(, \w+-ID)+", r"\1", line)
        if line := " ".join(line.split()):
            yield line
