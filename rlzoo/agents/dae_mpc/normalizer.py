"""Statistics of the inputs and targets of a model, measured once per fit."""

from __future__ import annotations

import torch as th
from torch import nn

# What varies less than this share of its size is a constant: float32 has 24 bits.
RELATIVE = 1e-6
ABSOLUTE = 1e-12


class Normalizer(nn.Module):
    """Mean and deviation by dimension. Measured in float64, kept in the type of the module.

    In float32 the deviation of a large mean cancels; PETS diverged by it (mbrl-lib#110). A
    deviation of (nearly) zero is replaced by 1.

    Args:
        width: Number of dimensions.
    """

    mean: th.Tensor
    scale: th.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", th.zeros(width))
        self.register_buffer("scale", th.ones(width))

    @th.no_grad()
    def measure(self, values: th.Tensor) -> None:
        """Take the statistics of ``[N, width]``."""
        exact = values.double()
        mean, scale = exact.mean(0), exact.std(0, correction=0)
        constant = scale <= (mean.abs() * RELATIVE).clamp(min=ABSOLUTE)
        self.mean.copy_(mean)
        self.scale.copy_(th.where(constant, 1.0, scale))

    def normalize(self, values: th.Tensor) -> th.Tensor:
        """Return values with mean 0 and deviation 1."""
        return (values - self.mean) / self.scale

    def restore(self, values: th.Tensor) -> th.Tensor:
        """Undo :meth:`normalize`."""
        return values * self.scale + self.mean
