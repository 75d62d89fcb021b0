"""Figures that compare agents, as PNG: intervals, performance profiles, curves, improvements.

Everything is drawn from plain numbers. An agent has the same colour in every figure of a report
when all of them get the same ``names``.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DPI = 110
MEASURED = 4  # panels of a figure whose margins fit its texts exactly

Values = Sequence[float]


class Interval(Protocol):
    """A number with its interval: an estimate, or a published one."""

    @property
    def value(self) -> float:
        """The number."""

    @property
    def low(self) -> float | None:
        """Lower end; None when there is no interval, as with one run."""

    @property
    def high(self) -> float | None:
        """Upper end; None when there is no interval."""

    @property
    def n(self) -> int | None:
        """Number of runs behind it; None if it is not known."""


@dataclass(frozen=True)
class Line:
    """A line with its band.

    Args:
        x: Where it is known, ascending.
        value: As many numbers.
        low: Lower edge; None where there is no interval.
        high: Upper edge.
    """

    x: Values
    value: Values
    low: Values | None = None
    high: Values | None = None


def interval_figure(
    panels: Mapping[str, Mapping[str, Interval]],
    names: Sequence[str],
    title: str,
    references: Mapping[str, Mapping[str, Interval]] | None = None,
) -> bytes:
    """Draw one panel per statistic or environment with one bar per agent.

    Args:
        panels: Title of a panel -> agent -> number. An agent without a number has an empty row.
        names: All agents, from top to bottom.
        title: Title of the figure.
        references: Title of a panel -> name of a published number -> it; drawn as a line with a
            shaded interval.

    Returns:
        The PNG.
    """
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    size = (2.2 + 2.9 * columns, rows * (1.2 + 0.34 * len(names)) + 0.3)
    longest = max(map(len, names), default=0)
    figure, save = _figure(size, len(panels), left=0.3 + 0.085 * longest)
    for index, (heading, agents) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for row, name in enumerate(names):
            if name in agents:
                _bar(axes, row, agents[name], _colour(names, name))
        for label, published in (references or {}).get(heading, {}).items():
            _published(axes.axvline, axes.axvspan, published, label)
        is_left = index % columns == 0
        axes.set_yticks(range(len(names)), labels=names if is_left else [])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.use_sticky_edges = False  # bars do not end at the frame
        axes.margins(x=0.1)
        axes.set_title(heading, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best", fontsize="x-small")
    figure.suptitle(title)
    return save()


def profile_figure(
    profiles: Mapping[str, Line], names: Sequence[str], title: str, xlabel: str
) -> bytes:
    """Draw performance profiles: the fraction of runs with a score above each threshold.

    Args:
        profiles: Agent -> thresholds and fractions.
        names: All agents; sets the colours.
        title: Title of the figure.
        xlabel: What the thresholds are.

    Returns:
        The PNG.
    """
    figure, save = _figure((7, 4.2))
    axes = figure.add_subplot()
    for name, band in profiles.items():
        _line(axes, name, band, _colour(names, name))
    axes.set(title=title, xlabel=xlabel, ylabel="fraction of runs above", ylim=(-0.03, 1.03))
    _finish(axes)
    return save()


def curve_figure(
    panels: Mapping[str, Mapping[str, Line]],
    names: Sequence[str],
    title: str,
    ylabel: str,
    references: Mapping[str, Mapping[str, Interval]] | None = None,
    xlabel: str = "steps",
) -> bytes:
    """Draw learning curves with bands, and published numbers as lines with shaded intervals.

    Args:
        panels: Environment -> agent -> steps and numbers.
        names: All agents; sets the colours.
        title: Title of the figure.
        ylabel: What the numbers are.
        references: Environment -> name of a published number -> it.
        xlabel: What is counted from left to right.

    Returns:
        The PNG.
    """
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    is_single = len(panels) == 1
    size = (7, 4.2) if is_single else (4 * columns, 2.6 * rows)
    figure, save = _figure(size, len(panels))
    for index, (heading, curves) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, line in curves.items():
            mark = "." if len(line.x) < 40 and is_single else ""
            _line(axes, name, line, _colour(names, name), mark)
        for label, published in (references or {}).get(heading, {}).items():
            _published(axes.axhline, axes.axhspan, published, label)
        axes.set_title(heading, fontsize="medium")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        if len(panels) > MEASURED:
            axes.locator_params(nbins=4)
        if index == 0 or len(panels) <= MEASURED:
            axes.legend(loc="best" if is_single else "upper left", fontsize="small")
    figure.suptitle(title)
    figure.supxlabel(xlabel, fontsize="medium")
    figure.supylabel(ylabel, fontsize="medium")
    return save()


def dots_figure(
    panels: Mapping[str, Mapping[str, Values]], names: Sequence[str], title: str
) -> bytes:
    """Draw every run as a dot, and the median of an agent's runs as a mark.

    Args:
        panels: Title of a panel -> agent -> a number per run.
        names: All agents, from top to bottom.
        title: Title of the figure.

    Returns:
        The PNG.
    """
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    size = (2.2 + 2.6 * columns, rows * (1.3 + 0.4 * len(names)) + 0.3)
    longest = max(map(len, names), default=0)
    figure, save = _figure(size, len(panels), left=0.3 + 0.085 * longest)
    for index, (heading, agents) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for row, name in enumerate(names):
            values = sorted(agents.get(name, ()))
            if values:
                # Apart from each other, so that equal ones can be counted.
                heights = [row + 0.5 * (i + 0.5) / len(values) - 0.25 for i in range(len(values))]
                axes.plot(values, heights, "o", color=_colour(names, name), alpha=0.6, markersize=4)
                middle = statistics.median(values)
                axes.plot([middle] * 2, [row - 0.35, row + 0.35], color="black", linewidth=1.5)
        axes.set_yticks(range(len(names)), labels=names if index % columns == 0 else [])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.set_title(heading, fontsize="small")
        axes.grid(axis="x", alpha=0.3)
        axes.locator_params(axis="x", nbins=4)
    figure.suptitle(title)
    return save()


def improvement_figure(pairs: Mapping[tuple[str, str], Interval], title: str) -> bytes:
    """Draw the probability that the first agent of each pair is better than the second.

    Args:
        pairs: Two agents -> probability between 0 and 1.
        title: Title of the figure.

    Returns:
        The PNG.
    """
    figure, save = _figure((7, 1.2 + 0.34 * len(pairs)))
    axes = figure.add_subplot()
    for row, interval in enumerate(pairs.values()):
        _bar(axes, row, interval, "C0")
    axes.axvline(0.5, color="black", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(pairs)), labels=[f"{x} > {y}" for x, y in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set(title=title, xlabel="P(first > second)", xlim=(-0.03, 1.03))
    axes.grid(axis="x", alpha=0.3)
    return save()


def _figure(
    size: tuple[float, float], panels: int = 1, left: float = 0.8
) -> tuple[Any, Callable[[], bytes]]:
    """Return a figure and what saves it; the left margin, in inches, is for many panels."""
    # Not pyplot: it looks for a display and keeps figures alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Measuring every text takes seconds for many panels: they get fixed margins.
    is_large = panels > MEASURED
    figure = Figure(figsize=size, layout=None if is_large else "constrained")
    FigureCanvasAgg(figure)
    if is_large:
        width, height = size
        sides = {"left": left / width, "right": 1 - 0.2 / width}
        ends = {"bottom": 0.55 / height, "top": 1 - 0.7 / height}
        figure.subplots_adjust(**sides, **ends, wspace=0.2, hspace=0.35)

    def save() -> bytes:
        buffer = io.BytesIO()
        # Without the version of matplotlib: the same numbers give the same bytes.
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()

    return figure, save


def _colour(names: Sequence[str], name: str) -> Any:
    from matplotlib import colormaps

    colours = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return colours(list(names).index(name) % colours.N)


def _bar(axes: Any, row: int, interval: Interval, colour: Any) -> None:
    """Draw the interval as a bar and the number as a mark; only the mark where there is none."""
    if interval.low is not None and interval.high is not None:
        width = interval.high - interval.low
        axes.barh(row, width, left=interval.low, height=0.6, color=colour, alpha=0.45)
    axes.plot([interval.value] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2.5)
    if interval.n is not None:
        label = f" n={interval.n}"
        right = interval.value if interval.high is None else interval.high
        axes.annotate(label, (right, row), va="center", fontsize="x-small", annotation_clip=True)


def _line(axes: Any, name: str, band: Line, colour: Any, marker: str = "") -> None:
    if band.low is not None and band.high is not None:
        axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(band.x, band.value, color=colour, marker=marker, label=name)


def _published(line: Any, span: Any, interval: Interval, label: str) -> None:
    style = {"color": "black", "alpha": 0.8, "linewidth": 1, "linestyle": "--"}
    line(interval.value, label=f"{label}: {interval.value:,.4g}", **style)
    if interval.low is not None and interval.high is not None:
        span(interval.low, interval.high, color="black", alpha=0.08, linewidth=0)


def _finish(axes: Any) -> None:
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize="small")
