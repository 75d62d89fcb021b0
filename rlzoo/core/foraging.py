"""Foraging in a grid of apples and fires, as one tensor program (Freeman, Metz, Ha 2019).

The state is [map (14 x 14, row by row), row, column, steps so far, length T of the episode, score
so far]; on the map 0 is nothing, 1 an apple, 2 a fire. The ten rows and columns in the middle are
free; the border stands for the wall and for what lies behind it, where nothing is ever seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from rlzoo.core.simulator import Simulator

SIZE, VIEW, BORDER, ITEMS = 10, 5, 2, 30
"""Free rows, rows of the view, rows around the free ones; number of apples and of fires."""
WIDTH = SIZE + 2 * BORDER
STEPS = 106
"""Of the longest episode."""
APPLE, FIRE = 6.0, -8.0
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1), (0, 0))
"""Rows and columns by action."""

_CELLS = WIDTH * WIDTH
_CENTRE = VIEW * VIEW // 2


class AppleFireGrid(Simulator):
    """Eat apples, do not stand on fires, of which only those nearby are seen.

    A step scores 1, and 6 more on an apple, which is eaten, and 8 less on a fire, which stays. The
    mean score of all steps is paid in the last one. An episode has T = 6 + min(100, 2 floor(1/U))
    steps with U uniform: 8 to 106, 15 in the mean; T is not observed. The observation is a view of
    5 x 5 cells around the agent: apples row by row, then fires. An apple that is eaten is in it for
    the last time. The actions: row + 1, row - 1, column + 1, column - 1, stay; walls stop.
    """

    name = "apples and fires"
    world_model = "grid_conv"

    def __init__(self) -> None:
        self.max_steps = STEPS
        self.observation_space = spaces.Box(0, 1, (2 * VIEW * VIEW,), np.float32)
        self.action_space = spaces.Discrete(len(MOVES))
        rows, columns = np.mgrid[-BORDER : BORDER + 1, -BORDER : BORDER + 1]
        self._view = th.from_numpy((rows * WIDTH + columns).ravel())
        self._moves = th.tensor(MOVES)

    def start(self, rng: np.random.Generator, shape: Sequence[int] = ()) -> NDArray[np.float64]:
        """Draw starting states, ``[*shape, 201]``: agent, apples and fires in different cells."""
        order = rng.random((*shape, SIZE * SIZE)).argsort(-1)[..., : 2 * ITEMS + 1]
        row, column = np.divmod(order, SIZE)
        row, column = row + BORDER, column + BORDER
        state = np.zeros((*shape, _CELLS + 5))
        kinds = np.broadcast_to(np.repeat([1.0, 2.0], ITEMS), (*shape, 2 * ITEMS))
        np.put_along_axis(state, (row * WIDTH + column)[..., 1:], kinds, -1)
        state[..., _CELLS], state[..., _CELLS + 1] = row[..., 0], column[..., 0]
        chance = 1 - rng.random(shape)  # without 0
        state[..., _CELLS + 3] = 6 + np.minimum(100, 2 * np.floor(1 / chance))
        return state

    def observe(self, state: th.Tensor) -> th.Tensor:
        """Return ``[*N, 50]``."""
        at = (state[..., _CELLS] * WIDTH + state[..., _CELLS + 1]).long()
        seen = state.gather(-1, at.unsqueeze(-1) + self._view.to(state.device))
        return th.cat([seen == 1, seen == 2], -1).to(state.dtype)

    def step(
        self, state: th.Tensor, action: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Walk, look, eat; ``[*N, 201]`` and ``[*N, 5]``, one-hot."""
        place, steps, length, score = th.split(state[..., _CELLS:], [2, 1, 1, 1], -1)
        place = place + action.to(state.dtype) @ self._moves.to(state)
        place = place.clamp(BORDER, BORDER + SIZE - 1)
        moved = th.cat([state[..., :_CELLS], place], -1)
        observation = self.observe(moved)
        at = (place[..., :1] * WIDTH + place[..., 1:]).long()
        here = moved.gather(-1, at)
        steps, score = steps + 1, score + self._score(observation).unsqueeze(-1)
        eaten = moved[..., :_CELLS].scatter(-1, at, here * (here != 1))
        ended = steps >= length
        reward = th.where(ended, score / length, 0)
        after = th.cat([eaten, place, steps, length, score], -1)
        return after, observation, reward.squeeze(-1), ended.squeeze(-1)

    def _score(self, observation: th.Tensor) -> th.Tensor:
        """Return the score of a step by what is where the agent stands."""
        apple, fire = observation[..., _CENTRE], observation[..., VIEW * VIEW + _CENTRE]
        return 1 + APPLE * apple + FIRE * fire

    def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return the share of a step in the mean score of the longest episode; nothing ends it.

        The length of an episode is not in an observation, so that dreams are as long as they can
        be, and pay every step at once.
        """
        reward = self._score(observation) / STEPS
        return reward, th.zeros_like(reward, dtype=th.bool)

    def foresee(self, observation: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return the view moved along, without an apple that was eaten; new cells are empty.

        As much as can be known: walls cannot be seen, and neither can what lies beyond the view.
        """
        known = observation.clone()
        known[..., _CENTRE] = 0
        maps = known.reshape(*known.shape[:-1], 2, VIEW, VIEW)
        wide, middle = nn.functional.pad(maps, (1, 1, 1, 1)), slice(1, VIEW + 1)
        shifted = th.stack(
            [wide[..., 2:, middle], wide[..., :-2, middle], wide[..., middle, 2:],
             wide[..., middle, :-2], maps], -4,
        )  # fmt: skip
        weights = action.to(observation.dtype)[..., None, None, None]
        return (shifted * weights).sum(-4).flatten(-3)
