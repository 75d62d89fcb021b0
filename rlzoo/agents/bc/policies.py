"""The policies of behaviour cloning: a mean, a squashed Gaussian, or the paper's auto-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, check_arguments
from rlzoo.core.behavior import CVAE, GaussianBehavior
from rlzoo.core.layers import mlp

Model = Literal["mlp", "gaussian", "cvae"]


class MeanAction(nn.Module):
    """A network for the action itself, fitted by mean squared error.

    Args:
        n_observations: Width of an observation.
        n_actions: Width of an action, ``d``.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, n_observations: int, n_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.network = mlp(n_observations, hidden, n_actions)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Return actions in [-1, 1], ``[B, d]``."""
        return th.tanh(self.network(observations))

    def loss(
        self, observations: th.Tensor, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return ``(mean squared error, the same, 0)``, scalars."""
        error = (self(observations) - actions).square().mean()
        return error, error.detach(), th.zeros_like(error)


class BCPolicy(BasePolicy):
    """One model of the behaviour, and how to act with it.

    Args:
        observation_space: Box of any shape; it is flattened.
        action_space: Box with finite bounds; the networks work in [-1, 1].
        lr_schedule: Unused, SB3's interface.
        net_arch: Hidden widths; of encoder and decoder for ``"cvae"``.
        model: ``"mlp"``, ``"gaussian"`` or ``"cvae"``.
        latent_clip: With ``"cvae"``, latents are drawn from a normal clipped to +- this value.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (256, 256),
        model: Model = "mlp",
        latent_clip: Annotated[float, NON_NEGATIVE] = 0.25,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(BCPolicy.__init__, arguments, owner="BCPolicy")
        super().__init__(observation_space, action_space, squash_output=True)
        self.net_arch, self.model, self.latent_clip = list(net_arch), model, latent_clip
        n_obs, n_act = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        self.behavior: MeanAction | GaussianBehavior | CVAE
        if model == "mlp":
            self.behavior = MeanAction(n_obs, n_act, net_arch)
        elif model == "gaussian":
            self.behavior = GaussianBehavior(n_obs, n_act, net_arch)
        else:
            self.behavior = CVAE(n_obs, n_act, net_arch, latent_clip=latent_clip)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": _no_schedule,
            "net_arch": self.net_arch,
            "model": self.model,
            "latent_clip": self.latent_clip,
        }

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions in [-1, 1], ``[B, d]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if not isinstance(observation, th.Tensor):
            raise TypeError(f"BC takes array observations, not {type(observation).__name__}")
        flat, behavior = observation.float().flatten(1), self.behavior
        if isinstance(behavior, MeanAction):
            return behavior(flat)  # type: ignore[no-any-return]
        if not deterministic:
            return th.tanh(behavior.sample(flat, 1).squeeze(1))
        if isinstance(behavior, CVAE):  # the centre of the prior
            latents = flat.new_zeros(len(flat), 1, behavior.n_latents)
            return th.tanh(behavior.decode(flat, latents).squeeze(1))
        mean, _, _ = behavior.components(flat)
        return th.tanh(mean.squeeze(1))


def _no_schedule(_: float) -> float:
    return 0.0


MlpPolicy = BCPolicy
