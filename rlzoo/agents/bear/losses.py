"""The dual step of BEAR as a pure function."""

from __future__ import annotations

from typing import Literal

import torch as th

Dual = Literal["exp", "linear"]


def dual_gradient(log_alpha: th.Tensor, violation: th.Tensor, dual: Dual) -> th.Tensor:
    """Return the gradient of the dual loss with respect to ``log_alpha``; both are scalars.

    ``"exp"`` (official code) ascends ``exp(log_alpha) * violation``, whose gradient carries alpha
    itself and runs away; ``"linear"`` ascends ``log_alpha * violation``.
    """
    return -violation * (log_alpha.exp() if dual == "exp" else 1.0)
