"""Categorical value distributions (C51): expectation, projection, cross-entropy. Pure functions.

A distribution is a row of ``N`` probabilities on atoms with equal distances from ``v_min`` to
``v_max``.
"""

from __future__ import annotations

import torch as th
from torch.nn import functional as F  # noqa: N812


def atoms(v_min: float, v_max: float, n_atoms: int) -> th.Tensor:
    """Return the support ``z``, ``[N]``; ``v_min < v_max`` and at least two atoms."""
    return th.linspace(v_min, v_max, n_atoms)


def expectation(logits: th.Tensor, z: th.Tensor) -> th.Tensor:
    """Return ``sum_i z_i softmax(logits)_i``: ``[..., N]`` to ``[...]``."""
    return logits.softmax(-1) @ z


def project(
    probabilities: th.Tensor, rewards: th.Tensor, discounts: th.Tensor, z: th.Tensor
) -> th.Tensor:
    """Distribution of ``R + discount Z``, clipped to the support and projected onto its atoms.

    Dense form: ``m_j = sum_i p_i clip(1 - |Tz_i - z_j| / dz, 0, 1)``. There is no index arithmetic,
    so mass cannot get lost where ``Tz_i`` falls exactly on an atom.

    Args:
        probabilities: Of the bootstrap distribution, ``[B, N]``.
        rewards: (n-step) returns ``R``, ``[B]``.
        discounts: Bootstrap factor ``gamma^m``, 0 where the window ended terminally, ``[B]``.
        z: Support, ``[N]``.

    Returns:
        Probabilities ``[B, N]``.
    """
    spacing = (z[-1] - z[0]) / (len(z) - 1)
    moved = th.addcmul(rewards.unsqueeze(1), discounts.unsqueeze(1), z)
    moved = th.minimum(th.maximum(moved, z[0]), z[-1])
    distance = (moved.unsqueeze(1) - z.unsqueeze(1)).abs_()  # [B, j, i]
    share = distance.div_(-spacing).add_(1).clamp_(min=0)
    return th.bmm(share, probabilities.unsqueeze(-1)).squeeze(-1)


def cross_entropy(target: th.Tensor, logits: th.Tensor) -> th.Tensor:
    """Return ``-sum_j m_j log softmax(logits)_j``: two ``[B, N]`` to ``[B]``."""
    return -(target * F.log_softmax(logits, -1)).sum(-1)
