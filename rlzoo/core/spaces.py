"""When two spaces hold the same values."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces


def same_values(a: spaces.Space[Any], b: spaces.Space[Any]) -> bool:
    """Whether two spaces hold the same values, whatever the width of their floats.

    MuJoCo environments observe float64 and data sets store float32, so an agent that was made from
    a data set alone has another dtype than the environment of that data set.

    Args:
        a: Any space.
        b: Any space.
    """
    if not (isinstance(a, spaces.Box) and isinstance(b, spaces.Box)):
        return bool(a == b)
    if a.shape != b.shape or np.dtype(a.dtype).kind != np.dtype(b.dtype).kind:
        return False
    with np.errstate(over="ignore"):  # a bound beyond float32 means "unbounded"
        pairs = [
            (x.astype(np.float32), y.astype(np.float32))
            for x, y in ((a.low, b.low), (a.high, b.high))
        ]
    return all(np.allclose(x, y) for x, y in pairs)
