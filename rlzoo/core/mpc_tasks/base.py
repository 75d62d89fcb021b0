"""The interface of a task that is planned in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch as th

from rlzoo.errors import RefusedError

RewardFn = Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor]
"""``reward(o [N, S], a [N, A], o' [N, S]) -> [N]``: differentiable torch, no state, ``a`` in the
units of the environment, ``o'`` the (predicted) next observation."""

TerminationFn = Callable[[th.Tensor, th.Tensor, th.Tensor], th.Tensor]
"""As :data:`RewardFn`; True where the step ends the episode (a time limit does not count)."""

FeatureFn = Callable[[th.Tensor], th.Tensor]
"""``features(o [N, S]) -> [N, F]``: what model and denoiser see of an observation."""


@dataclass(frozen=True)
class MpcTask:
    """One task. All functions are pure, differentiable torch on any device.

    Args:
        name: Id of the environment; by this name agents find it and saved agents remember it.
        n_observations: Width ``S`` of an observation.
        n_actions: Width ``A`` of an action.
        reward: The known reward; None: the agent learns it.
        features: What model and denoiser see, as sines and cosines for angles; None: the
            observation as it is. Must leave out positions without bounds.
        value_dims: Dimensions of the observation of which the model predicts the next value; of
            the others it predicts the difference.
        dae_dims: Features that the denoiser sees; None: all. Leave out what is constant within an
            episode, as a goal: a new one would look unfamiliar. Actions are always seen.
        termination: When an episode ends; None: never, but for its time limit.
    """

    name: str
    n_observations: int
    n_actions: int
    reward: RewardFn | None = None
    features: FeatureFn | None = None
    value_dims: tuple[int, ...] = ()
    dae_dims: tuple[int, ...] | None = None
    termination: TerminationFn | None = None

    @property
    def n_features(self) -> int:
        """Width ``F`` of the features."""
        return int(self.look(th.zeros(1, self.n_observations)).shape[-1])

    def look(self, observations: th.Tensor) -> th.Tensor:
        """Return the features ``[N, F]`` of observations ``[N, S]``."""
        return observations if self.features is None else self.features(observations)

    def check(self, n_observations: int, n_actions: int) -> None:
        """Refuse an environment of other widths.

        Raises:
            RefusedError: With both widths.
        """
        mine, given = (self.n_observations, self.n_actions), (n_observations, n_actions)
        if mine != given:
            raise RefusedError(
                f"The environment has {given[0]} observations and {given[1]} actions.",
                f"The task {self.name} is for {mine[0]} and {mine[1]}.",
                "Check the version and the arguments of the environment, or use reward=learned.",
            )
