"""The evolution strategies behind one interface, by name.

A strategy holds what it needs beside the mean of the search in one flat tensor ``state``, so that
it is saved and continued as any other tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch as th

OptimizerName = Literal["pepg", "openes", "cma"]


@dataclass(frozen=True)
class Settings:
    """What all strategies are made with; see ``ObservationalDropout`` for meanings and sources."""

    n_parameters: int
    pop_size: int
    sigma_init: float
    sigma_decay: float
    sigma_limit: float
    sigma_lr: float
    sigma_max_change: float
    weight_decay: float


class Strategy(ABC):
    """A search distribution around a mean.

    Attributes:
        state: Flat tensor; changed in place only.
        gives_gradient: Whether :meth:`update` returns a direction for an optimiser to ascend, else
            it returns the new mean.
    """

    gives_gradient = True
    state: th.Tensor

    @abstractmethod
    def sample(self, mean: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """Draw candidates ``[N, P]`` around the mean ``[P]``; i and i + N/2 are a pair."""

    @abstractmethod
    def update(self, mean: th.Tensor, candidates: th.Tensor, fitness: th.Tensor) -> th.Tensor:
        """Learn from the fitness of the candidates.

        Args:
            mean: ``[P]``.
            candidates: What :meth:`sample` gave, ``[N, P]``.
            fitness: To be maximised, ``[N]``.

        Returns:
            Gradient, or new mean: ``[P]``.
        """

    @property
    @abstractmethod
    def spread(self) -> float:
        """Mean standard deviation of a coordinate."""


def mirrored(
    mean: th.Tensor, deviations: th.Tensor | float, pairs: int, rng: np.random.Generator
) -> th.Tensor:
    """Return mean + eps (rows 0 to h - 1) and mean - eps (rows h to 2h - 1)."""
    noise = rng.standard_normal((pairs, len(mean)), np.float32)
    eps = th.from_numpy(noise).to(mean.device) * deviations
    return th.cat([mean + eps, mean - eps])


def make_strategy(name: OptimizerName, settings: Settings, device: th.device) -> Strategy:
    """Return a strategy by name.

    Raises:
        RefusedError: If ``cma`` is asked for and not installed.
    """
    from rlzoo.agents.observational_dropout.cma_es import CMA
    from rlzoo.agents.observational_dropout.openes import OpenES
    from rlzoo.agents.observational_dropout.pepg import PEPG

    made: dict[str, Callable[[Settings, th.device], Strategy]] = {
        "pepg": PEPG,
        "openes": OpenES,
        "cma": CMA,
    }
    return made[name](settings, device)
