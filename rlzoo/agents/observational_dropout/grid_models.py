"""World models of the grid: maps of zeros and ones, predicted with a threshold (page, 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn

from rlzoo.agents.observational_dropout.stacked import Layer, mlp, shapes_of
from rlzoo.core.foraging import MOVES, VIEW
from rlzoo.errors import RefusedError

_MAPS, _ACTIONS = 2, len(MOVES)
_NEIGHBOURS = 5


class GridModel:
    """All cells from all cells and the action: 50 + 5 numbers to 50.

    Args:
        n_observations: 50, or it is refused.
        n_actions: 5, or it is refused.
        hidden: Widths of the hidden layers; None: 100, as published.

    Raises:
        RefusedError: For other spaces.
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int] | None = None
    ) -> None:
        if (n_observations, n_actions) != (_MAPS * VIEW * VIEW, _ACTIONS):
            raise RefusedError(
                f"Grid models with {n_observations} observations, {n_actions} actions.",
                "Allowed: those of rlzoo/AppleFireGrid-v0, 50 and 5.",
                "Set world_model=residual.",
            )
        self.shapes = self._shapes((100,) if hidden is None else hidden)

    def _shapes(self, hidden: Sequence[int]) -> tuple[tuple[int, int], ...]:
        cells = _MAPS * VIEW * VIEW
        return shapes_of(cells + _ACTIONS, hidden, cells)

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return zeros and ones."""
        return _threshold(mlp(layers, th.cat([x, action], -1), bounded=False), x)


class GridConvModel(GridModel):
    """Each cell of each map from its five neighbours and the action: 5 + 5 numbers to 1.

    The weights are the same for all cells and both maps. The neighbours come in the order of the
    actions: the cell that is walked to by action 0 first, the cell itself last; zeros outside.
    """

    def _shapes(self, hidden: Sequence[int]) -> tuple[tuple[int, int], ...]:
        return shapes_of(_NEIGHBOURS + _ACTIONS, hidden, 1)

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return zeros and ones."""
        lead = x.shape[:2]
        wide = nn.functional.pad(x.reshape(*lead, _MAPS, VIEW, VIEW), (1, 1, 1, 1))
        near = th.stack(
            [wide[..., 1 + r : 1 + r + VIEW, 1 + c : 1 + c + VIEW] for r, c in MOVES], -1
        ).flatten(2, 4)
        told = action.unsqueeze(2).expand(*near.shape[:3], _ACTIONS)
        inputs = th.cat([near, told], -1).flatten(1, 2)
        return _threshold(mlp(layers, inputs, bounded=False).reshape(x.shape), x)


def _threshold(output: th.Tensor, x: th.Tensor) -> th.Tensor:
    return (output > 0.5).to(x.dtype)
