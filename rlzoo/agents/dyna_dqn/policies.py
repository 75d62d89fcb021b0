"""DynaDQN's Q networks and its model, and how it acts: greedily, or by looking one step ahead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.agents.dyna_dqn.neural_model import BackwardModel, ForwardModel
from rlzoo.agents.dyna_dqn.sources import lookahead
from rlzoo.agents.dyna_dqn.tabular_model import TableModel
from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, check_arguments
from rlzoo.core.layers import mlp

Dynamics = ForwardModel | BackwardModel | TableModel


@dataclass(frozen=True)
class DynamicsSpec:
    """Which model the policy holds; set by the agent.

    Args:
        kind: ``"forward"`` and ``"backward"`` are neural, ``"table"`` counts.
        hidden: Widths of the hidden layers of a neural model.
        n_models: Members of its ensemble.
        lookahead: Act by one step of the model instead of by the Q values.
        gamma: Discount factor of that step.
    """

    kind: Literal["none", "forward", "backward", "table"] = "none"
    hidden: tuple[int, ...] = (200, 200, 200)
    n_models: int = 5
    lookahead: bool = False
    gamma: float = 0.99

    def build(self, n_obs: int, n_actions: int) -> Dynamics | None:
        """Make the model."""
        if self.kind == "none":
            return None
        if self.kind == "table":
            return TableModel(n_obs, n_actions)
        cls = ForwardModel if self.kind == "forward" else BackwardModel
        return cls(n_obs, n_actions, self.hidden, self.n_models)


class DynaPolicy(BasePolicy):
    """Online and target Q network, the optimiser of the online one, and the model if there is one.

    Args:
        observation_space: A Box, which is flattened, or a Discrete, which becomes one-hot.
        action_space: Discrete.
        lr_schedule: Learning rate.
        net_arch: Hidden widths. None: [128, 128] for a Box; for a Discrete none at all, which is a
            table of Q values that begins with zeros.
        optimizer: Adam, or plain gradient descent: with it a table learns by
            ``Q += learning_rate * error``.
        adam_eps: ``epsilon`` of Adam.
        dynamics: Set by the agent.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        optimizer: Literal["adam", "sgd"] = "adam",
        adam_eps: Annotated[float, POSITIVE] = 1e-8,
        dynamics: DynamicsSpec | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(DynaPolicy.__init__, arguments, owner=type(self).__name__)
        super().__init__(observation_space, action_space)
        self.net_arch = None if net_arch is None else list(net_arch)
        self.optimizer_name, self.adam_eps = optimizer, adam_eps
        self.spec = dynamics or DynamicsSpec()
        self.n_obs = get_flattened_obs_dim(observation_space)
        self.n_actions = int(spaces.flatdim(action_space))
        numbered = isinstance(observation_space, spaces.Discrete)
        self.widths = ([] if numbered else [128, 128]) if net_arch is None else list(net_arch)
        # A table begins with ties everywhere; in networks they do not occur.
        self.is_table = numbered and not self.widths
        self.q_net, self.q_net_target = self._make_network(), self._make_network()
        self.q_net_target.load_state_dict(self.q_net.state_dict())
        self.q_net_target.requires_grad_(False)
        self.dynamics = self.spec.build(self.n_obs, self.n_actions)
        parameters, rate = self.q_net.parameters(), lr_schedule(1)
        self.optimizer = (
            th.optim.SGD(parameters, lr=rate)
            if optimizer == "sgd"
            else th.optim.Adam(parameters, lr=rate, eps=adam_eps, fused=True)
        )

    def _make_network(self) -> nn.Module:
        if self.is_table:
            q_table = nn.Linear(self.n_obs, self.n_actions, bias=False)
            nn.init.zeros_(q_table.weight)
            return q_table
        return mlp(self.n_obs, self.widths, self.n_actions)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "optimizer": self.optimizer_name,
            "adam_eps": self.adam_eps,
            "dynamics": self.spec,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Note the mode. No layer here has one, and SB3 switches three times per step."""
        self.training = mode

    def features(self, observation: PyTorchObs) -> th.Tensor:
        """Return observations as the networks and the model take them, ``[B, D]``."""
        found = preprocess_obs(observation, self.observation_space)
        if not isinstance(found, th.Tensor):
            raise TypeError(f"DynaDQN takes array observations, not {type(observation).__name__}")
        return found.flatten(1)

    def values(self, features: th.Tensor) -> th.Tensor:
        """Return what the greedy action maximises, ``[B, A]``."""
        model = self.dynamics
        if self.spec.lookahead and not isinstance(model, BackwardModel | None) and model.is_fitted:
            return lookahead(model, self.q_net, features, self.spec.gamma)
        values: th.Tensor = self.q_net(features)
        return values

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions, ``[B]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        values = self.values(self.features(observation))
        if deterministic or not self.is_table:
            return values.argmax(-1)
        # NumPy's generator, so that a table model, which draws from torch's, changes nothing here.
        uniform = np.random.random(values.shape)  # noqa: NPY002
        return greedy(values, th.as_tensor(uniform, device=values.device))


def greedy(values: th.Tensor, uniform: th.Tensor) -> th.Tensor:
    """Return the best actions ``[B]`` of ``[B, A]``; ties go to the largest of other numbers."""
    best = values == values.amax(-1, keepdim=True)
    return th.where(best, uniform, -1.0).argmax(-1)


class MlpPolicy(DynaPolicy):
    """For vectors (a Box is flattened) and numbered states."""
