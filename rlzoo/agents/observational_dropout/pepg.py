"""PEPG: a Gaussian over parameters whose mean and deviations are both learnt (page, 2.4).

The "population-based REINFORCE" of the paper (Sehnke et al. 2010, with ranks and Adam).
"""

from __future__ import annotations

import numpy as np
import torch as th

from rlzoo.agents.observational_dropout.shaping import centred_ranks, weight_penalty
from rlzoo.agents.observational_dropout.strategies import Settings, Strategy, mirrored


class PEPG(Strategy):
    """``state`` is sigma, one deviation per coordinate, ``[P]``."""

    def __init__(self, settings: Settings, device: th.device) -> None:
        self.settings = settings
        self.state = th.full((settings.n_parameters,), settings.sigma_init, device=device)

    def sample(self, mean: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """Step 1: eps ~ N(0, diag sigma^2), mirrored."""
        return mirrored(mean, self.state, self.settings.pop_size // 2, rng)

    def update(self, mean: th.Tensor, candidates: th.Tensor, fitness: th.Tensor) -> th.Tensor:
        """Steps 3 to 6; returns the gradient of the mean, unscaled, since Adam takes scale away."""
        given = self.settings
        # 3. Ranks, less the penalty.
        scores = centred_ranks(fitness) - weight_penalty(candidates, given.weight_decay)
        first, second = scores.chunk(2)
        plus, minus = candidates.chunk(2)
        eps = (plus - minus) / 2
        gradient = (first - second) @ eps  # 4

        # 5. Deviations: pairs better than the mean pull sigma toward the size of their eps.
        sigma = self.state
        merit = (first + second) / 2 - scores.mean()
        slope = (eps.square() - sigma.square()) / sigma
        change = given.sigma_lr * (merit @ slope) / len(scores)
        most = given.sigma_max_change * sigma
        sigma += change.clamp(-most, most)

        # 6. Decay, which stops at the limit; the learnt change may go below.
        sigma *= th.where(sigma > given.sigma_limit, given.sigma_decay, 1.0)
        return gradient

    @property
    def spread(self) -> float:
        """Mean of sigma."""
        return float(self.state.mean())
