"""What planning hands from one part to the next: batches of transitions and of predictions.

Observations are *features*: flat float vectors ``[B, D]``, one-hot where states are numbered.
"""

from __future__ import annotations

from typing import NamedTuple

import torch as th


class Batch(NamedTuple):
    """Transitions to learn from, real or planned.

    Args:
        observations: ``[B, D]``.
        actions: ``[B]``, integers.
        rewards: ``[B]``; of several steps where ``discounts`` are those of several steps.
        next_observations: ``[B, D]``.
        dones: Probability that the episode ends, ``[B]``; 0 or 1 where it is known.
        discounts: Factor of the value of the next observation, ``[B]``; gamma for one step.
        weights: Weight in the loss, ``[B]``; 0 drops a row.
    """

    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    next_observations: th.Tensor
    dones: th.Tensor
    discounts: th.Tensor
    weights: th.Tensor

    @property
    def size(self) -> int:
        """Number of rows, ``B`` (the length of the tuple is that of its fields)."""
        return len(self.rewards)

    def rows(self, chosen: slice) -> Batch:
        """Return some of the rows."""
        return Batch(*(tensor[chosen] for tensor in self))


class Prediction(NamedTuple):
    """What a model says happens after (or, backward, happened before) each query.

    Args:
        observations: The next observations; backward the earlier ones. ``[B, D]``.
        rewards: ``[B]``.
        dones: Probability that the episode ends, ``[B]``. Backward: zeros, the truth is known.
        doubt: How far the members of an ensemble are apart, ``[B]``, in standard deviations of
            the observations; infinite where a table has nothing.
        actions: The actions, ``[B]``.
    """

    observations: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    doubt: th.Tensor
    actions: th.Tensor
