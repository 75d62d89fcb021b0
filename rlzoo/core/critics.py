"""What batch agents with an ensemble of critics share: pairing, candidates, the clipped target."""

from __future__ import annotations

import torch as th

from rlzoo.core.layers import StackedMLP


def pair(observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Return every state next to each of its actions: ``[B, o], [B, m, d] -> [B m, o + d]``."""
    repeated = observations.unsqueeze(1).expand(-1, actions.shape[1], -1)
    return th.cat([repeated, actions], -1).flatten(0, 1)


def first_q(critic: StackedMLP, observations: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Return the first member of an ensemble on ``[B, m, d]`` actions, ``[B, m]``."""
    x = pair(observations, actions)
    *hidden, last = critic.stacked
    for layer in hidden:
        x = th.relu(th.addmm(layer.bias[0], x, layer.weight[0]))
    return th.addmm(last.bias[0], x, last.weight[0]).view(actions.shape[:2])


def soft_clipped_target(
    target_q: th.Tensor,
    rewards: th.Tensor,
    dones: th.Tensor,
    gamma: float,
    target_mix: float,
) -> th.Tensor:
    """Return ``y = r + gamma (1 - done) max_j [lam min_i Q'_ij + (1 - lam) max_i Q'_ij]``, ``[B]``.

    The mix over critics is taken per action, then the maximum over actions (BCQ, arXiv 1812.02900,
    with lam = 0.75; BEAR has it from there).

    Args:
        target_q: ``[K, B, p]``, K target critics on p sampled actions.
        rewards: ``[B]``.
        dones: ``[B]``, 1 for a true termination.
        gamma: Discount factor.
        target_mix: ``lam``, weight of the minimum over critics.
    """
    lowest, highest = target_q.amin(0), target_q.amax(0)
    mixed = target_mix * lowest + (1 - target_mix) * highest
    return rewards + gamma * (1 - dones) * mixed.amax(-1)
