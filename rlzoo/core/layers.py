"""Networks that are used by more than one agent: a plain MLP and a stack of them as one matmul."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch as th
from torch import nn


def mlp(n_inputs: int, hidden: Sequence[int], n_outputs: int) -> nn.Sequential:
    """Return ``n_inputs -> hidden ... -> n_outputs`` with ReLU between, torch's default init."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_inputs, width), nn.ReLU()]
        n_inputs = width
    return nn.Sequential(*layers, nn.Linear(n_inputs, n_outputs))


def mlp_bfloat16(network: nn.Sequential, inputs: th.Tensor) -> th.Tensor:
    """Evaluate :func:`mlp` with bf16 matmuls; the last layer stays in fp32. No gradient.

    Hidden activations carry 8 bits of mantissa, so the result agrees to about 1 %; in exchange the
    matmuls run several times faster where the processor has bf16 instructions.
    """
    x = inputs.bfloat16()
    *hidden, last = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in hidden:
        x = nn.functional.linear(x, layer.weight.bfloat16(), layer.bias.bfloat16()).relu_()
    return nn.functional.linear(x.float(), last.weight, last.bias)


def _relu(x: th.Tensor) -> th.Tensor:
    """In place where no backward pass needs the input: one large block less to touch."""
    return x.relu() if x.requires_grad else x.relu_()


class StackedLinear(nn.Module):
    """``n_stack`` linear layers of one shape, evaluated as one batched matmul.

    Args:
        n_stack: Number of members ``K``.
        n_inputs: Input width.
        n_outputs: Output width.
    """

    def __init__(self, n_stack: int, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        # As nn.Linear: weights and biases uniform in +-1/sqrt(fan_in).
        bound = 1 / math.sqrt(n_inputs)
        self.weight = nn.Parameter(th.empty(n_stack, n_inputs, n_outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_stack, 1, n_outputs).uniform_(-bound, bound))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[K, B, n_inputs]`` to ``[K, B, n_outputs]``."""
        return th.baddbmm(self.bias, inputs, self.weight)


class StackedMLP(nn.Module):
    """``n_stack`` independent ReLU networks with scalar outputs: an ensemble of critics.

    Args:
        n_stack: Number of members ``K``.
        n_inputs: Input width.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, n_stack: int, n_inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.n_stack = n_stack
        widths = [n_inputs, *hidden, 1]
        self.layers = nn.ModuleList(StackedLinear(n_stack, a, b) for a, b in pairwise(widths))

    @property
    def stacked(self) -> list[StackedLinear]:
        """The layers, first to last."""
        return cast(list[StackedLinear], list(self.layers))

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[B, n_inputs]`` to ``[K, B]``."""
        # A batched matmul saves launches on a GPU. On a CPU it costs half as much again as one
        # matmul per member (and for a last layer of width one, five times a matrix-vector product).
        return self._batched(inputs) if inputs.is_cuda else self._member_by_member(inputs)

    def forward_bfloat16(self, inputs: th.Tensor) -> th.Tensor:
        """As ``forward`` with bf16 hidden layers (see :func:`mlp_bfloat16`). No gradient."""
        x = inputs.bfloat16()
        return self._batched(x) if inputs.is_cuda else self._member_by_member(x)

    def _batched(self, inputs: th.Tensor) -> th.Tensor:
        x = inputs.unsqueeze(0).expand(self.n_stack, -1, -1)
        *hidden, last = self.stacked
        for layer in hidden:
            x = _relu(th.baddbmm(layer.bias.to(x.dtype), x, layer.weight.to(x.dtype)))
        output: th.Tensor = last(x.to(last.weight.dtype))
        return output.squeeze(-1)

    def _member_by_member(self, inputs: th.Tensor) -> th.Tensor:
        # unbind, not indexing: its backward is one stack instead of K sums into zeros.
        layers = [
            list(zip(layer.weight.to(dtype).unbind(), layer.bias.to(dtype).unbind(), strict=True))
            for layer, dtype in zip(self.stacked, self._dtypes(inputs), strict=True)
        ]
        outputs = []
        for member in zip(*layers, strict=True):
            x = inputs
            *hidden, (weight, bias) = member
            for hidden_weight, hidden_bias in hidden:
                x = _relu(th.addmm(hidden_bias, x, hidden_weight))
            outputs.append(th.addmv(bias.squeeze(0), x.to(weight.dtype), weight.squeeze(-1)))
        return th.stack(outputs)

    def _dtypes(self, inputs: th.Tensor) -> list[th.dtype]:
        """Hidden layers compute in the type of the inputs, the last one in its own."""
        *hidden, last = self.stacked
        return [inputs.dtype] * len(hidden) + [last.weight.dtype]


@th.no_grad()
def polyak_update(online: nn.Module, target: nn.Module, tau: float) -> None:
    """``target <- (1 - tau) target + tau online``, one fused call for all parameters."""
    th._foreach_lerp_(list(target.parameters()), list(online.parameters()), tau)
