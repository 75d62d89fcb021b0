"""BCQ's networks, and how it acts: the best of many perturbed samples of the behaviour model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, check_arguments
from rlzoo.core.behavior import CVAE
from rlzoo.core.critics import first_q, pair
from rlzoo.core.layers import StackedMLP, mlp

# The latents of deterministic acting come from this seed, so that predict() is a function of the
# observation and never touches the generator that training draws from.
_EVALUATION_SEED = 20181207


class Perturbation(nn.Module):
    """``xi(s, a)``: moves an action by at most ``phi``, towards a higher value.

    Args:
        n_observations: Width of an observation.
        n_actions: Width of an action, ``d``.
        hidden: Widths of the hidden layers.
        phi: Largest change per coordinate, actions being in [-1, 1].
    """

    def __init__(
        self, n_observations: int, n_actions: int, hidden: Sequence[int], phi: float
    ) -> None:
        super().__init__()
        self.phi = phi
        self.network = mlp(n_observations + n_actions, hidden, n_actions)

    def forward(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Return ``clip(a + phi tanh(xi(s, a)), -1, 1)`` for actions ``[B, m, d]``."""
        change = self.phi * th.tanh(self.network(pair(observations, actions)))
        return (actions + change.view_as(actions)).clamp(-1, 1)


class BCQPolicy(BasePolicy):
    """Behaviour model, perturbation, critics and the targets of both.

    Args:
        observation_space: Box of any shape; it is flattened.
        action_space: Box with finite bounds; the networks work in [-1, 1].
        lr_schedule: Unused, SB3's interface.
        net_arch: Hidden widths of perturbation and critics (official code: 400-300).
        vae_arch: Hidden widths of the behaviour model (official code: 750-750).
        n_critics: Number of critics.
        phi: Largest perturbation of an action in [-1, 1].
        n_eval_samples: Candidates among which the first critic chooses when acting.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (400, 300),
        vae_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (750, 750),
        n_critics: Annotated[int, AT_LEAST_ONE] = 2,
        phi: Annotated[float, NON_NEGATIVE] = 0.05,
        n_eval_samples: Annotated[int, AT_LEAST_ONE] = 100,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(BCQPolicy.__init__, arguments, owner="BCQPolicy")
        super().__init__(observation_space, action_space, squash_output=True)
        self.net_arch, self.vae_arch = list(net_arch), list(vae_arch)
        self.n_critics, self.phi, self.n_eval_samples = n_critics, phi, n_eval_samples

        n_obs, n_act = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        self.behavior = CVAE(n_obs, n_act, vae_arch)
        self.actor = Perturbation(n_obs, n_act, net_arch, phi)
        self.actor_target = Perturbation(n_obs, n_act, net_arch, phi)
        self.critic = StackedMLP(n_critics, n_obs + n_act, net_arch)
        self.critic_target = StackedMLP(n_critics, n_obs + n_act, net_arch)
        for target, online in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            target.load_state_dict(online.state_dict())
            target.requires_grad_(False)

        generator = th.Generator().manual_seed(_EVALUATION_SEED)
        latents = th.randn(n_eval_samples, self.behavior.n_latents, generator=generator)
        clip = self.behavior.latent_clip
        self.register_buffer("eval_latents", latents.clamp_(-clip, clip), persistent=False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": _no_schedule,
            "net_arch": self.net_arch,
            "vae_arch": self.vae_arch,
            "n_critics": self.n_critics,
            "phi": self.phi,
            "n_eval_samples": self.n_eval_samples,
        }

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions in [-1, 1], ``[B, d]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if not isinstance(observation, th.Tensor):
            raise TypeError(f"BCQ takes array observations, not {type(observation).__name__}")
        flat = observation.float().flatten(1)
        if not deterministic:
            return self.actor(flat, th.tanh(self.behavior.sample(flat, 1))).squeeze(1)  # type: ignore[no-any-return]
        latents = self.eval_latents.expand(len(flat), -1, -1)  # type: ignore[operator]
        candidates = self.actor(flat, th.tanh(self.behavior.decode(flat, latents)))
        best = first_q(self.critic, flat, candidates).argmax(-1)
        chosen: th.Tensor = candidates[th.arange(len(flat), device=flat.device), best]
        return chosen


def _no_schedule(_: float) -> float:
    return 0.0


MlpPolicy = BCQPolicy
