"""Which commands does a block hold, and what does it say that they print?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from .pages import Block

PROMPT, MORE = "$ ", "> "


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command as it is printed; `prints` is empty where the block tells no output."""

    block: Block
    text: str
    prints: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    def __str__(self) -> str:
        return f"{self.block}: {self.text.strip()}"


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a block; in a `console` they stand behind a prompt, and what they print follows."""
    lines = block.text.splitlines()
    yield from _session(block, lines) if block.language == "console" else _script(block, lines)


def _script(block: Block, lines: list[str]) -> Iterator[Command]:
    text = ""
    for line in lines:
        text += f"{line}\n"
        if _is_whole(text):
            command = Command(block=block, text=text)
            if command.words:
                yield command
            text = ""
    if text:
        raise ValueError(f"{block}: this command has no end: {text}")


def _session(block: Block, lines: list[str]) -> Iterator[Command]:
    if not lines[0].startswith(PROMPT):
        raise ValueError(f"{block}: a console begins with {PROMPT!r}")
    for session in _split(lines):
        count = next((at for at, line in enumerate(session[1:], 1) if not line.startswith(MORE)), len(session))
        text = "\n".join(line[len(PROMPT) :] for line in session[:count])
        yield Command(block=block, text=f"{text}\n", prints="".join(f"{line}\n" for line in session[count:]))


def _split(lines: list[str]) -> Iterator[list[str]]:
    starts = [at for at, line in enumerate(lines) if line.startswith(PROMPT)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start:end]


def _is_whole(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quotation is open
        return False
    return not text.endswith("\\\n")
