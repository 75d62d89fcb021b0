"""Random image shifts (DrQ): pad by repeating the border, cut the old size out at random."""

from __future__ import annotations

import torch as th
from torch.nn import functional as F  # noqa: N812


def random_shift(images: th.Tensor, pad: int, offset: th.Tensor | None = None) -> th.Tensor:
    """Shift every image by up to ``pad`` pixels in each direction; torch's global generator.

    Args:
        images: Floats, ``[B, C, H, W]``.
        pad: Largest shift in pixels; 0 returns the images.
        offset: What would be drawn: rows and columns in ``0 .. 2 pad``, ``[2, B, 1]``.
    """
    if pad == 0:
        return images
    batch, channels, height, width = images.shape
    padded = F.pad(images, (pad,) * 4, mode="replicate")
    if offset is None:
        offset = th.randint(0, 2 * pad + 1, (2, batch, 1), device=images.device)
    rows = offset[0] + th.arange(height, device=images.device)  # [B, H]
    columns = offset[1] + th.arange(width, device=images.device)  # [B, W]
    which = th.arange(batch, device=images.device).view(-1, 1, 1, 1)
    channel = th.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]]
