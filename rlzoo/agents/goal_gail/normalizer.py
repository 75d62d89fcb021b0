"""Running mean and standard deviation of what the agent has seen, on the device."""

from __future__ import annotations

import torch as th
from torch import nn

CLIP_INPUT, CLIP_OUTPUT, SMALLEST_STD = 200.0, 5.0, 0.01


class Normalizer(nn.Module):
    """``(x clipped to +-200 - mean) / max(std, 0.01)``, clipped to +-5.

    Sums are kept in float64, so that the statistics are those of all rows at once.

    Args:
        size: Number of values per row.
        enabled: False makes it the identity.
    """

    count: th.Tensor
    total: th.Tensor
    squares: th.Tensor
    mean: th.Tensor
    std: th.Tensor

    def __init__(self, size: int, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled
        self.register_buffer("count", th.zeros((), dtype=th.float64))
        self.register_buffer("total", th.zeros(size, dtype=th.float64))
        self.register_buffer("squares", th.zeros(size, dtype=th.float64))
        self.register_buffer("mean", th.zeros(size))
        self.register_buffer("std", th.ones(size))

    @th.no_grad()
    def update(self, rows: th.Tensor) -> None:
        """Count rows ``[n, size]`` in. Changes its tensors in place, without a synchronisation."""
        if len(rows) == 0:
            return
        values = rows.clamp(-CLIP_INPUT, CLIP_INPUT).double()
        self.count += len(rows)
        self.total += values.sum(0)
        self.squares += values.square().sum(0)
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=SMALLEST_STD**2)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt())

    def forward(self, rows: th.Tensor) -> th.Tensor:
        """Normalise rows ``[..., size]``."""
        if not self.enabled:
            return rows
        scaled = (rows.clamp(-CLIP_INPUT, CLIP_INPUT) - self.mean) / self.std
        return scaled.clamp(-CLIP_OUTPUT, CLIP_OUTPUT)
