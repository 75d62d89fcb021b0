"""From returns to what evolution strategies add up (page, 2.4)."""

from __future__ import annotations

import torch as th


def centred_ranks(fitness: th.Tensor) -> th.Tensor:
    """Return ranks / (N - 1) - 0.5, from -0.5 for the worst to 0.5 for the best.

    Equal values share the mean of their ranks: ranks by sorting would rank a flat landscape
    arbitrarily, and the mean of the search would walk at random.

    Args:
        fitness: ``[N]``, N at least 2; NaN counts as the worst.
    """
    fitness = fitness.nan_to_num(nan=-float("inf"), posinf=float("inf"), neginf=-float("inf"))
    _, group, counts = th.unique(fitness, return_inverse=True, return_counts=True)
    last = counts.cumsum(0) - 1  # rank of the last of each group
    ranks = last - (counts - 1) / 2
    centred: th.Tensor = ranks[group].to(th.float32) / (len(fitness) - 1) - 0.5
    return centred


def weight_penalty(candidates: th.Tensor, weight_decay: float) -> th.Tensor:
    """Return wd mean(theta^2) of each candidate, ``[N]``; it is *subtracted* from the fitness.

    The published CMA-ES negates the fitness first and so rewards large weights (page, pitfall 3).
    """
    return weight_decay * candidates.square().mean(-1)
