"""Imagined against real trajectories as figures and frames, with how familiar the plans are.

Every dimension of the observation is a line as it came (blue); from it start the futures that were
imagined when the plan was made (orange). Below is the denoiser's error along the plan, which the
objective subtracts: high where a plan leads away from the data (page, sections 2.3 and 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rlzoo.agents.dae_mpc.policies import State

__all__ = ["FPS", "Trajectory", "Witness", "filmstrip", "frames"]

FPS = 20
"""Frames per second of an animation, about as fast as the pendulum is."""
MAX_PANELS, MAX_FRAMES, FUTURES = 8, 150, 12
_REAL, _IMAGINED = "#24508f", "#d1662b"
_DPI = 100


@dataclass(frozen=True)
class Trajectory:
    """One episode of T steps.

    Args:
        real: What was observed, ``[T, S]``.
        imagined: What the plan of every step leads to, ``[T, H + 1, S]``, the observation first.
        errors: The denoiser's error of every window of the plan, in normalised units,
            ``[T, H - w + 1]``; None without a denoiser.
        usual: The 95th percentile of that error on the data of the last fit (another one with a
            hinge); None without a denoiser.
    """

    real: NDArray[np.float32]
    imagined: NDArray[np.float32]
    errors: NDArray[np.float32] | None = None
    usual: float | None = None

    def __len__(self) -> int:
        return len(self.real)


class Witness:
    """Acts as an agent does in one environment, and remembers what it saw and imagined.

    Args:
        model: A ``DAEMPC``.
        seed: Not needed: planning is the agent's own.
    """

    def __init__(self, model: Any, seed: int = 0) -> None:
        self.policy = model.policy
        self._steps: list[tuple[NDArray[np.float32], ...]] = []

    @th.no_grad()
    def predict(
        self,
        observation: NDArray[Any],
        state: State | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State | None]:
        """Act as the agent, see SB3; an episode start forgets what was before.

        Args:
            observation: ``[1, ...]``.
            state: What the last call returned.
            episode_start: ``[1]``.
            deterministic: As for the agent.
        """
        if state is None or (episode_start is not None and bool(np.asarray(episode_start)[0])):
            self._steps = []
        policy = self.policy
        flat = policy.flat(policy.obs_to_tensor(observation)[0])
        found, state = policy.decide(flat, state, episode_start, deterministic)
        rollout = policy.dynamics.rollout(flat, found.plans.unsqueeze(2), policy.fixed_generator())
        kept = [flat[0], rollout.states.mean(1)]  # one environment, one plan: only particles differ
        if policy.denoiser is not None:
            kept.append(policy.errors(rollout.pairs).mean(1))
        self._steps.append(tuple(part.cpu().numpy() for part in kept))
        return policy.unscaled(found.plans[0]), state

    def trajectory(self) -> Trajectory:
        """Return the episode so far, or the last one.

        Raises:
            RuntimeError: If nothing was played.
        """
        if not self._steps:
            raise RuntimeError("Nothing was played yet.")
        real, imagined, *errors = (np.stack(part) for part in zip(*self._steps, strict=True))
        if not errors:
            return Trajectory(real, imagined)
        return Trajectory(real, imagined, errors[0], float(self.policy.threshold))


def filmstrip(trajectory: Trajectory, title: str = "") -> Figure:
    """Draw a whole episode on one page, with a dozen of its imagined futures.

    Args:
        trajectory: The episode.
        title: Above it.
    """
    figure, panels, below = _page(trajectory, title)
    every = max(1, len(trajectory) // FUTURES)
    for index, axes in enumerate(panels):
        for step in range(0, len(trajectory), every):
            axes.plot(*_future(trajectory, step, index), color=_IMAGINED, linewidth=1, alpha=0.8)
    panels[0].plot([], [], color=_IMAGINED, label="imagined")
    panels[0].legend(loc="upper right", fontsize="x-small")
    if below is not None:
        below.legend(loc="upper right", fontsize="x-small")
    return figure


def frames(trajectory: Trajectory) -> Iterator[NDArray[np.uint8]]:
    """Draw an episode frame by frame, ``[height, width, 3]`` with even sides.

    Args:
        trajectory: The episode; there are at most 150 frames, and one more for the last step.
    """
    figure, panels, below = _page(trajectory, "")
    futures = [axes.plot([], [], color=_IMAGINED, linewidth=1.6)[0] for axes in panels]
    everywhere = [*panels, *([] if below is None else [below])]
    cursors = [axes.axvline(0, color="black", linewidth=0.8) for axes in everywhere]
    figure.canvas.draw()
    figure.set_layout_engine("none")  # decided once; it takes most of the time of a frame
    for step in shown_steps(len(trajectory)):
        for index, line in enumerate(futures):
            line.set_data(*_future(trajectory, step, index))
        for cursor in cursors:
            cursor.set_xdata([step, step])
        yield _pixels(figure.canvas)


def shown_steps(n_steps: int) -> list[int]:
    """Return the steps that the frames of an episode show; the last one always."""
    steps = list(range(0, n_steps, max(1, math.ceil(n_steps / MAX_FRAMES))))
    return steps if steps[-1] == n_steps - 1 else [*steps, n_steps - 1]


def _future(
    trajectory: Trajectory, step: int, index: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return times and values of what was imagined of one dimension."""
    values = trajectory.imagined[step, :, index]
    return np.arange(step, step + len(values)), values


def _page(trajectory: Trajectory, title: str) -> tuple[Figure, list[Any], Any]:
    """Return a figure with the real lines, the axes of the dimensions, and those of the errors."""
    count = min(trajectory.real.shape[1], MAX_PANELS)
    columns = 1 if count < 4 else 2
    rows = math.ceil(count / columns)
    bottom = trajectory.errors is not None
    figure = Figure(
        figsize=(4.5 * columns + 1, 1.5 * (rows + bottom) + 0.6), dpi=_DPI, layout="constrained"
    )
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + bottom, columns)
    times = np.arange(len(trajectory))
    panels = []
    for index in range(count):
        axes = figure.add_subplot(grid[divmod(index, columns)])
        axes.plot(times, trajectory.real[:, index], color=_REAL, linewidth=1.4, label="real")
        axes.set(xlim=(0, max(len(times) - 1, 1)), ylim=_limits(trajectory, index))
        axes.set_ylabel(f"{index}")
        panels.append(axes)
    below = _familiarity(figure.add_subplot(grid[rows, :]), trajectory) if bottom else None
    figure.suptitle(title)
    return figure, panels, below


def _familiarity(axes: Any, trajectory: Trajectory) -> Any:
    """Draw the mean error along the plan of every step, and what is usual for the data."""
    errors = np.zeros((len(trajectory), 1)) if trajectory.errors is None else trajectory.errors
    axes.plot(errors.mean(1), color=_IMAGINED, label="mean along the plan")
    axes.fill_between(
        np.arange(len(errors)), errors.min(1), errors.max(1), color=_IMAGINED, alpha=0.2,
        linewidth=0, label="least to most",
    )  # fmt: skip
    if trajectory.usual is not None and trajectory.usual > 0:
        axes.axhline(trajectory.usual, color="grey", linestyle="--", label="95 % of the data")
    axes.set(xlim=(0, max(len(errors) - 1, 1)), xlabel="step", ylabel="unfamiliar")
    axes.set_yscale("symlog", linthresh=max(trajectory.usual or 0.0, 1e-6))
    axes.set_ylim(bottom=0)
    return axes


def _limits(trajectory: Trajectory, index: int) -> tuple[float, float]:
    """Return the range of the real values with room: what runs away leaves the picture."""
    values = trajectory.real[:, index]
    low, high = float(values.min()), float(values.max())
    room = max(0.5 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-3)
    return low - room, high + room


def _pixels(canvas: Any) -> NDArray[np.uint8]:
    canvas.draw()
    image: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    height, width = (side - side % 2 for side in image.shape[:2])
    return image[:height, :width]
