"""Continuous Four Rooms: one environment with Gymnasium's interface."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.core.arguments import NON_NEGATIVE, Range, check_range
from rlzoo.core.seeding import check_seed
from rlzoo.envs.goals.base import GoalEnv, Observation
from rlzoo.envs.goals.maze import MAZES
from rlzoo.errors import RefusedError

_PIXELS = 16
_WALL, _FLOOR, _GOAL, _POINT = (70, 70, 80), (235, 235, 230), (60, 160, 75), (200, 60, 50)


class FourRooms(GoalEnv):
    """Move a point to a position in a house of four rooms; state and goal are (x, y).

    An action in [-1, 1]^2 moves the point by 0.2 times itself, as far as walls allow. Every episode
    starts at (0, 0). The observations are float32; rewards and successes follow from them.

    Args:
        maze: ``"four-rooms"``, 25x25 cells with rooms of 11x11, or ``"mini"``, 13x13 with 5x5.
        distance_threshold: A goal is reached within this distance of it.
        goals: ``"free"``: one of ``n_goals`` free positions, which are drawn once; ``"square"``:
            anywhere inside the outer walls, inner walls included, as for demonstrations;
            ``"cells"``: ``evaluation_goals`` in turn, from number ``seed`` of the reset on.
        n_goals: Number of training goals; at most ten per free cell.
        goal_seed: Draws them. ``make_vec`` derives it from the seed of the run, so that the copies
            of a run share their goals.
        action_noise: Standard deviation of normal noise on every action; the paper's coverage is
            measured with 0.15.
        render_mode: None or ``"rgb_array"``, ``[16 size, 16 size, 3]`` uint8.

    ``reset(options={"goal": (x, y)})`` sets the goal of the episode.

    Attributes:
        evaluation_goals: Centres of all free cells, ``[488, 2]`` (mini ``[104, 2]``), float64.
            "Coverage" is the fraction of them that one rollout each comes within the threshold of,
            at any time.
        training_goals: What ``goals="free"`` draws from, ``[n_goals, 2]``.

    Raises:
        RefusedError: If an argument is out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 - as in Gymnasium

    def __init__(
        self,
        maze: str = "four-rooms",
        distance_threshold: float = 1.0,
        goals: Literal["free", "square", "cells"] = "free",
        n_goals: int = 300,
        goal_seed: int = 0,
        action_noise: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        if maze not in MAZES:
            raise RefusedError(f"maze={maze!r} is unknown.", f"Allowed: {', '.join(MAZES)}.")
        if goals not in ("free", "square", "cells"):
            raise RefusedError(f"goals={goals!r} is unknown.", "Allowed: free, square, cells.")
        check_range("action_noise", action_noise, NON_NEGATIVE, "Four Rooms")
        self.action_noise = action_noise
        self.maze = MAZES[maze]
        self.evaluation_goals = self.maze.cells.copy()
        check_range("n_goals", n_goals, Range(1, 10 * len(self.maze.cells)), "Four Rooms")
        low, high = self.maze.low.astype(np.float32), self.maze.high.astype(np.float32)
        inside = spaces.Box(low, high, dtype=np.float32)
        super().__init__(inside, inside, distance_threshold)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self.goals, self.render_mode = goals, render_mode
        self.training_goals = self.maze.free_positions(n_goals, check_seed(goal_seed))
        self._position = np.zeros((1, 2))
        self._goal, self._cell = np.zeros(2), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode at (0, 0) with a new goal, or the one in the options."""
        super().reset(seed=seed)
        self._cell = self._cell + 1 if seed is None else seed
        asked = self.asked_goal(options)
        self._goal = self.draw_goal(self.np_random, self._cell) if asked is None else asked
        self._position = np.zeros((1, 2))
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move; actions beyond [-1, 1] are clipped."""
        actions = np.asarray(action, np.float32)[None]
        if self.action_noise:
            actions = actions + self.draw_noise(self.np_random)
        actions = np.clip(actions, -1, 1)
        self._position = self.maze.move(self._position, actions)
        observation = self._observe()
        reached = bool(self.success(observation["achieved_goal"], observation["desired_goal"]))
        return observation, float(reached) - 1, False, False, {"is_success": reached}

    def draw_noise(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw the noise of one action, ``[2]``."""
        return (self.action_noise * rng.standard_normal(2)).astype(np.float32)

    def draw_goal(self, rng: np.random.Generator, cell: int) -> NDArray[np.float64]:
        """Draw the goal of an episode, ``[2]``; ``cell`` is its number where goals come in turn."""
        if self.goals == "cells":
            in_turn: NDArray[np.float64] = self.evaluation_goals[cell % len(self.evaluation_goals)]
            return in_turn
        if self.goals == "square":
            return rng.uniform(self.maze.low, self.maze.high)
        chosen: NDArray[np.float64] = self.training_goals[rng.integers(len(self.training_goals))]
        return chosen

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image of the house, the goal and the point."""
        if self.render_mode is None:
            return None
        house = np.where(self.maze.walls[..., None], _WALL, _FLOOR).astype(np.uint8)
        image = house.repeat(_PIXELS, 0).repeat(_PIXELS, 1)
        for place, half, colour in ((self._goal, 5, _GOAL), (self._position[0], 3, _POINT)):
            column, row = ((place + self.maze.origin[::-1] + 0.5) * _PIXELS).astype(int)
            rows = slice(max(row - half, 0), row + half + 1)
            image[rows, max(column - half, 0) : column + half + 1] = colour
        return image

    def _observe(self) -> Observation:
        here = self._position[0].astype(np.float32)
        return {
            "observation": here,
            "achieved_goal": here.copy(),
            "desired_goal": self._goal.astype(np.float32),
        }
