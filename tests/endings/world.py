"""What do the cells share? Brokers, started with the first cell that needs them, and what starts runners."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.nursery import Nursery
from tests.workers import Program

from .bed import Bed, Result
from .brokers import Broker, make_broker
from .expected import Cell

if TYPE_CHECKING:
    from typing_extensions import Self


class World:
    """A context manager. `plain` starts a new Python for each runner, as parents do, and not a fork."""

    def __init__(self, *, plain: bool = False, keep: bool = False) -> None:
        self._plain, self._keep = plain, keep
        self._stack = contextlib.ExitStack()
        self._brokers: dict[str, Broker] = {}
        self._program: Callable[..., Program] = Program

    def __enter__(self) -> Self:
        if not self._plain:
            directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="flame-nursery-")))
            self._program = self._stack.enter_context(Nursery(directory)).program
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, cell: Cell, endings: int) -> Result:
        """Measure one cell; where its guarantee was broken, logs and journal are kept and it is said where.

        Raises:
            ServerMissing: its broker is not installed.
        """
        directory = Path(tempfile.mkdtemp(prefix="flame-endings-"))
        result = Bed(cell, self._broker(cell.broker), self._program, directory, endings=endings).run()
        if result.broken or self._keep:
            print(f"{cell}: the runners' logs and the tasks' journal are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
        return result

    def _broker(self, name: str) -> Broker:
        if name not in self._brokers:
            made = make_broker(name)
            self._stack.enter_context(made.server)
            self._brokers[name] = made
        return self._brokers[name]
