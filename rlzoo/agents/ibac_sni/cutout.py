"""Cutout: coloured rectangles drawn into the frames of a training, as CoinRun's renderer does.

openai/coinrun ``coinrun.cpp``, switched on by ``-uda 1``: 0 to 5 rectangles per frame; the corner
uniform over the frame, both sides uniform in [0.1, 0.35) of it, colours uniform in [0, 254]. What
sticks out is cut off, later ones cover earlier ones. There edges are antialiased and rectangles lie
below the squares that show the speed; here edges are whole pixels, and they may cover the squares.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST = 5
"""Rectangles per frame, at most."""
SIDES = (0.1, 0.35)
COLOURS = 255
"""Colours are below this number, by an off-by-one of the published code."""


class Rectangles(NamedTuple):
    """Rectangles of ``n`` frames; of frame ``i`` the first ``counts[i]`` are drawn.

    Args:
        counts: ``[n]``, 0 to 5.
        corners: Top and left as shares of the frame, ``[n, 5, 2]``, in [0, 1).
        sides: Height and width as shares of the frame, ``[n, 5, 2]``, in [0.1, 0.35).
        colours: Of every channel, ``[n, 5, channels]`` uint8, 0 to 254.
    """

    counts: NDArray[np.int64]
    corners: NDArray[np.float64]
    sides: NDArray[np.float64]
    colours: NDArray[np.uint8]


def draw_rectangles(rng: np.random.Generator, n: int, channels: int = 3) -> Rectangles:
    """Draw the rectangles of ``n`` frames."""
    return Rectangles(
        rng.integers(MOST + 1, size=n),
        rng.random((n, MOST, 2)),
        rng.uniform(*SIDES, (n, MOST, 2)),
        rng.integers(COLOURS, size=(n, MOST, channels), dtype=np.uint8),
    )


def paint(frames: NDArray[np.uint8], rectangles: Rectangles) -> NDArray[np.uint8]:
    """Return frames with rectangles in them; the given ones stay as they are.

    Args:
        frames: ``[n, channels, height, width]``.
        rectangles: Of these frames.
    """
    painted = frames.copy()
    size = np.array(frames.shape[-2:])
    first = np.rint(rectangles.corners * size).astype(np.int64)
    last = np.rint((rectangles.corners + rectangles.sides) * size).astype(np.int64)
    boxes = np.concatenate((first, last), axis=-1)
    colours = rectangles.colours[..., None, None]
    drawn = np.arange(MOST) < rectangles.counts[:, None]
    for frame, which in zip(*np.nonzero(drawn), strict=True):
        top, left, bottom, right = boxes[frame, which].tolist()
        painted[frame, :, top:bottom, left:right] = colours[frame, which]
    return painted


def cutout(frames: Any, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return frames ``[n, channels, height, width]`` with new rectangles in each."""
    n, channels = frames.shape[:2]
    return paint(frames, draw_rectangles(rng, n, channels))
