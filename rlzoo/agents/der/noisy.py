"""Linear layers with factorised Gaussian noise in their weights (Fortunato et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

BiasFan = Literal["in", "out"]


def factor(n: int, device: th.device | None = None) -> th.Tensor:
    """Draw one factor ``f(u) = sign(u) sqrt|u|``, ``u ~ N(0, 1)``, ``[n]``; global generator."""
    u = th.randn(n, device=device)
    return u.abs().sqrt_().copysign_(u)


class NoisyLinear(nn.Module):
    """``y = (W + f(e_out) f(e_in)^T * S) x + b + f(e_out) * s``.

    For one row this is evaluated as ``W x + b + f(e_out) * (S (x * f(e_in)) + s)``, without forming
    the outer product. For a batch the sum of weights is cheaper than a second matmul: a third less
    time forward and backward with 32 rows of 256 to 918 on a CPU.

    One draw serves all rows of a batch. The draw is not part of ``state_dict``: whoever uses noise
    draws first.

    Args:
        n_inputs: Input width.
        n_outputs: Output width.
        sigma: ``sigma_0``; weights start with ``sigma_0 / sqrt(n_inputs)``.
        bias_fan: Biases start with ``sigma_0`` over the root of the width ``"out"`` (Kaixhin's
            code) or ``"in"`` (Dopamine).
    """

    noise_in: th.Tensor
    noise_out: th.Tensor

    def __init__(
        self, n_inputs: int, n_outputs: int, sigma: float = 0.5, bias_fan: BiasFan = "out"
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_inputs)
        bias_sigma = sigma / math.sqrt(n_outputs if bias_fan == "out" else n_inputs)
        self.weight = nn.Parameter(th.empty(n_outputs, n_inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(th.full((n_outputs, n_inputs), sigma * bound))
        self.bias_sigma = nn.Parameter(th.full((n_outputs,), bias_sigma))
        self.register_buffer("noise_in", th.zeros(n_inputs), persistent=False)
        self.register_buffer("noise_out", th.zeros(n_outputs), persistent=False)
        self._sums: tuple[th.Tensor, th.Tensor] | None = None

    def sums(self) -> tuple[th.Tensor, th.Tensor]:
        """Return weights and biases with the last drawn noise added."""
        noise = th.outer(self.noise_out, self.noise_in)
        weight = th.addcmul(self.weight, self.weight_sigma, noise)
        return weight, th.addcmul(self.bias, self.bias_sigma, self.noise_out)

    def forward(self, inputs: th.Tensor, noisy: bool = True) -> th.Tensor:
        """Map ``[B, n_inputs]`` to ``[B, n_outputs]``, with the last drawn noise or without."""
        if noisy and (self._sums or len(inputs) > 1):
            return F.linear(inputs, *(self._sums or self.sums()))
        mean = F.linear(inputs, self.weight, self.bias)
        if not noisy:
            return mean
        spread = F.linear(inputs * self.noise_in, self.weight_sigma, self.bias_sigma)
        return th.addcmul(mean, spread, self.noise_out)


@th.no_grad()
def draw(layers: Sequence[NoisyLinear]) -> None:
    """Give layers new noise: one draw from torch's global generator for all of them."""
    buffers = [buffer for layer in layers for buffer in (layer.noise_in, layer.noise_out)]
    if buffers:
        sizes = [len(buffer) for buffer in buffers]
        drawn = th.split(factor(sum(sizes), buffers[0].device), sizes)
        th._foreach_copy_(buffers, list(drawn))  # in place, where a graph reads it


@contextmanager
def summed(layers: Sequence[NoisyLinear]) -> Iterator[None]:
    """Form the noisy weights once for all evaluations within, which have the same noise."""
    for layer in layers:
        layer._sums = layer.sums()
    try:
        yield
    finally:
        for layer in layers:
            layer._sums = None
