"""How far is it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Is told of steps, and keeps them to itself."""

    def say(self, text: str) -> None:
        """A step begins, or came to something."""

    @contextmanager
    def bar(self, label: str, length: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002  for those who show it
        """A step of so many parts begins; what this gives is called with the number of parts that were done since."""
        self.say(label)
        yield lambda _: None
