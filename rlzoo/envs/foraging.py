"""Apples and fires for Gymnasium: ``rlzoo/AppleFireGrid-v0``.

The rules are in :class:`rlzoo.core.foraging.AppleFireGrid`. Registered by ``import rlzoo.envs``.
Chance comes from the seeded generator of the environment only, and when an episode begins.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rlzoo.core.foraging import (
    APPLE,
    BORDER,
    FIRE,
    MOVES,
    SIZE,
    STEPS,
    WIDTH,
    AppleFireGrid,
)

ENTRY_POINT = "rlzoo.envs.foraging:AppleFireGridEnv"
_PIXELS = 32  # of a cell
_WALL, _FLOOR, _FLAME, _FRUIT, _AGENT, _SEEN = (
    (120, 120, 125), (250, 250, 248), (200, 90, 40), (70, 150, 60), (50, 90, 160), (225, 232, 245)
)  # fmt: skip


class AppleFireGridEnv(gym.Env[NDArray[np.float32], np.int64]):
    """Eat apples between fires; see :class:`rlzoo.core.foraging.AppleFireGrid`.

    Args:
        render_mode: None or ``"rgb_array"``, ``[384, 384, 3]`` uint8.

    Attributes:
        simulator: The task as a tensor program, for agents that can use it.
        cells: ``[14, 14]``: 0 nothing, 1 an apple, 2 a fire; may be set, as ``place``.
        place: Row and column of the agent in ``cells``, from 2 to 11.
        length: Steps of this episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.simulator, self.render_mode = AppleFireGrid(), render_mode
        self.observation_space: Any = self.simulator.observation_space
        self.action_space: Any = self.simulator.action_space
        self.cells = np.zeros((WIDTH, WIDTH), np.int64)
        self.place, self.length, self.steps, self.score = (BORDER, BORDER), STEPS, 0, 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a map and the length of the episode."""
        super().reset(seed=seed)
        start = self.simulator.start(self.np_random).astype(np.int64)
        self.cells = start[: WIDTH * WIDTH].reshape(WIDTH, WIDTH)
        row, column, self.steps, self.length, _ = start[WIDTH * WIDTH :].tolist()
        self.place, self.score = (row, column), 0.0
        return self._observe(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Walk, look, eat; the mean score is paid in the last step."""
        by = MOVES[int(action)]
        row, column = (
            min(max(at + step, BORDER), BORDER + SIZE - 1)
            for at, step in zip(self.place, by, strict=True)
        )
        self.place = (row, column)
        observation, here = self._observe(), self.cells[row, column]
        self.score += 1 + (APPLE if here == 1 else FIRE if here == 2 else 0)
        if here == 1:
            self.cells[row, column] = 0
        self.steps += 1
        ended = self.steps >= self.length
        return observation, self.score / self.length if ended else 0.0, ended, False, {}

    def _observe(self) -> NDArray[np.float32]:
        row, column = self.place
        view = self.cells[row - BORDER : row + BORDER + 1, column - BORDER : column + BORDER + 1]
        return np.concatenate([view == 1, view == 2], None).astype(np.float32)

    def render(self) -> NDArray[np.uint8] | None:
        """Return an image of the map, with the view of the agent in a lighter shade."""
        if self.render_mode is None:
            return None
        row, column = self.place
        shades = np.full((WIDTH, WIDTH, 3), _WALL, np.uint8)
        free = slice(BORDER, BORDER + SIZE)
        shades[free, free] = _FLOOR
        seen = np.zeros((WIDTH, WIDTH), bool)
        seen[row - BORDER : row + BORDER + 1, column - BORDER : column + BORDER + 1] = True
        shades[free, free][seen[free, free]] = _SEEN
        image = shades.repeat(_PIXELS, 0).repeat(_PIXELS, 1)
        inner = slice(_PIXELS // 4, 3 * _PIXELS // 4)
        tiles = image.reshape(WIDTH, _PIXELS, WIDTH, _PIXELS, 3).transpose(0, 2, 1, 3, 4)
        tiles[self.cells == 1, inner, inner] = _FRUIT
        tiles[self.cells == 2, inner, inner] = _FLAME
        middle = slice(3 * _PIXELS // 8, 5 * _PIXELS // 8)
        tiles[row, column, middle, middle] = _AGENT
        image = tiles.transpose(0, 2, 1, 3, 4).reshape(WIDTH * _PIXELS, WIDTH * _PIXELS, 3)
        edge = _PIXELS * (BORDER - 1)  # one ring of wall
        return np.ascontiguousarray(image[edge:-edge, edge:-edge])


def register() -> None:
    """Register the environment, unless it is already."""
    if "rlzoo/AppleFireGrid-v0" not in gym.registry:
        gym.register("rlzoo/AppleFireGrid-v0", ENTRY_POINT, max_episode_steps=STEPS)
