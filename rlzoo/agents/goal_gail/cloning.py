"""Behaviour cloning on the demonstration rows of a batch."""

from __future__ import annotations

import torch as th

BLOCK = 250
"""Episodes after which annealed weights are multiplied by their factor."""


def annealed(weight: float, factor: float, episodes: int) -> float:
    """Return ``weight * factor**i`` after ``i`` completed blocks of 250 episodes."""
    return float(weight * factor ** (episodes // BLOCK))


def cloning_loss(
    actions: th.Tensor, expert: th.Tensor, n_rows: int, keep: th.Tensor | None = None
) -> th.Tensor:
    """Return ``1/n_rows * sum of w |pi - a_E|^2`` over the demonstration rows.

    Args:
        actions: Of the policy at demonstration states, ``[B_E, da]``.
        expert: Of the expert, ``[B_E, da]``.
        n_rows: Rows of the whole batch, those of the agent included.
        keep: ``w``, ``[B_E]`` bool; None keeps every row.
    """
    errors = (actions - expert).square().sum(-1)
    if keep is not None:
        errors = errors * keep
    return errors.sum() / n_rows


def q_filter(q_expert: th.Tensor, q_policy: th.Tensor) -> th.Tensor:
    """Return whether the critic prefers the expert's action, ``[B_E]`` (Nair et al. 2018)."""
    return q_expert.detach() > q_policy.detach()
