"""What does a simulated run look like over time? SVG of queue, runners and waiting."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .outcome import Moment, Outcome

#: Pixels: what one run takes, and the panels in it.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, PANEL, GAP = 620, 640, 70, 24, 64, 140, 48
#: Points in time at which values are drawn.
STEPS = 260
UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))

FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" \
font-family="sans-serif" font-size="12">
<title>{title}</title>
<defs>
<pattern id="hatched" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">\
<rect width="5" height="5" fill="#fff"/><rect width="1.5" height="5" fill="#000"/></pattern>
<pattern id="dotted" width="4" height="4" patternUnits="userSpaceOnUse">\
<rect width="4" height="4" fill="#fff"/><circle cx="2" cy="2" r="0.9" fill="#000"/></pattern>
</defs>
<rect width="{width}" height="{height}" fill="#fff"/>
{body}
</svg>
"""
LIGHT = 'fill="#d4d4d4" stroke="none"'
DARK = 'fill="#888" stroke="#333" stroke-width="0.5"'
HATCHED = 'fill="url(#hatched)" stroke="#333" stroke-width="0.5"'
DOTTED = 'fill="url(#dotted)" stroke="#333" stroke-width="0.5"'
SOLID = 'fill="none" stroke="#000" stroke-width="1.5"'
DASHED = 'fill="none" stroke="#000" stroke-width="1.2" stroke-dasharray="5 3"'


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """One value over time: from `base` up to `top` where it is an area; None is a gap."""

    name: str
    style: str
    top: Sequence[float | None]
    base: Sequence[float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """What is drawn over one time axis, in seconds where `timed`."""

    title: str
    layers: tuple[_Layer, ...]
    timed: bool = False

    @property
    def top(self) -> float:
        return max((value or 0.0 for layer in self.layers for value in layer.top), default=0.0)


def picture(runs: Sequence[tuple[str, Outcome]], title: str) -> str:
    """Return an SVG document: a column for each run, under its words, all with the same axes."""
    span = max((outcome.ended_at for _, outcome in runs), default=0.0) or 1.0
    columns = [_panels(outcome, span) for _, outcome in runs]
    tops = [max(panel.top for panel in row) or 1.0 for row in zip(*columns, strict=True)]
    body = [_words(LEFT, 22, title, 'font-size="15" font-weight="bold"')]
    for number, ((words, _), panels) in enumerate(zip(runs, columns, strict=True)):
        body.append(f'<g transform="translate({number * WIDTH} 0)">')
        body.append(_words(LEFT, 42, words))
        for row, (panel, top) in enumerate(zip(panels, tops, strict=True)):
            body += _drawn(panel, TOP + GAP / 2 + row * (PANEL + GAP), span, top)
        body.append("</g>")
    return FRAME.format(width=WIDTH * len(runs), height=HEIGHT, title=_safe(title), body="\n".join(body))


def _panels(outcome: Outcome, span: float) -> tuple[_Panel, ...]:
    depths = _sampled(outcome, span, lambda moment: moment.waiting)
    fleets = _sampled(outcome, span, lambda moment: moment.booting + moment.up + moment.cordoned)
    up = [float(moment.up) for moment in fleets]
    cordoned = [below + moment.cordoned for below, moment in zip(up, fleets, strict=True)]
    booting = [below + moment.booting for below, moment in zip(cordoned, fleets, strict=True)]
    zeros = [0.0] * STEPS
    mean, longest = _waits(outcome, span)
    return (
        _Panel(title="Tasks", layers=(
            _Layer(name="waiting", style=LIGHT, top=[float(moment.waiting) for moment in depths], base=zeros),
            _Layer(name="running", style=DASHED, top=[float(moment.running) for moment in depths]),
        )),
        _Panel(title="Runners", layers=(
            _Layer(name="up", style=DARK, top=up, base=zeros),
            _Layer(name="cordoned", style=DOTTED, top=cordoned, base=up),
            _Layer(name="booting", style=HATCHED, top=booting, base=cordoned),
        )),
        _Panel(title="Waiting of the tasks that start", timed=True, layers=(
            _Layer(name="longest", style=LIGHT, top=[value or 0.0 for value in longest], base=zeros),
            _Layer(name="mean", style=SOLID, top=mean),
        )),
    )  # fmt: skip


def _sampled(outcome: Outcome, span: float, key: Callable[[Moment], int]) -> list[Moment]:
    """Return for each step in time the moment with the largest value; nothing is there after the end."""
    nothing = Moment(0.0, 0, 0, 0, 0, 0)
    moments, at, last, found = outcome.moments, 0, nothing, []
    for step in range(STEPS):
        largest = last
        while at < len(moments) and moments[at].at < (step + 1) * span / STEPS:
            last = moments[at]
            largest, at = max(largest, last, key=key), at + 1
        found.append(largest if step * span / STEPS < outcome.ended_at else nothing)
    return found


def _waits(outcome: Outcome, span: float) -> tuple[list[float | None], list[float | None]]:
    """Return for each step in time the mean and the longest wait of the tasks that start in it."""
    counts, sums, longest = [0] * STEPS, [0.0] * STEPS, [0.0] * STEPS
    for start, wait in zip(outcome.starts, outcome.waits, strict=True):
        step = min(STEPS - 1, int(start / span * STEPS))
        counts[step] += 1
        sums[step] += wait
        longest[step] = max(longest[step], wait)
    mean = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
    return mean, [value if count else None for value, count in zip(longest, counts, strict=True)]


def _drawn(panel: _Panel, y: float, span: float, top: float) -> Iterator[str]:
    unit, size = _unit(top) if panel.timed else ("", 1.0)
    yield _words(LEFT, y - 8, panel.title + (f" ({unit})" if unit else ""), 'font-weight="bold"')
    yield from _legend(panel, y)
    highest = top * 1.05
    for layer in panel.layers:
        yield f'<path d="{_path(layer, y, highest)}" {layer.style}/>'
    yield f'<path d="M{LEFT} {y:g}V{y + PANEL:g}H{WIDTH - RIGHT}" fill="none" stroke="#000"/>'
    for value in _ticks(top / size):
        at = y + PANEL * (1 - value * size / highest)
        yield f'<path d="M{LEFT - 4} {at:.1f}H{LEFT}" stroke="#000"/>'
        yield _words(LEFT - 7, at + 4, f"{value:g}", 'text-anchor="end"')
    yield from _time_axis(y + PANEL, span)


def _time_axis(y: float, span: float) -> Iterator[str]:
    unit, size = _unit(span)
    wide = WIDTH - LEFT - RIGHT
    for value in _ticks(span / size):
        at = LEFT + wide * value * size / span
        yield f'<path d="M{at:.1f} {y:g}v4" stroke="#000"/>'
        yield _words(at, y + 17, f"{value:g} {unit}", 'text-anchor="middle"')


def _legend(panel: _Panel, y: float) -> Iterator[str]:
    at = WIDTH - RIGHT
    for layer in reversed(panel.layers):
        at -= 7 * len(layer.name) + 34
        shape = f"M{at} {y - 12:g}h18" if layer.base is None else f"M{at} {y - 17:g}h18v10h-18z"
        yield f'<path d="{shape}" {layer.style}/>'
        yield _words(at + 23, y - 8, layer.name)


def _path(layer: _Layer, y: float, highest: float) -> str:
    """Return a layer as steps, back along its base where it is an area."""
    forth = _steps(layer.top, y, highest)
    if layer.base is None:
        return forth
    back = _steps(layer.base, y, highest, back=True)
    return f"{forth}L{back[1:]}Z"


def _steps(values: Sequence[float | None], y: float, highest: float, *, back: bool = False) -> str:
    wide = (WIDTH - LEFT - RIGHT) / STEPS
    order = range(STEPS - 1, -1, -1) if back else range(STEPS)
    heights = [None if value is None else f"{y + PANEL * (1 - value / highest):.1f}" for value in values]
    drawn, down = [], False
    for height, alike in itertools.groupby(order, key=heights.__getitem__):
        steps = list(alike)
        if height is not None:
            begin, end = (steps[0] + 1, steps[-1]) if back else (steps[0], steps[-1] + 1)
            drawn.append(f"V{height}" if down else f"M{LEFT + wide * begin:.1f} {height}")
            drawn.append(f"H{LEFT + wide * end:.1f}")
        down = height is not None
    return "".join(drawn)


def _ticks(top: float) -> list[float]:
    """Return round numbers from 0 to `top`, about five."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = power * next(factor for factor in (1, 2, 5, 10) if power * factor * 5 >= top * 0.999)
    return [float(f"{step * number:.6g}") for number in range(int(top / step * 1.0001) + 1)]


def _unit(seconds: float) -> tuple[str, float]:
    return next(((unit, size) for unit, size in UNITS if seconds >= 3 * size), ("s", 1.0))


def _words(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{style and " " + style}>{_safe(text)}</text>'


def _safe(text: str) -> str:
    """Return text as XML takes it: no control characters, no lone surrogates."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text))
