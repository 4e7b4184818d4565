"""What do the cells share? Brokers, started with the first cell that needs them, and what starts runners."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import AWS

from .bed import Bed, Result
from .brokers import Broker, make_broker
from .expected import Cell
from .nursery import ROOT, Nursery, Plain

if TYPE_CHECKING:
    from typing_extensions import Self


class World:
    """A context manager. `plain` starts a new Python for each runner, as parents do, and not a fork."""

    def __init__(self, *, plain: bool = False, keep: bool = False) -> None:
        self._plain, self._keep = plain, keep
        self._stack = contextlib.ExitStack()
        self._brokers: dict[str, Broker] = {}

    def __enter__(self) -> Self:
        environ = {**os.environ, **AWS, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        environ["PYTHONWARNINGS"] = "ignore:You're running the worker with superuser"
        self._starter = (Plain if self._plain else Nursery)(environ)
        self._stack.callback(self._starter.close)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, cell: Cell, endings: int) -> Result:
        """Measure one cell; where its guarantee was broken, logs and journal are kept and it is said where.

        Raises:
            ServerMissing: its broker is not installed.
        """
        directory = Path(tempfile.mkdtemp(prefix="flame-endings-"))
        result = Bed(cell, self._broker(cell.broker), self._starter, directory, endings=endings).run()
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
