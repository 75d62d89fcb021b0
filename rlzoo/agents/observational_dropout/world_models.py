"""World models: x' = M(x, a), learnt as a part of the same vector as the policy (page, 2.2).

====================  ==========================================================================
kind                  prediction
====================  ==========================================================================
``cartpole``          two accelerations are learnt, kinematics are given
``residual``          x + 0.1 MLP([x, a]), for any vector of observations
``carracing``         z + MLP([z, steer, gas, brake]) / 50, for CarRacing from latents
``grid_fc``           zeros and ones from all cells and the action, for apples and fires
``grid_conv``         the same for every cell from its neighbours, with shared weights
``none``              x stays as it is; nothing is learnt. For policies that always look
====================  ==========================================================================

A new kind is a class with ``shapes`` and ``predict``, and a row in :data:`WORLD_MODELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch as th

from rlzoo.agents.observational_dropout.grid_models import GridConvModel, GridModel
from rlzoo.agents.observational_dropout.stacked import Layer, Shape, mlp, shapes_of
from rlzoo.core.car_racing import ACTIONS, LATENTS, physical
from rlzoo.core.simulator import Simulator
from rlzoo.core.swingup import integrate
from rlzoo.errors import RefusedError

WorldModelName = Literal[
    "auto", "cartpole", "residual", "carracing", "grid_fc", "grid_conv", "none"
]
"""What agents take; ``"auto"`` follows the task."""

RESIDUAL_SCALE = 0.1

Predict = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""``M(x, a)``: ``[C, E, O]`` and ``[C, E, A]`` to ``[C, E, O]``."""


class WorldModel(Protocol):
    """A kind of model: the shape of its networks, and how they predict."""

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Inputs and outputs of its layers; empty if nothing is learnt."""

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return the next x.

        Args:
            layers: Weights of C models.
            x: What the agent takes for the observation, ``[C, E, O]``.
            action: In [-1, 1], ``[C, E, A]``.

        Returns:
            ``[C, E, O]``; deterministic, neither clipped nor normalised.
        """


class CartPoleModel:
    """Accelerations of cart and pole from [dx/dt, cos, sin, dtheta/dt, a]; x is not an input.

    Args:
        n_observations: 5, or it is refused.
        n_actions: 1, or it is refused.
        hidden: Widths of the hidden layers; None: 120, as published.

    Raises:
        RefusedError: For other spaces.
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int] | None = None
    ) -> None:
        if (n_observations, n_actions) != (5, 1):
            raise RefusedError(
                f"world_model='cartpole' with {n_observations} observations, {n_actions} actions.",
                "Allowed: those of rlzoo/CartPoleSwingUp-v0, 5 and 1.",
                "Set world_model=residual.",
            )
        self.shapes = shapes_of(5, (120,) if hidden is None else hidden, 2)

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Integrate the accelerations of the networks."""
        found = mlp(layers, th.cat([x[..., 1:], action], -1), bounded=False)
        return integrate(x, found[..., 0], found[..., 1])


class ResidualModel:
    """x + 0.1 MLP([x, a]): our own model for tasks that the paper does not have.

    Args:
        n_observations: Length of x.
        n_actions: Length of a.
        hidden: Widths of the hidden layers; None: 64.
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int] | None = None
    ) -> None:
        widths = (64,) if hidden is None else hidden
        self.shapes = shapes_of(n_observations + n_actions, widths, n_observations)

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Add the output of the networks."""
        return x + RESIDUAL_SCALE * mlp(layers, th.cat([x, action], -1), bounded=False)


class CarRacingModel:
    """z + MLP([z, a']) / 50 with the physical actions a', of 10 hidden units as published.

    Args:
        n_observations: 16, or it is refused.
        n_actions: 3, or it is refused.
        hidden: Widths of the hidden layers; None: 10, as published.

    Raises:
        RefusedError: For other spaces.
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int] | None = None
    ) -> None:
        if (n_observations, n_actions) != (LATENTS, ACTIONS):
            raise RefusedError(
                f"world_model='carracing' with {n_observations} observations, {n_actions} actions.",
                "Allowed: those of CarRacing-v3 with an encoder, 16 and 3.",
                "Make one with: rlzoo encoder; or set world_model=residual.",
            )
        widths = (10,) if hidden is None else hidden
        self.shapes = shapes_of(n_observations + n_actions, widths, n_observations)

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Add a fiftieth of the output of the networks: frames come 50 times a second."""
        return x + mlp(layers, th.cat([x, physical(action)], -1), bounded=False) / 50


class NoModel:
    """Nothing changes, and nothing is learnt."""

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int] | None = None
    ) -> None:
        self.shapes: tuple[Shape, ...] = ()

    def predict(self, layers: Sequence[Layer], x: th.Tensor, action: th.Tensor) -> th.Tensor:
        """Return x."""
        return x


WORLD_MODELS: dict[str, Callable[[int, int, Sequence[int] | None], WorldModel]] = {
    "cartpole": CartPoleModel,
    "residual": ResidualModel,
    "carracing": CarRacingModel,
    "grid_fc": GridModel,
    "grid_conv": GridConvModel,
    "none": NoModel,
}
"""Kind -> its class, called with lengths of observation and action and the hidden widths."""


def true_dynamics(task: Simulator) -> Predict:
    """Return the perfect model of a task, to be put in place of a learnt one."""
    return task.foresee
