"""BEAR's networks, and how it acts: the best of many sampled actions under the first critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.core.arguments import AT_LEAST_ONE, check_arguments
from rlzoo.core.behavior import make_behavior
from rlzoo.core.critics import first_q
from rlzoo.core.layers import StackedMLP, mlp

# The noise of deterministic acting comes from this seed, so that predict() is a function of the
# observation and never touches the generator that training draws from.
_EVALUATION_SEED = 20190611


class BEARActor(nn.Module):
    """Diagonal Gaussian over pre-tanh actions ``u``; the action is ``tanh(u)``.

    Args:
        n_observations: Width of an observation.
        n_actions: Width of an action, ``d``.
        hidden: Widths of the hidden layers.
        log_std_bounds: Clamp of the log standard deviation (D4RL code: [-5, 2]); None for none.
    """

    def __init__(
        self,
        n_observations: int,
        n_actions: int,
        hidden: Sequence[int],
        log_std_bounds: tuple[float, float] | None,
    ) -> None:
        super().__init__()
        self.n_actions, self.log_std_bounds = n_actions, log_std_bounds
        self.network = mlp(n_observations, hidden, 2 * n_actions)

    def forward(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return mean and standard deviation of ``u``, ``[B, d]`` each."""
        mean, log_std = self.network(observations).chunk(2, -1)
        if self.log_std_bounds is not None:
            log_std = log_std.clamp(*self.log_std_bounds)
        return mean, log_std.exp()

    def sample(
        self, observations: th.Tensor, n: int, noise_clip: float | None = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Draw ``n`` values of ``u`` per state from one forward pass, reparametrised.

        Returns:
            ``(u, mean, std)`` of shapes ``[B, n, d]``, ``[B, d]``, ``[B, d]``.
        """
        mean, std = self(observations)
        noise = th.randn(len(mean), n, self.n_actions, device=mean.device)
        if noise_clip is not None:
            noise = noise.clamp_(-noise_clip, noise_clip)
        return mean.unsqueeze(1) + std.unsqueeze(1) * noise, mean, std


class BEARPolicy(BasePolicy):
    """Actor, critics, their targets and the behaviour model.

    Args:
        observation_space: Box of any shape; it is flattened.
        action_space: Box with finite bounds; the networks work in [-1, 1].
        lr_schedule: Unused, SB3's interface.
        net_arch: Hidden widths of actor and critics.
        vae_arch: Hidden widths of the behaviour model (paper and D4RL code: 750-750).
        n_critics: Number of critics, ``K``.
        behavior: ``"cvae"`` (paper), ``"gaussian"`` or ``"mixture"``.
        log_std_bounds: Clamp of the actor's log standard deviation.
        target_actor: Keep a Polyak copy of the actor (2019 code).
        n_eval_samples: Candidates ``m`` among which the first critic chooses when acting.
        acting: ``"argmax"`` over the candidates, or the ``"mean"`` action.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (256, 256),
        vae_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (750, 750),
        n_critics: Annotated[int, AT_LEAST_ONE] = 2,
        behavior: Literal["cvae", "gaussian", "mixture"] = "cvae",
        log_std_bounds: Sequence[float] | None = (-5.0, 2.0),
        target_actor: bool = False,
        n_eval_samples: Annotated[int, AT_LEAST_ONE] = 100,
        acting: Literal["argmax", "mean"] = "argmax",
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(BEARPolicy.__init__, arguments, owner="BEARPolicy")
        super().__init__(observation_space, action_space, squash_output=True)
        self.net_arch, self.vae_arch = list(net_arch), list(vae_arch)
        self.n_critics, self.behavior_kind = n_critics, behavior
        self.log_std_bounds, self.n_eval_samples = log_std_bounds, n_eval_samples
        self.has_target_actor, self.acting = target_actor, acting

        n_obs, n_act = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        bounds = None if log_std_bounds is None else (log_std_bounds[0], log_std_bounds[1])
        self.actor = BEARActor(n_obs, n_act, net_arch, bounds)
        self.critic = StackedMLP(n_critics, n_obs + n_act, net_arch)
        self.critic_target = StackedMLP(n_critics, n_obs + n_act, net_arch)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.behavior = make_behavior(behavior, n_obs, n_act, vae_arch)
        self.actor_target: BEARActor | None = None
        if target_actor:
            self.actor_target = BEARActor(n_obs, n_act, net_arch, bounds)
            self.actor_target.load_state_dict(self.actor.state_dict())
            self.actor_target.requires_grad_(False)

        generator = th.Generator().manual_seed(_EVALUATION_SEED)
        noise = th.randn(n_eval_samples, n_act, generator=generator)
        self.register_buffer("eval_noise", noise, persistent=False)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": _no_schedule,
            "net_arch": self.net_arch,
            "vae_arch": self.vae_arch,
            "n_critics": self.n_critics,
            "behavior": self.behavior_kind,
            "log_std_bounds": self.log_std_bounds,
            "target_actor": self.has_target_actor,
            "n_eval_samples": self.n_eval_samples,
            "acting": self.acting,
        }

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions in [-1, 1], ``[B, d]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if not isinstance(observation, th.Tensor):
            raise TypeError(f"BEAR takes array observations, not {type(observation).__name__}")
        flat = observation.float().flatten(1)
        if not deterministic:
            u, _, _ = self.actor.sample(flat, 1)
            return th.tanh(u.squeeze(1))
        mean, std = self.actor(flat)
        if self.acting == "mean":
            return th.tanh(mean)
        # Page section 2.4: Q_1 alone chooses, not the minimum over critics.
        candidates = th.tanh(mean.unsqueeze(1) + std.unsqueeze(1) * self.eval_noise)
        best = self.first_q(flat, candidates).argmax(-1)
        return candidates[th.arange(len(flat), device=flat.device), best]

    def first_q(self, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Return the first critic on ``[B, m, d]`` actions, ``[B, m]``."""
        return first_q(self.critic, observations, actions)


def _no_schedule(_: float) -> float:
    return 0.0


MlpPolicy = BEARPolicy
