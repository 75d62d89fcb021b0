"""Figures as SVG inside of an HTML page: no links, in the colours of the page's text."""

from __future__ import annotations

import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#010203"  # stands for the colour of the page's text until the SVG is written
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "legend.framealpha": 0.0,
    "font.size": 10,
}
_MAX_LEGEND = 14
_MAX_LABEL = 60


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        label: Name in the legend; empty for none.
        steps: Steps, in order.
        values: As many values; NaN leaves a gap.
        low: Lower end of the band, None for no band.
        high: Upper end of the band.
        group: Lines of one group have one colour.
        faint: Drawn thin, as one of many.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    group: int = 0
    faint: bool = False


def chart(lines: Sequence[Line], title: str, unit: str, ylabel: str, prefix: str) -> str:
    """Return curves over steps as one ``<svg>`` element.

    Args:
        lines: The curves.
        title: Title of the figure, also its text for screen readers.
        unit: Unit of the steps.
        ylabel: What the values are.
        prefix: Unique in the page; every id in the figure begins with it.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for line in lines:
            colour = f"C{line.group % 10}"
            if line.low is not None and line.high is not None:
                axes.fill_between(
                    line.steps, line.low, line.high, color=colour, alpha=0.2, linewidth=0
                )
            few = len(line.steps) <= 60 and not line.faint
            axes.plot(
                line.steps,
                line.values,
                color=colour,
                marker="." if few or len(line.steps) == 1 else None,
                linewidth=0.8 if line.faint else 1.8,
                alpha=0.45 if line.faint else 1.0,
                label=label_text(line.label) if line.label else "_",
            )
        axes.set(title=label_text(title), xlabel=unit, ylabel=ylabel)
        axes.grid(visible=True)
        named = sum(bool(line.label) for line in lines)
        if 0 < named <= _MAX_LEGEND:
            axes.legend(loc="best", fontsize="small")

    return _render(draw, (7.5, 4.0), title, prefix)


def grid(metrics: Mapping[str, Sequence[tuple[float, float]]], title: str, prefix: str) -> str:
    """Return small plots of several metrics over steps as one ``<svg>`` element."""
    columns = 3
    rows = max(1, math.ceil(len(metrics) / columns))

    def draw(figure: Figure) -> None:
        for index, (name, points) in enumerate(metrics.items(), start=1):
            axes = figure.add_subplot(rows, columns, index)
            few = points[:: max(1, len(points) // 400)]
            axes.plot(*zip(*few, strict=True), linewidth=1.2, color="C0")
            axes.set_title(label_text(name), fontsize="small")
            axes.tick_params(labelsize="x-small")
            axes.grid(visible=True)

    return _render(draw, (7.5, 1.8 * rows), title, prefix)


def mean_lines(
    label: str, curves: Sequence[Sequence[tuple[float, float]]], group: int
) -> list[Line]:
    """Return the lines of some runs of one kind: each run, and their mean where all have values.

    Curves of other evaluation steps are interpolated; nothing is extrapolated.
    """
    arrays = [np.asarray(curve, dtype=np.float64).reshape(-1, 2) for curve in curves if curve]
    name = f"{label} (n={len(arrays)})"
    if len(arrays) == 1:
        return [Line(name, arrays[0][:, 0].tolist(), arrays[0][:, 1].tolist(), group=group)]
    lines = [Line("", a[:, 0].tolist(), a[:, 1].tolist(), group=group, faint=True) for a in arrays]
    low = max((a[0, 0] for a in arrays), default=0.0)
    high = min((a[-1, 0] for a in arrays), default=-1.0)
    steps = np.unique(np.concatenate([a[:, 0] for a in arrays])) if arrays else np.empty(0)
    steps = steps[(steps >= low) & (steps <= high)]
    if len(steps):
        mean = np.mean([np.interp(steps, a[:, 0], a[:, 1]) for a in arrays], axis=0)
        lines.append(Line(name, steps.tolist(), mean.tolist(), group=group))
    return lines


def label_text(text: str) -> str:
    """Return a text without control characters, of a length that a figure can hold."""
    clean = "".join(" " if ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 else c for c in text)
    clean = clean if len(clean) <= _MAX_LABEL else clean[: _MAX_LABEL - 1] + "…"
    # A leading underscore hides a label.
    return f" {clean}" if clean.startswith("_") else clean


def _render(draw: Any, size: tuple[float, float], title: str, prefix: str) -> str:
    # Not pyplot: it looks for a display and keeps figures alive.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _embed(buffer.getvalue(), title, prefix)


def _embed(svg: str, title: str, prefix: str) -> str:
    """Take off what only a file of its own needs, and make its ids unique in the page."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    ids = itertools.count()
    names: dict[str, str] = {}

    def short(name: str) -> str:
        return names.setdefault(name, f"{prefix}-{next(ids)}")

    def tag(match: re.Match[str]) -> str:
        text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", match[0])
        text = re.sub(r"font-family: [^;\"]*; ?", "", text)  # the page has its own
        text = re.sub(r' id="([^"]*)"', lambda m: f' id="{short(m[1])}"', text)
        text = re.sub(r"url\(#([^)]*)\)", lambda m: f"url(#{short(m[1])})", text)
        return re.sub(r' (?:xlink:)?href="#([^"]*)"', lambda m: f' href="#{short(m[1])}"', text)

    svg = re.sub(r"<[^>]*>", tag, svg)
    label = html.escape(label_text(title), quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
