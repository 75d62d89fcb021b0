"""Policy, world model and critic for learning by gradients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import distributions, nn

from rlzoo.agents.observational_dropout.chain import Chunk, replay
from rlzoo.agents.observational_dropout.policies import ObsDropoutPolicy
from rlzoo.agents.observational_dropout.recursion import believe
from rlzoo.core.arguments import AT_LEAST_ONE, Range, check_arguments

_SMALL = 0.01
"""Factor on the last layers at first: actions near zero, and a model that predicts no change."""


class ObsDropoutActorCritic(ObsDropoutPolicy):
    """As :class:`ObsDropoutPolicy`, with a distribution over actions and a critic.

    Continuous actions are drawn from a normal distribution around the output of the policy and
    clipped, or are that output where ``deterministic``. The critic is fed the true observation: it
    is needed in training only.

    Args:
        observation_space: A Box that is not an image.
        action_space: A bounded Box, or Discrete.
        lr_schedule: Of Adam.
        net_arch: Hidden widths of the policy. [ours] ``[64, 64]``.
        model_arch: Hidden widths of the world model; None: as in :class:`ObsDropoutPolicy`.
        critic_arch: Hidden widths of the critic. [ours] ``[64, 64]``.
        log_std_init: Logarithm of the deviation of continuous actions at first. [ours] -0.5.
        world_model: Kind of world model, set by the agent.
        peek_prob: Probability of seeing the true observation, set by the agent.

    Raises:
        RefusedError: For other spaces, or a world model that does not fit them.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule | None = None,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (64, 64),
        model_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        critic_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (64, 64),
        log_std_init: Annotated[float, Range()] = -0.5,
        world_model: str = "residual",
        peek_prob: float = 1.0,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(ObsDropoutActorCritic.__init__, arguments, owner=type(self).__name__)
        super().__init__(
            observation_space, action_space, lr_schedule, net_arch, model_arch, world_model,
            peek_prob, zero_policy=False,
        )  # fmt: skip
        self.critic_arch, self.log_std_init = list(critic_arch), log_std_init
        with th.no_grad():
            for layers in (self.model_layers, self.policy_layers):
                for weight in [p for p in layers.parameters() if p.dim() == 2][-1:]:
                    weight.mul_(_SMALL)
        widths = [self.n_observations, *critic_arch]
        hidden: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            hidden += [nn.Linear(n_in, n_out), nn.Tanh()]
        self.critic = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        if not self.networks.discrete:
            actions = spaces.flatdim(action_space)
            self.log_std = nn.Parameter(th.full((actions,), float(log_std_init)))
        self.requires_grad_(True)
        rate = 3e-4 if lr_schedule is None else lr_schedule(1)
        self.optimizer = th.optim.Adam(self.parameters(), rate, eps=1e-5)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        found = super()._get_constructor_parameters()
        for name in ("zero_policy", "lagged_action"):
            del found[name]
        return {**found, "critic_arch": self.critic_arch, "log_std_init": self.log_std_init}

    # ------------------------------------------------------------------ acting

    def _pick(self, output: th.Tensor, deterministic: bool) -> th.Tensor:
        if self.networks.discrete or deterministic:
            return super()._pick(output, deterministic)
        return (output + self.log_std.exp() * th.randn_like(output)).clamp(-1, 1)

    def distribution(self, output: th.Tensor) -> distributions.Distribution:
        """Return the distribution over actions, from outputs of the policy ``[*N, A]``."""
        if self.networks.discrete:
            return distributions.Categorical(logits=output, validate_args=False)
        normal = distributions.Normal(output, self.log_std.exp(), validate_args=False)
        return distributions.Independent(normal, 1, validate_args=False)

    def told(self, actions: th.Tensor) -> th.Tensor:
        """Return actions as world model and environment get them: clipped, or one-hot.

        Args:
            actions: As drawn: ``[*N, A]``, or ``[*N]`` where they are discrete.
        """
        if not self.networks.discrete:
            return actions.clamp(-1, 1)
        size = spaces.flatdim(self.action_space)
        return nn.functional.one_hot(actions.long(), size).to(next(self.parameters()).dtype)

    @th.no_grad()
    def step(
        self, observation: th.Tensor, believed: th.Tensor, peek: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Take a step of a rollout.

        Args:
            observation: ``[N, O]``.
            believed: ``[N, O]``.
            peek: ``[N]``.

        Returns:
            Actions as drawn, values ``[N]``, log-probabilities ``[N]``, predictions ``[N, O]``.
        """
        act, predict = self.bind()
        x = believe(observation, believed, peek).unsqueeze(0)
        distribution = self.distribution(act(x).squeeze(0))
        actions = distribution.sample()
        prediction = predict(x, self.told(actions).unsqueeze(0)).squeeze(0)
        values = self.critic(observation).squeeze(-1)
        return actions, values, distribution.log_prob(actions), prediction

    # ---------------------------------------------------------------- training

    def evaluate_actions(
        self, chunk: Chunk, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Replay a chunk with the weights of now.

        Args:
            chunk: K steps in B environments.
            actions: As drawn, ``[K * B, A]``, or ``[K * B]`` where they are discrete.

        Returns:
            Values, log-probabilities and entropies, ``[K * B]``.
        """
        act, predict = self.bind()
        told = self.told(actions).unflatten(0, chunk.peeks.shape)  # type: ignore[no-untyped-call]
        x = replay(chunk, told, predict)
        distribution = self.distribution(act(x.flatten(0, 1).unsqueeze(0)).squeeze(0))
        values = self.critic(chunk.observations.flatten(0, 1)).squeeze(-1)
        return values, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, observations: PyTorchObs) -> th.Tensor:
        """Return the values of true observations, ``[n, 1]``."""
        values: th.Tensor = self.critic(self._flat(observations))
        return values
