"""The name of the bytes: two data sets with one fingerprint train identically."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rlzoo.data.transitions import Transitions

ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "next_observations",
    "episode_starts",
)


def fingerprint(t: Transitions) -> str:
    """Return the SHA-256 over name, dtype, shape and little-endian bytes of the seven arrays.

    The metadata is left out: a data set that was renamed or moved keeps its fingerprint.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = np.asarray(getattr(t, name))
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{name}:{array.dtype.str}:{array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
