"""The two networks: a stack of probabilistic ones for the model, a plain one for the denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.core.layers import StackedLinear

FIRST_BOUNDS = (-10.0, 0.5)  # of the log-variance; both are learned [HoT]
BOUND_WEIGHT = 0.01  # of their distance in the loss [HoT]


def init_layer(weight: th.Tensor, bias: th.Tensor, n_inputs: int) -> None:
    """Draw weights as HoT does: normal, truncated at two deviations of ``1 / (2 sqrt(n))``."""
    std = 0.5 / math.sqrt(n_inputs)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(bias)


def bound_log_variance(raw: th.Tensor, low: th.Tensor, high: th.Tensor) -> th.Tensor:
    """Bound softly, first from above, then from below (page, section 2.2)."""
    bounded = high - F.softplus(high - raw)
    return low + F.softplus(bounded - low)


class ProbabilisticMLP(nn.Module):
    """``n_members`` SiLU networks that give mean and log-variance; one batched product per layer.

    Args:
        n_members: Number of members ``K``.
        n_inputs: Input width.
        hidden: Widths of the hidden layers.
        n_outputs: Number of predicted dimensions ``D``.
    """

    def __init__(
        self, n_members: int, n_inputs: int, hidden: Sequence[int], n_outputs: int
    ) -> None:
        super().__init__()
        self.n_members, self.n_outputs = n_members, n_outputs
        widths = [n_inputs, *hidden, 2 * n_outputs]
        self.layers = nn.ModuleList(StackedLinear(n_members, a, b) for a, b in pairwise(widths))
        self.min_log_variance = nn.Parameter(th.full((n_outputs,), FIRST_BOUNDS[0]))
        self.max_log_variance = nn.Parameter(th.full((n_outputs,), FIRST_BOUNDS[1]))
        self.reset()

    def reset(self) -> None:
        """Draw all weights again."""
        for layer in self.stacked:
            init_layer(layer.weight, layer.bias, layer.weight.shape[1])
        nn.init.constant_(self.min_log_variance, FIRST_BOUNDS[0])
        nn.init.constant_(self.max_log_variance, FIRST_BOUNDS[1])

    @property
    def stacked(self) -> list[StackedLinear]:
        """The layers, first to last."""
        return cast(list[StackedLinear], list(self.layers))

    def forward(self, inputs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Map ``[K, B, n_inputs]`` to mean and log-variance, ``[K, B, D]`` each."""
        *hidden, last = self.stacked
        for layer in hidden:
            inputs = F.silu(layer(inputs))
        mean, raw = last(inputs).chunk(2, dim=-1)
        return mean, bound_log_variance(raw, self.min_log_variance, self.max_log_variance)

    def loss(
        self, inputs: th.Tensor, targets: th.Tensor, decay: Sequence[float]
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return the loss, and its likelihood part for one member (both scalars).

        Args:
            inputs: ``[K, B, n_inputs]``.
            targets: ``[K, B, D]``.
            decay: Weight decay by layer; the last entry is that of the last layer, and the one
                before stands for all layers beyond.
        """
        mean, log_variance = self(inputs)
        errors = (targets - mean).square() * (-log_variance).exp() + log_variance
        likelihood = errors.mean((1, 2)).sum()
        bounds = (self.max_log_variance - self.min_log_variance).sum()
        total = likelihood + BOUND_WEIGHT * bounds
        rates = decay_by_layer(decay, len(self.layers))
        if any(rates):
            for rate, layer in zip(rates, self.stacked, strict=True):
                total = total + 0.5 * rate * layer.weight.square().sum()
        return total, likelihood.detach() / self.n_members


Layers = Sequence[tuple[th.Tensor, th.Tensor]]
"""Bias and weight ``[in, out]`` by layer, with SiLU between; each computes in its own type."""

CPU_ROWS = 512
"""Rows at a time on a CPU: the activations of so many stay in its cache."""


def in_bfloat16(layers: Layers) -> Layers:
    """Return layers of which the inner ones compute in bf16, twice as fast where there is AVX-512.

    The first and the last, which are narrow, stay as they are.
    """
    first, *inner, last = layers
    return [first, *((bias.bfloat16(), weight.bfloat16()) for bias, weight in inner), last]


def make_blocks(layers: Layers, rows: int, lead: tuple[int, ...] = ()) -> list[th.Tensor]:
    """Return what :func:`forward_in_place` writes the outputs of the layers to."""
    return [weight.new_empty((*lead, rows, weight.shape[-1])) for _, weight in layers]


def forward_in_place(x: th.Tensor, layers: Layers, blocks: Sequence[th.Tensor]) -> th.Tensor:
    """Evaluate layers into blocks: ``[B, in]`` to ``[B, out]``, or stacked ``[K, B, ...]``."""
    product = th.addmm if x.dim() == 2 else th.baddbmm
    (last_bias, last_weight), last_block = layers[-1], blocks[-1]
    for (bias, weight), block in zip(layers[:-1], blocks[:-1], strict=True):
        x = F.silu(product(bias, x.to(weight.dtype), weight, out=block), inplace=True)
    found: th.Tensor = product(last_bias, x.to(last_weight.dtype), last_weight, out=last_block)
    return found


def evaluate(x: th.Tensor, layers: Layers) -> th.Tensor:
    """Evaluate layers on many rows ``[n, in]``; on a CPU a piece at a time. No gradient."""
    rows = min(CPU_ROWS, len(x)) if x.device.type == "cpu" else len(x)
    found = x.new_empty((len(x), layers[-1][1].shape[-1]))
    blocks = make_blocks(layers, rows)
    for start in range(0, len(x), max(rows, 1)):
        piece = x[start : start + rows]
        here = [block[: len(piece)] for block in blocks]
        here[-1] = found[start : start + rows]
        forward_in_place(piece, layers, here)
    return found


def decay_by_layer(decay: Sequence[float], n_layers: int) -> list[float]:
    """Return one rate per layer: the given ones, the last for the last layer."""
    if not decay:
        return [0.0] * n_layers
    *inner, last = decay
    inner = list(inner) or [last]
    return [inner[min(i, len(inner) - 1)] for i in range(n_layers - 1)] + [last]


class SiluMLP(nn.Sequential):
    """A plain network with HoT's weights.

    Args:
        n_inputs: Input width.
        hidden: Widths of the hidden layers.
        n_outputs: Output width.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], n_outputs: int) -> None:
        layers: list[nn.Module] = []
        for a, b in pairwise([n_inputs, *hidden]):
            layers += [nn.Linear(a, b), nn.SiLU()]
        super().__init__(*layers, nn.Linear([n_inputs, *hidden][-1], n_outputs))
        self.reset()

    def reset(self) -> None:
        """Draw all weights again."""
        for layer in self.linear:
            init_layer(layer.weight, layer.bias, layer.in_features)

    @property
    def linear(self) -> list[nn.Linear]:
        """The layers with weights, first to last."""
        return [layer for layer in self if isinstance(layer, nn.Linear)]
