"""What if a constant of the policy were another? `python -m benchmarks.policy.varied module.NAME=value ... -- ARGS`.

Compares policies as `python -m benchmarks.policy ARGS` does, with numbers at the top of modules replaced before
anything imports them, defaults made of them included. Modules are named without the package.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

PACKAGE = "celery_flame_ec2"


def numbers(path: Path) -> dict[str, float]:
    """Return the numbers that a module names at its top, in capitals."""
    return {name: ast.literal_eval(value) for name, value in _assigned(ast.parse(path.read_text()))}


class _Loader(SourceFileLoader):
    """Compiles a module with other numbers, and keeps no compiled file of it."""

    def __init__(self, fullname: str, path: str, values: Mapping[str, float]) -> None:
        super().__init__(fullname, path)
        self._values = values

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path))
        for name, constant in _assigned(tree):
            constant.value = self._values.get(name, constant.value)
        return compile(tree, path, "exec")


class _Finder(MetaPathFinder):
    def __init__(self, values: Mapping[str, Mapping[str, float]]) -> None:
        self._values = values

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname in self._values else None
        if spec and spec.origin:
            spec.loader = _Loader(fullname, spec.origin, self._values[fullname])
        return spec


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.Constant]]:
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            for name, value in _pairs(statement.targets[0], statement.value):
                if isinstance(value, ast.Constant) and isinstance(value.value, int | float) and name.isupper():
                    yield name, value


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for one, other in zip(target.elts, value.elts, strict=True):
            yield from _pairs(one, other)
    elif isinstance(target, ast.Name):
        yield target.id, value


def _main() -> None:
    divided = sys.argv.index("--")
    values: dict[str, dict[str, float]] = {}
    for change in sys.argv[1:divided]:
        name, _, value = change.partition("=")
        module, _, constant = name.rpartition(".")
        values.setdefault(f"{PACKAGE}.{module}", {})[constant] = float(value) if "." in value else int(value)
    sys.meta_path.insert(0, _Finder(values))
    sys.argv[1:] = sys.argv[divided + 1 :]
    from benchmarks.policy.__main__ import main

    main()


if __name__ == "__main__":
    _main()
