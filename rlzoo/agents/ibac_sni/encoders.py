"""Trunks: from an observation to features ``[B, F]``, before the latent layer.

``impala`` is the network of the CoinRun and Procgen papers, ``grid`` that of the MultiRoom
experiments; the others are smaller or larger relatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch as th
from torch import nn

from rlzoo.agents.ibac_sni.noise import BatchNorm
from rlzoo.errors import RefusedError

Encoder = Literal["impala", "impala-half", "impala-large", "nature", "grid"]
Activation = Literal["relu", "tanh"]

IMPALA_DEPTHS: dict[str, tuple[int, ...]] = {
    "impala": (16, 32, 32),
    "impala-half": (8, 16, 16),
    "impala-large": (32, 64, 64, 64, 64),
}
NATURE_WIDTH = 512


@dataclass(frozen=True)
class Trunk:
    """A trunk and what belongs to it.

    Args:
        module: Maps ``[B, C, H, W]`` or ``[B, n]`` to ``[B, F]``.
        n_features: ``F``.
        scale: What observations are divided by.
        activation: Behind the latent.
    """

    module: nn.Module
    n_features: int
    scale: float
    activation: Activation


class Residual(nn.Module):
    """ReLU, convolution, ReLU, convolution, plus the input."""

    def __init__(self, depth: int, norm: bool) -> None:
        super().__init__()
        self.first = conv(depth, depth, norm)
        self.second = conv(depth, depth, norm)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map ``[B, C, H, W]`` to the same shape."""
        hidden: th.Tensor = self.first(inputs.relu())
        output: th.Tensor = self.second(hidden.relu_())
        return output.add_(inputs)


def conv(n_inputs: int, n_outputs: int, norm: bool, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Return a convolution, "same" for a kernel of 3 and stride 1, with batch norm behind it."""
    padding = 1 if kernel == 3 and stride == 1 else 0
    layer = nn.Conv2d(n_inputs, n_outputs, kernel, stride, padding)
    return nn.Sequential(layer, BatchNorm(n_outputs)) if norm else layer


def make_image_trunk(name: Encoder, shape: Sequence[int], norm: bool) -> Trunk:
    """Return the trunk for images.

    Args:
        name: Name of the encoder.
        shape: ``(C, H, W)``.
        norm: Batch norm behind every convolution.

    Raises:
        RefusedError: If the image is too small.
    """
    build: Callable[..., nn.Sequential]
    build = {"nature": _nature, "grid": _grid}.get(name, _impala)
    n_channels, *size = shape
    layers = build(name, n_channels, norm)
    try:
        with th.no_grad():
            n_features = layers(th.zeros(1, n_channels, *size)).shape[-1]
    except RuntimeError as error:  # the only one that a convolution can have with these
        raise RefusedError(
            f"Images of shape {tuple(shape)} are too small for the encoder {name!r}.",
            "Allowed: at least 36 pixels for 'nature', 7 for 'grid', 1 for the others.",
            "Set policy_kwargs.encoder.",
        ) from error
    if name == "nature":
        layers.extend([nn.Linear(n_features, NATURE_WIDTH), nn.ReLU()])
        n_features = NATURE_WIDTH
    if name == "grid":  # integers that stand for objects and colours, not intensities
        return Trunk(layers, n_features, 1.0, "tanh")
    return Trunk(layers, n_features, 255.0, "relu")


def make_vector_trunk(n_inputs: int, widths: Sequence[int], norm: bool) -> Trunk:
    """Return the trunk for vectors: tanh layers of the given widths."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers.append(nn.Linear(n_inputs, width))
        layers += [BatchNorm(width)] if norm else []
        layers.append(nn.Tanh())
        n_inputs = width
    return Trunk(nn.Sequential(*layers), n_inputs, 1.0, "tanh")


def _impala(name: str, n_channels: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for depth in IMPALA_DEPTHS[name]:
        layers += [conv(n_channels, depth, norm), nn.MaxPool2d(3, 2, 1)]
        layers += [Residual(depth, norm), Residual(depth, norm)]
        n_channels = depth
    return nn.Sequential(*layers, nn.Flatten(), nn.ReLU())


def _nature(_: str, n_channels: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for depth, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        # Without padding, also where kernel and stride are 3 and 1.
        layers.append(nn.Conv2d(n_channels, depth, kernel, stride))
        layers += [BatchNorm(depth)] if norm else []
        layers.append(nn.ReLU())
        n_channels = depth
    return nn.Sequential(*layers, nn.Flatten())


def _grid(_: str, n_channels: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for depth, pool in ((16, True), (32, False), (32, False)):
        layers += [conv(n_channels, depth, norm, kernel=2), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        n_channels = depth
    return nn.Sequential(*layers, nn.Flatten())


@th.no_grad()
def initialise(module: nn.Module, kind: Literal["glorot", "grid", "orthogonal"]) -> None:
    """Set the weights of a network; biases to zero.

    Args:
        module: All its convolutions and linear layers are set.
        kind: ``"glorot"``: uniform, for images. ``"grid"``: rows of linear layers are normal
            vectors of unit length, convolutions stay as torch makes them. ``"orthogonal"``: gain
            sqrt(2), as SB3 does for vectors.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and kind == "grid":
            continue
        if isinstance(layer, nn.Conv2d | nn.Linear):
            if kind == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            elif kind == "grid":
                rows = layer.weight.normal_()
                rows.div_(rows.norm(dim=1, keepdim=True))
            else:
                nn.init.orthogonal_(layer.weight, 2**0.5)
            if layer.bias is not None:
                layer.bias.zero_()
