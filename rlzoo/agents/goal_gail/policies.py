"""Actor and critics of a goal-conditioned agent: plain MLPs on a normalised ``[o, g]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.goal_gail.modes import Base
from rlzoo.agents.goal_gail.normalizer import Normalizer

_LOG_STD = (-20.0, 2.0)


class First(nn.Module):
    """A linear layer that keeps its weight as ``[n_inputs, n_outputs]``.

    With a handful of inputs, products with the other layout take five times as long on a CPU.

    Args:
        n_inputs: Input width.
        n_outputs: Output width.
    """

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.empty(n_inputs, n_outputs))
        self.bias = nn.Parameter(th.empty(n_outputs))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[B, n_inputs]`` to ``[B, n_outputs]``."""
        return th.addmm(self.bias, inputs, self.weight)


class MLP(nn.Module):
    """ReLU network with Xavier-uniform weights and zero biases, as in the official code.

    Args:
        n_inputs: Input width.
        hidden: Widths of the hidden layers.
        n_outputs: Output width.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_outputs: int) -> None:
        super().__init__()
        widths = [n_inputs, *hidden, n_outputs]
        rest = [nn.Linear(a, b) for a, b in pairwise(widths[1:])]
        self.layers = nn.ModuleList([First(*widths[:2]), *rest])
        for layer in self.layers:
            nn.init.xavier_uniform_(cast(First, layer).weight)
            nn.init.zeros_(cast(First, layer).bias)

    def forward(self, inputs: th.Tensor, frozen: bool = False) -> th.Tensor:
        """Map ``[B, n_inputs]`` to ``[B, n_outputs]``; ``frozen`` gives the weights no gradient."""
        x = inputs
        for i, layer in enumerate(self.layers):
            weight: th.Tensor = cast(First, layer).weight
            bias: th.Tensor = cast(First, layer).bias
            if frozen:
                weight, bias = weight.detach(), bias.detach()
            x = F.linear(x.relu_(), weight, bias) if i > 0 else th.addmm(bias, x, weight)
        return x


class GoalActor(nn.Module):
    """Deterministic with a tanh (DDPG, TD3), or a squashed Gaussian (SAC).

    Args:
        n_inputs: Width of ``[o, g]``.
        hidden: Widths of the hidden layers.
        n_actions: Action dimensions.
        stochastic: Whether it is a Gaussian.
    """

    def __init__(
        self, n_inputs: int, hidden: Sequence[int], n_actions: int, stochastic: bool
    ) -> None:
        super().__init__()
        self.net = MLP(n_inputs, hidden, n_actions * (2 if stochastic else 1))
        self.stochastic = stochastic
        self.distribution = SquashedDiagGaussianDistribution(n_actions)

    def forward(self, features: th.Tensor) -> th.Tensor:
        """Return the deterministic actions in [-1, 1] for ``[B, n_inputs]``."""
        outputs: th.Tensor = self.net(features)
        return (outputs.chunk(2, -1)[0] if self.stochastic else outputs).tanh()

    def sample(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """Return actions in [-1, 1], and their log-probabilities ``[B]`` if they are drawn."""
        if not self.stochastic:
            return self(features), None
        mean, log_std = self.net(features).chunk(2, -1)
        drawn: tuple[th.Tensor, th.Tensor] = self.distribution.log_prob_from_params(
            mean, log_std.clamp(*_LOG_STD)
        )
        return drawn


class GoalCritics(nn.Module):
    """One critic, or two.

    Args:
        n_inputs: Width of ``[o, g]``.
        n_actions: Action dimensions.
        hidden: Widths of the hidden layers.
        n_critics: How many.
    """

    def __init__(
        self, n_inputs: int, n_actions: int, hidden: Sequence[int], n_critics: int
    ) -> None:
        super().__init__()
        self.nets = nn.ModuleList(MLP(n_inputs + n_actions, hidden, 1) for _ in range(n_critics))

    def forward(self, features: th.Tensor, actions: th.Tensor, frozen: bool = False) -> th.Tensor:
        """Return the values ``[K, B]``; ``frozen`` gives the weights no gradient."""
        inputs = th.cat((features, actions), dim=-1)
        return th.stack([net(inputs, frozen).squeeze(-1) for net in self.nets])


class GoalPolicy(BasePolicy):
    """Sees ``observation`` and ``desired_goal``; ``achieved_goal`` is for relabelling only.

    Args:
        observation_space: Dict with goals.
        action_space: Bounded Box.
        lr_schedule: Unused; the agent makes the optimiser.
        net_arch: Widths of the hidden layers, or ``{"pi": …, "qf": …}``.
        base: ``"ddpg"``: one critic; ``"td3"``: two; ``"sac"``: two, and a Gaussian actor.
        normalize: Normalise observations and goals by running statistics.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule | None = None,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        base: Base = "ddpg",
        normalize: bool = True,
    ) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.base, self.normalize = base, normalize
        parts = cast(spaces.Dict, observation_space).spaces
        size = sum(int(np.prod(parts[k].shape or ())) for k in ("observation", "desired_goal"))
        n_actions, stochastic = int(np.prod(action_space.shape)), base == "sac"
        pi, qf = get_actor_critic_arch(self.net_arch)
        n_critics = 1 if base == "ddpg" else 2
        self.normalizer = Normalizer(size, normalize)
        self.actor = GoalActor(size, pi, n_actions, stochastic)
        self.critic = GoalCritics(size, n_actions, qf, n_critics)
        self.critic_target = GoalCritics(size, n_actions, qf, n_critics)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.actor_target = GoalActor(size, pi, n_actions, stochastic)
        self.actor_target.load_state_dict(self.actor.state_dict())
        for target in (self.critic_target, self.actor_target):
            target.requires_grad_(False)
        if stochastic:
            self.log_ent_coef = nn.Parameter(th.zeros(()))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "net_arch": self.net_arch,
            "base": self.base,
            "normalize": self.normalize,
        }

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters of actor and critics, and the entropy coefficient where it is tuned."""
        trained = [*self.actor.parameters(), *self.critic.parameters()]
        if self.actor.stochastic and self.log_ent_coef.requires_grad:
            trained.append(self.log_ent_coef)
        return trained

    def set_temperature(self, ent_coef: float | Literal["auto"]) -> None:
        """Fix the entropy coefficient, or have it tuned from 1 on; nothing without entropy."""
        if self.actor.stochastic and ent_coef != "auto":
            self.log_ent_coef.requires_grad_(False)
            self.log_ent_coef.fill_(math.log(max(ent_coef, 1e-30)))

    @property
    def temperature(self) -> th.Tensor:
        """The entropy coefficient, without gradient."""
        return self.log_ent_coef.detach().exp()

    def features(self, observations: th.Tensor, goals: th.Tensor) -> th.Tensor:
        """Return the normalised ``[o, g]``, the input of all networks."""
        normalised: th.Tensor = self.normalizer(th.cat((observations, goals), dim=-1))
        return normalised

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions as :meth:`_predict`."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        parts = cast(Mapping[str, th.Tensor], observation)
        features = self.features(parts["observation"].float(), parts["desired_goal"].float())
        if deterministic or not self.actor.stochastic:
            actions: th.Tensor = self.actor(features)
            return actions
        return self.actor.sample(features)[0]
