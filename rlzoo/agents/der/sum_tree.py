"""A sum tree in one NumPy array: proportional sampling without a Python loop per sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Values = NDArray[np.float64]


class SumTree:
    """Values ``p_i >= 0`` with their sums over halves, quarters, ...

    Inner nodes are recomputed from their children, never incremented, so that nothing drifts and
    the array is a function of its leaves.

    Args:
        n_leaves: Number of values.
    """

    changes: dict[int, float] | None = None
    """Where it is a dictionary, what is set is noted there by index: for a copy elsewhere."""

    def __init__(self, n_leaves: int) -> None:
        self.n_leaves = n_leaves
        self.depth = max(n_leaves - 1, 0).bit_length()
        self._first = 1 << self.depth
        self.nodes: Values = np.zeros(2 * self._first)
        """Node 1 is the root, the children of ``i`` are ``2 i`` and ``2 i + 1``."""

    @property
    def total(self) -> float:
        """Sum of all values."""
        return float(self.nodes[1])

    def get(self, indices: Indices) -> Values:
        """Return values by index."""
        return self.nodes[self._first + indices]

    def set(self, indices: Indices, values: Values | float) -> None:
        """Set values by index; of an index that occurs twice, the last one counts."""
        if self.changes is not None:
            noted = np.broadcast_to(values, indices.shape).tolist()
            self.changes.update(zip(indices.tolist(), noted, strict=True))
        nodes, at = self.nodes, self._first + indices
        nodes[at] = values
        for _ in range(self.depth):
            at = at >> 1
            nodes[at] = nodes[2 * at] + nodes[2 * at + 1]

    def find(self, mass: Values) -> Indices:
        """Return the index ``i`` at which the running sum first exceeds ``mass``.

        Args:
            mass: In ``[0, total)``, any shape. Rounding never leads to a value of zero, as long
                as the total is positive.
        """
        nodes, rest = self.nodes, mass.copy()
        at = np.ones(mass.shape, np.int64)
        for _ in range(self.depth):
            left = 2 * at
            weight = nodes[left]
            right = (rest >= weight) & (nodes[left + 1] > 0)
            rest -= np.where(right, weight, 0)
            at = left + right
        return at - self._first
