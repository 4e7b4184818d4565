"""What load do a few words describe? `10000x1`, `2x~5`, `0.5x10ms@98,10m@2`, `2x1..10`

A number, `x`, and how long tasks run: a time (`5`, `10ms`, `1.5m`, `2h`, `1d`), `~` before a time that is the mean of
exponentially distributed ones, several with their weights behind `@` and commas between for a mix, or two of all these
with `..` between where the second holds from half-way on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .loads import DAY, Runtime, exponential, fixed, jumping, mixed

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
#: The longest time that can be said, in seconds: a hundred years.
LONGEST = 36525 * DAY
A_TIME = "a time such as 5, 10ms, 1.5m, 2h or 1d"
_TIME = re.compile(rf"(\d+\.?\d*|\.\d+)({'|'.join(UNITS)})?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """A number of tasks, or of tasks a second, and how long they run; `after` holds from half-way on."""

    number: float
    before: Runtime
    after: Runtime | None = None

    def runtime(self, seconds: float) -> Runtime:
        """Return how long tasks run in a load that goes on for so many seconds."""
        return self.before if self.after is None else jumping(self.before, self.after, at=seconds / 2)


def parse_seconds(text: str, *, above: bool = False) -> float:
    """Read a time, which is not 0 where `above`.

    Raises:
        ValueError: it is none, or longer than a hundred years.
    """
    match = _TIME.fullmatch(text)
    seconds = float(match[1]) * UNITS[match[2] or "s"] if match else LONGEST + 1
    if seconds > LONGEST or (above and not seconds):
        raise ValueError(f"expected {A_TIME},{' above 0 and' if above else ''} at most a hundred years, got {text!r}")
    return seconds


def parse_flow(text: str, *, most: float, whole: bool) -> Flow:
    """Read a number above 0 and at most `most`, `x`, and a runtime.

    Raises:
        ValueError: it is none; says what is expected.
    """
    number, _, runtime = text.partition("x")
    before, jumps, after = runtime.partition("..")
    return Flow(
        number=_number(number, most=most, whole=whole),
        before=_runtime(before),
        after=_runtime(after) if jumps else None,
    )


def _number(text: str, *, most: float, whole: bool) -> float:
    expected = f"{'a whole number' if whole else 'a number'} above 0 and at most {most:,.0f} before the x, got {text!r}"
    if not re.fullmatch(r"[0-9]+" if whole else r"[0-9]+\.?[0-9]*|\.[0-9]+", text):
        raise ValueError(expected)
    value = float(text)
    if not 0 < value <= most:
        raise ValueError(expected)
    return value


def _runtime(text: str) -> Runtime:
    parts = text.split(",")
    if len(parts) == 1 and "@" not in text:
        return _kind(text)
    weighed = []
    for part in parts:
        kind, _, weight = part.partition("@")
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}", weight):
            raise ValueError(
                f"each part of a mix has a weight, a whole number from 1, as in 10ms@98,10m@2; got {part!r}"
            )
        weighed.append((_kind(kind), float(weight)))
    return mixed(weighed)


def _kind(text: str) -> Runtime:
    try:
        seconds = parse_seconds(text.removeprefix("~"), above=True)
    except ValueError as exc:
        raise ValueError(f"how long tasks run stands behind the x: {exc}") from exc
    return exponential(seconds) if text.startswith("~") else fixed(seconds)
