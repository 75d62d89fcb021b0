"""Convolutions that do not overlap, as matrix products: what DER's encoder is on a CPU.

Where every kernel is as wide as its stride, an output pixel has a patch of the image for itself,
which consists of the patches of the layer before. With the pixels of an image sorted in the order
of that tree, each convolution is a matrix product on a reshaped array, and so are its gradients;
pixels that no output sees are left out. With 32 Atari images on a CPU the forward pass takes as
long as that of ``Conv2d``, the backward pass half, because its weight gradient is slow for a few
channels.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import torch as th
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812


class PatchEncoder(nn.Sequential):
    """Convolutions with ReLU, then ``Flatten``; takes images or their patches, with equal results.

    Args:
        shape: Channels, height and width of an image.
        layers: ``Conv2d, ReLU, ..., Flatten``, all convolutions without padding or overlap.
    """

    def __init__(self, shape: tuple[int, ...], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self._convolutions = tuple(x for x in layers if isinstance(x, nn.Conv2d))
        self._order = _order(shape, [int(x.kernel_size[0]) for x in self._convolutions])

    def patches(self, images: th.Tensor) -> th.Tensor:
        """Return the pixels in the order of :meth:`forward`, scaled to [0, 1].

        Args:
            images: On the CPU, uint8, ``[B, C, H, W]``.

        Returns:
            Floats, ``[B, n]``.
        """
        # NumPy's take of bytes is three times as fast as an indexed tensor.
        pixels = np.take(images.flatten(1).numpy(), self._order, axis=1)
        return th.from_numpy(pixels).float().div_(255)

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        """Map images in [0, 1] ``[B, C, H, W]``, or patches ``[B, n]``, to ``[B, n_features]``."""
        if inputs.dim() == 4:
            return super().forward(inputs)  # type: ignore[no-any-return, no-untyped-call]
        rows = inputs
        for layer in self._convolutions:
            weight = layer.weight.permute(0, 2, 3, 1).flatten(1)
            rows = F.linear(rows.reshape(-1, weight.shape[1]), weight, layer.bias).relu_()
        # As Flatten has them: channels first.
        return rows.view(len(inputs), -1, rows.shape[1]).transpose(1, 2).flatten(1)


def fits(layers: list[nn.Module]) -> bool:
    """Whether no convolution overlaps, so that :class:`PatchEncoder` can take them."""
    return all(x.kernel_size == x.stride for x in layers if isinstance(x, nn.Conv2d))


def _order(shape: tuple[int, ...], kernels: list[int]) -> NDArray[np.intp]:
    """Return the pixels of an image by output, then kernel by kernel from the last to the first."""
    channels, *size = shape
    block = int(np.prod(kernels))
    # Rows are split into outputs, then pixels of the last kernel, ..., of the first; columns too.
    (n_rows, n_columns), levels = [n // block for n in size], len(kernels) + 1
    pixels = np.arange(int(np.prod(shape))).reshape(shape)
    used = pixels[:, : n_rows * block, : n_columns * block]
    split = used.reshape(channels, n_rows, *reversed(kernels), n_columns, *reversed(kernels))
    axes = chain.from_iterable((1 + i, 1 + levels + i) for i in range(levels))
    return split.transpose(*axes, 0).ravel()
