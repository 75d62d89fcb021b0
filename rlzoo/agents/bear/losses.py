"""The other formulas of BEAR as pure functions: target, dual step, tanh-corrected likelihood."""

from __future__ import annotations

import math
from typing import Literal

import torch as th
import torch.nn.functional as F  # noqa: N812

Dual = Literal["exp", "linear"]


def soft_clipped_target(
    target_q: th.Tensor,
    rewards: th.Tensor,
    dones: th.Tensor,
    gamma: float,
    target_mix: float,
) -> th.Tensor:
    """Return ``y = r + gamma (1 - done) max_j [lam min_i Q'_ij + (1 - lam) max_i Q'_ij]``, ``[B]``.

    The mix over critics is taken per action, then the maximum over actions (paper, section 5,
    with lam = 0.75 of BCQ).

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


def dual_gradient(log_alpha: th.Tensor, violation: th.Tensor, dual: Dual) -> th.Tensor:
    """Return the gradient of the dual loss with respect to ``log_alpha``; both are scalars.

    ``"exp"`` (official code) ascends ``exp(log_alpha) * violation``, whose gradient carries alpha
    itself and runs away; ``"linear"`` ascends ``log_alpha * violation``.
    """
    return -violation * (log_alpha.exp() if dual == "exp" else 1.0)


def tanh_log_prob(x: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """Return the log-density of ``tanh(x)`` under a squashed diagonal Gaussian.

    Args:
        x: Pre-tanh values, ``[..., d]``.
        mean: Mean before tanh, broadcast against ``x``.
        log_std: Log standard deviation before tanh.

    Returns:
        ``[...]``, with the clamp of 1e-6 of the official code in the change of variables.
    """
    normal = -0.5 * (((x - mean) * (-log_std).exp()).square() + math.log(2 * math.pi)) - log_std
    correction = (1 - th.tanh(x).square()).clamp_min(1e-6).log()
    return (normal - correction).sum(-1)


def cvae_loss(
    reconstruction: th.Tensor, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """Return reconstruction error and KL of the CVAE, two scalars.

    Both are means over their last axis, not sums: this sets the decoder variance that the loss
    implies (1/8 with the default weight of 0.5 and a latent of twice the action's width).
    """
    kl = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean()
    return F.mse_loss(reconstruction, actions), kl
