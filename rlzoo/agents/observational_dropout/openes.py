"""OpenES: one decaying deviation, mirrored candidates, standardised ranks (page, 2.4)."""

from __future__ import annotations

import numpy as np
import torch as th

from rlzoo.agents.observational_dropout.shaping import centred_ranks, weight_penalty
from rlzoo.agents.observational_dropout.strategies import Settings, Strategy, mirrored


class OpenES(Strategy):
    """``state`` is sigma, ``[1]``."""

    def __init__(self, settings: Settings, device: th.device) -> None:
        self.settings = settings
        self.state = th.full((1,), settings.sigma_init, device=device)

    def sample(self, mean: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """Draw mirrored candidates."""
        return mirrored(mean, self.state, self.settings.pop_size // 2, rng)

    def update(self, mean: th.Tensor, candidates: th.Tensor, fitness: th.Tensor) -> th.Tensor:
        """Return the estimated gradient; sigma decays down to its limit."""
        given = self.settings
        scores = centred_ranks(fitness) - weight_penalty(candidates, given.weight_decay)
        # A flat landscape has no deviation to divide by, and no gradient.
        scores = (scores - scores.mean()) / scores.std(correction=0).clamp_min(1e-8)
        noise = (candidates - mean) / self.state
        gradient = scores @ noise / (len(scores) * self.state)
        self.state *= th.where(self.state > given.sigma_limit, given.sigma_decay, 1.0)
        return gradient

    @property
    def spread(self) -> float:
        """Sigma."""
        return float(self.state)
