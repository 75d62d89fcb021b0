"""Real against believed trajectories as figures and frames, with the peeks marked.

The cart-pole is drawn as it stands (solid) and as it is believed to stand (faint). Of other tasks
every dimension is a line, real and believed; where there are too many, both are images over time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from rlzoo.agents.observational_dropout.trajectories import Trajectory, Witness
from rlzoo.core.swingup import DT, LENGTH, LIMIT

__all__ = ["FPS", "Trajectory", "Witness", "filmstrip", "frames"]

FPS = 25
"""Frames per second of an animation; the swing-up is shown as fast as it is."""
PANELS, MAX_LINES, MAX_FRAMES = 12, 16, 250
_REAL, _BELIEVED, _PEEK, _TRACK = "#24508f", "#d1662b", "#ffd54a", "#969699"
_FAINT = 0.35
_STRIDE = round(1 / DT / FPS)  # steps per frame of the swing-up
_DPI = 100


def filmstrip(trajectory: Trajectory, title: str = "") -> Figure:
    """Draw a whole episode on one page.

    Args:
        trajectory: The episode.
        title: Above it.
    """
    figure = _cart_pole_page(trajectory) if trajectory.cart_pole else _lines_page(trajectory)
    looks = f"{int(trajectory.peeks.sum()):,} peeks in {len(trajectory):,} steps"
    figure.suptitle(f"{title}: {looks}" if title else looks)
    return figure


def frames(trajectory: Trajectory) -> Iterator[NDArray[np.uint8]]:
    """Draw an episode frame by frame, ``[height, width, 3]`` with even sides.

    Args:
        trajectory: The episode. Frames of the cart-pole are 4 steps apart; those of other tasks so
            many that there are at most 250.
    """
    return _cart_pole_frames(trajectory) if trajectory.cart_pole else _line_frames(trajectory)


def shown_steps(n_steps: int, cart_pole: bool) -> list[int]:
    """Return the steps that the frames of an episode show; the last one always."""
    stride = _STRIDE if cart_pole else max(1, math.ceil(n_steps / MAX_FRAMES))
    steps = list(range(0, n_steps, stride))
    return steps if steps[-1] == n_steps - 1 else [*steps, n_steps - 1]


# ---------------------------------------------------------------------------------- the cart-pole


class _Cart:
    """A cart with its pole, to be moved."""

    def __init__(self, axes: Any, colour: str, alpha: float, order: int) -> None:
        style: dict[str, Any] = {"color": colour, "alpha": alpha, "zorder": order}
        self.body = axes.add_patch(Rectangle((-0.2, -0.1), 0.4, 0.2, linewidth=0, **style))
        (self.pole,) = axes.plot([], [], linewidth=4, solid_capstyle="round", **style)

    def move(self, observation: NDArray[np.float32]) -> None:
        """Put it where an observation says; out of sight where that is not finite."""
        x, _, cosine, sine, _ = (float(value) for value in np.nan_to_num(observation, nan=99.0))
        x = min(max(x, -99.0), 99.0)
        self.body.set_x(x - 0.2)
        self.pole.set_data([x, x + LENGTH * sine], [0, LENGTH * cosine])


class _Stage:
    """The track with both carts on it."""

    def __init__(self, axes: Any) -> None:
        axes.set(xlim=(-3, 3), ylim=(-0.8, 0.8), aspect="equal", xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(False)
        axes.plot([-LIMIT, LIMIT], [0, 0], color=_TRACK, linewidth=1.5, zorder=0)
        axes.plot([-LIMIT, LIMIT], [0, 0], "|", color=_TRACK, markersize=12, zorder=0)
        self.axes = axes
        self.believed = _Cart(axes, _BELIEVED, _FAINT, 1)
        self.real = _Cart(axes, _REAL, 1.0, 2)

    def show(self, trajectory: Trajectory, step: int, peeked: bool) -> None:
        """Move both; the background flashes where the agent looked."""
        self.real.move(trajectory.real[step])
        self.believed.move(trajectory.believed[step])
        self.axes.set_facecolor(_PEEK if peeked else "white")


def _cart_pole_page(trajectory: Trajectory) -> Figure:
    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(4, PANELS // 2, height_ratios=(1, 1, 0.9, 0.9))
    steps = np.linspace(0, len(trajectory) - 1, PANELS).round().astype(int).tolist()
    for number, step in enumerate(steps):
        axes = figure.add_subplot(grid[divmod(number, PANELS // 2)])
        _Stage(axes).show(trajectory, step, bool(trajectory.peeks[step]))
        axes.set_title(f"{step * DT:.2f} s", fontsize="small")
    seconds = np.arange(len(trajectory)) * DT
    above, below = (figure.add_subplot(grid[row, :]) for row in (2, 3))
    for axes, index, name in ((above, 2, "cos of the angle"), (below, 0, "position / m")):
        _lines(axes, trajectory, index, seconds)
        axes.set_ylabel(name)
    below.set_xlabel("seconds; ticks at the lower edge: peeks")
    below.legend(loc="upper right", fontsize="small")
    return figure


def _cart_pole_frames(trajectory: Trajectory) -> Iterator[NDArray[np.uint8]]:
    figure = Figure(figsize=(6, 4), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    stage = _Stage(figure.add_axes((0, 0.05, 1, 0.85)))
    text = figure.text(0.03, 0.93, "", fontsize=11)
    figure.text(0.97, 0.93, "believed", fontsize=11, ha="right", color=_BELIEVED)
    figure.text(0.83, 0.93, "real", fontsize=11, ha="right", color=_REAL)
    before = -1
    for step in shown_steps(len(trajectory), True):
        peeked = bool(trajectory.peeks[before + 1 : step + 1].any())
        stage.show(trajectory, step, peeked)
        text.set_text(f"{step * DT:5.2f} s   {'peek' if peeked else ''}")
        before = step
        yield _pixels(canvas)


# ----------------------------------------------------------------------------------- other tasks


def _lines(axes: Any, trajectory: Trajectory, index: int, times: NDArray[Any]) -> tuple[Any, Any]:
    """Draw one dimension, and a tick for every peek; return the two lines."""
    (real,) = axes.plot(times, trajectory.real[:, index], color=_REAL, linewidth=1.4, label="real")
    (believed,) = axes.plot(
        times, trajectory.believed[:, index], color=_BELIEVED, linewidth=1, label="believed"
    )
    looks = times[trajectory.peeks]
    axes.plot(
        looks, np.zeros(len(looks)), "|", color="black", markersize=7, clip_on=False,
        transform=axes.get_xaxis_transform(), label="peek",
    )  # fmt: skip
    low, high = _limits(trajectory, index)
    axes.set(xlim=(times[0], max(times[-1], times[0] + 1e-9)), ylim=(low, high))
    return real, believed


def _limits(trajectory: Trajectory, index: int) -> tuple[float, float]:
    """Return the range of the real values with room: beliefs that run away leave the picture."""
    values = trajectory.real[:, index]
    low, high = float(values.min()), float(values.max())
    room = max(0.5 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-3)
    return low - room, high + room


def _panels(trajectory: Trajectory) -> tuple[Figure, list[Any]]:
    """Return a figure with the axes of the dimensions, at most :data:`MAX_LINES` of them."""
    count = trajectory.real.shape[1]
    rows, columns = (1, 2) if count > MAX_LINES else _layout(count)
    figure = Figure(figsize=(4 * columns, max(1.5 * rows, 4)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _layout(count: int) -> tuple[int, int]:
    columns = 1 if count < 4 else 2
    return math.ceil(count / columns), columns


def _lines_page(trajectory: Trajectory) -> Figure:
    figure, panels = _panels(trajectory)
    times = np.arange(len(trajectory))
    count = trajectory.real.shape[1]
    if count > MAX_LINES:
        _images(panels, trajectory)
        return figure
    for index, axes in enumerate(panels):
        if index < count:
            _lines(axes, trajectory, index, times)
            axes.set_ylabel(f"{index}")
        else:
            axes.set_visible(False)
    panels[0].legend(loc="upper right", fontsize="x-small")
    return figure


def _images(panels: list[Any], trajectory: Trajectory) -> None:
    """Draw dimensions against time, real and believed, in the same colours."""
    low, high = float(trajectory.real.min()), float(trajectory.real.max())
    pairs = (("real", trajectory.real), ("believed", trajectory.believed))
    for axes, (name, values) in zip(panels, pairs, strict=True):
        axes.imshow(
            values.T, aspect="auto", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest"
        )
        looks = np.flatnonzero(trajectory.peeks)
        axes.plot(
            looks, np.zeros(len(looks)), "|", color="black", markersize=7, clip_on=False,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        axes.set(title=name, xlabel="step")


def _line_frames(trajectory: Trajectory) -> Iterator[NDArray[np.uint8]]:
    """Show the page, with a line that moves and a flash at every peek."""
    figure = _lines_page(trajectory)
    page = _pixels(figure.canvas)  # drawn once: matplotlib takes half a second for 16 panels
    panels = [axes for axes in figure.axes if axes.get_visible()]
    before = -1
    for step in shown_steps(len(trajectory), False):
        peeked = bool(trajectory.peeks[before + 1 : step + 1].any())
        image = page.copy()
        for axes in panels:
            box = axes.get_window_extent()
            top, bottom = (len(page) - round(edge) for edge in (box.y1, box.y0))
            now = round(axes.transData.transform((step, 0))[0])
            width, colour = (2, _PEEK) if peeked else (0, "#000000")
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            image[max(top, 0) : bottom, max(now - width, 0) : now + width + 1] = rgb
        before = step
        yield image


def _pixels(canvas: Any) -> NDArray[np.uint8]:
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    height, width = (side - side % 2 for side in image.shape[:2])
    return image[:height, :width]
