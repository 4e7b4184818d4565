"""Is a value one that an option may have, and what is it then?"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any

#: Turns a raw value into the option's value, or raises ValueError with what was expected.
Check = Callable[[Any], Any]


def option(check: Check, *, default: Any = MISSING, factory: Any = MISSING, doc: str, secret: bool = False) -> Any:
    """Declare an option of a settings dataclass: how it is checked, what it defaults to, what it means.

    A refused value of a `secret` one is not shown.
    """
    metadata = {"check": check, "doc": doc, "shown": kind_of if secret else shown}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def read(kind: type, raw: Any, where: str, problems: list[str], *, also: Iterable[str] = ()) -> dict[str, Any]:
    """Check `raw` against the options `kind` declares; append one sentence per problem, return what is good.

    `also` are names that are read elsewhere, for the suggestion where one is misspelt.
    """
    if not isinstance(raw, Mapping):
        problems.append(f"{where}: expected a dict of options, got {kind_of(raw)}")
        return {}
    declared: dict[str, Field[Any]] = {f.name: f for f in fields(kind) if "check" in f.metadata}
    good: dict[str, Any] = {}
    for name, value in raw.items():
        if name not in declared:
            problems.append(f"{where}: unknown option {shown(name)}{suggestion(name, [*declared, *also])}")
            continue
        try:
            good[name] = declared[name].metadata["check"](value)
        except ValueError as exc:
            told = declared[name].metadata["shown"](value)
            problems.append(f"{where}: option {name!r} must be {exc}, got {told}")
    for name, declaration in declared.items():
        if name not in raw and declaration.default is MISSING and declaration.default_factory is MISSING:
            problems.append(f"{where}: option {name!r} is required ({declaration.metadata['doc']})")
    return good


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where one known name is close, else nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """Return a short repr of a refused value; what is inside a dict stays unseen, for it may be secret."""
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def kind_of(value: object) -> str:
    """Return what kind of value was refused, where the value itself may be secret."""
    return f"a {type(value).__name__}"


def number(*, low: float, high: float, above: bool = False) -> Check:
    """Accept a number from `low` (not itself where `above`) to `high`."""
    bound = f"a number {'above' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}"

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(bound)
        if not (low < value <= high if above else low <= value <= high):
            raise ValueError(bound)
        return float(value)

    return check


def integer(*, low: int, high: int) -> Check:
    """Accept a whole number from `low` to `high`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def flag(value: Any) -> bool:
    """Accept True or False, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(pattern: str = r".+", expected: str = "a text that is not empty") -> Check:
    """Accept a str that matches the whole pattern."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(expected)
        return value

    return check


def one_of(*names: str) -> Check:
    """Accept one of these words."""

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError("one of " + ", ".join(map(repr, names)))
        return str(value)

    return check


def some(check_one: Check) -> Check:
    """Accept one value or a list of them, each once; give a tuple."""

    def check(value: Any) -> tuple[Any, ...]:
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        checked = tuple(map(check_one, values))
        if not checked or len(set(checked)) != len(checked):
            raise ValueError("one value or a list of different ones")
        return checked

    return check


def optional(check_one: Check) -> Check:
    """Accept None, or what `check_one` accepts."""

    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            return check_one(value)
        except ValueError as exc:
            raise ValueError(f"{exc}, or None") from exc

    return check


def mapping(check_value: Check, *, key: str = r".+", expected: str = "a dict with names as keys") -> Check:
    """Accept a dict whose keys match and whose values pass; the name of a bad one is told, its value is not."""
    compiled = re.compile(key)

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(expected)
        checked = {}
        for name, item in value.items():
            if not isinstance(name, str) or not compiled.fullmatch(name):
                raise ValueError(f"{expected} (not {shown(name)})")
            try:
                checked[name] = check_value(item)
            except ValueError as exc:
                raise ValueError(f"{expected}, and {name!r} in it {exc}") from exc
        return checked

    return check
