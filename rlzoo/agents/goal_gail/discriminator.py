"""The goal-conditioned discriminator, its loss, and a gradient penalty with one backward pass.

The usual penalty differentiates the network for its inputs and then differentiates that gradient
for the weights. A tanh network has its input gradient in closed form,

    grad D = W1' [(1 - h1^2) * W2' [(1 - h2^2) * w3]],

so that writing it down as part of the forward pass leaves one ordinary backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.goal_gail.relabel import GoalBatch

DiscInput = Literal["s_sp", "sa", "s"]
DiscObs = Literal["observation", "achieved_goal"]
STATE_INPUTS = ("s_sp", "s")


class Discriminator(nn.Module):
    """``n_inputs -> hidden ... -> 1`` with tanh between; raw logits, high for the expert.

    Weights are orthogonal with gain 1, biases zero.

    Args:
        n_inputs: Width of the inputs.
        hidden: Widths of the hidden layers; none gives a linear logit.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        widths = [n_inputs, *hidden, 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in self.linears:
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    @property
    def linears(self) -> list[nn.Linear]:
        """The layers, first to last."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[B, n_inputs]`` to logits ``[B]``."""
        return self._hidden_and_logits(inputs)[1]

    def _hidden_and_logits(self, inputs: th.Tensor) -> tuple[list[th.Tensor], th.Tensor]:
        *hidden_layers, last = self.linears
        hidden = []
        x = inputs
        for layer in hidden_layers:
            x = layer(x).tanh()
            hidden.append(x)
        return hidden, last(x).squeeze(-1)

    def logits_and_gradient(self, inputs: th.Tensor, n: int) -> tuple[th.Tensor, th.Tensor]:
        """Return logits ``[B]``, and the gradient of the last ``n`` of them for their inputs.

        Args:
            inputs: ``[B, n_inputs]``.
            n: Rows at the end whose gradient ``[n, n_inputs]`` is wanted; it can be differentiated.
        """
        hidden, logits = self._hidden_and_logits(inputs)
        *hidden_layers, last = self.linears
        gradient = last.weight.expand(n, -1)
        for layer, h in zip(reversed(hidden_layers), reversed(hidden), strict=True):
            tail = h[len(h) - n :]
            gradient = (gradient * (1 - tail * tail)) @ layer.weight
        return logits, gradient


def gradient_penalty(gradient: th.Tensor) -> th.Tensor:
    """Return the mean of ``(|g| - 1)^2`` over rows ``[B, n]``; smooth where a gradient is zero."""
    norm = (gradient.square().sum(-1) + 1e-12).sqrt()
    return (norm - 1).square().mean()


class DiscLoss(NamedTuple):
    """The loss and what is logged beside it; all are scalars on the device."""

    loss: th.Tensor
    penalty: th.Tensor  # without its coefficient
    acc_expert: th.Tensor
    acc_agent: th.Tensor
    expert_mean: th.Tensor
    agent_mean: th.Tensor


def disc_loss(disc: Discriminator, expert: th.Tensor, agent: th.Tensor, gp_coef: float) -> DiscLoss:
    """Return cross-entropy and gradient penalty for equally many rows of both kinds.

    Args:
        disc: The network.
        expert: ``[B, n_inputs]``.
        agent: ``[B, n_inputs]``.
        gp_coef: ``lambda``; 0 leaves the penalty out.
    """
    n = len(agent)
    rows = [expert, agent]
    if gp_coef > 0:
        u = th.rand(n, 1, device=agent.device)
        rows.append(agent.lerp(expert, 1 - u))  # u x_agent + (1 - u) x_expert
    logits, gradient = disc.logits_and_gradient(th.cat(rows), n if gp_coef > 0 else 0)
    d_expert, d_agent = logits[:n], logits[n : 2 * n]
    entropy = F.softplus(-d_expert).mean() + F.softplus(d_agent).mean()
    penalty = gradient_penalty(gradient) if gp_coef > 0 else th.zeros_like(entropy)
    return DiscLoss(
        loss=entropy + gp_coef * penalty,
        penalty=penalty,
        acc_expert=(d_expert > 0).float().mean(),
        acc_agent=(d_agent < 0).float().mean(),
        expert_mean=d_expert.mean(),
        agent_mean=d_agent.mean(),
    )


def disc_width(kind: DiscInput, keys: Sequence[DiscObs], do: int, dg: int, da: int) -> int:
    """Return the number of inputs; see :func:`disc_inputs`."""
    state = sum({"observation": do, "achieved_goal": dg}[key] for key in keys)
    return state + dg + {"s_sp": state, "sa": da, "s": 0}[kind]


def disc_inputs(
    kind: DiscInput, keys: Sequence[DiscObs], batch: GoalBatch, action_noise: float = 0.0
) -> th.Tensor:
    """Return what the discriminator sees: state and goal, and next state or action.

    Args:
        kind: ``"s_sp"``: ``[o, g, o']``; ``"sa"``: ``[o, g, a]``; ``"s"``: ``[o, g]``.
        keys: Parts of an observation that stand for ``o``.
        batch: The transitions.
        action_noise: Standard deviation of noise on the actions of ``"sa"``, which keeps the noise
            of exploration from giving the agent away.
    """
    now = {"observation": batch.observations, "achieved_goal": batch.achieved_goals}
    parts = [*(now[key] for key in keys), batch.goals]
    if kind == "s_sp":
        then = {"observation": batch.next_observations, "achieved_goal": batch.next_achieved_goals}
        parts += [then[key] for key in keys]
    elif kind == "sa":
        actions = batch.actions
        if action_noise > 0:
            actions = (actions + action_noise * th.randn_like(actions)).clamp(-1, 1)
        parts.append(actions)
    return th.cat(parts, dim=-1)
