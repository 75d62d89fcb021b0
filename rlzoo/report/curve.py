"""The learning curve of one run as a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

Point = tuple[float, float, float]


def draw_curve(
    points: Sequence[Point],
    path: str | Path,
    title: str,
    unit: str = "steps",
    references: Mapping[str, float | None] | None = None,
) -> Path:
    """Draw mean returns with a band of one standard deviation over episodes.

    Args:
        points: Step, mean and standard deviation of every evaluation, in order. Points that are
            not finite leave a gap.
        path: PNG file to write; it is replaced by one rename.
        title: Title of the figure.
        unit: Unit of the steps.
        references: Name -> return of horizontal lines, such as the mean of the data; None is left
            out.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
    """
    # Not pyplot: it looks for a display and keeps figures alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [point[0] for point in points]
    means = [point[1] for point in points]
    low = [mean - std for _, mean, std in points]
    high = [mean + std for _, mean, std in points]
    axes.fill_between(steps, low, high, alpha=0.2, linewidth=0)
    axes.plot(steps, means, marker=".", label="evaluation, mean +- sd of episodes")
    shown = {name: value for name, value in (references or {}).items() if value is not None}
    for index, (name, value) in enumerate(shown.items(), start=1):
        axes.axhline(value, color=f"C{index}", linestyle="--", label=f"{name}: {value:,.0f}")
    axes.set(title=title, xlabel=unit, ylabel="undiscounted return")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
