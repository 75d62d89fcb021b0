"""What BEAR logs about its last update. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch as th


class LastUpdate(NamedTuple):
    """Tensors of one update, detached, on the device."""

    q_values: th.Tensor  # [K, B]
    target: th.Tensor  # [B]
    distance: th.Tensor  # [B]
    mean: th.Tensor  # [B, d], the actor's, pre-tanh
    std: th.Tensor  # [B, d]
    behavior: th.Tensor  # [B, N, d], pre-tanh
    actions: th.Tensor  # [B, d], of the data, in [-1, 1]


@th.no_grad()
def describe(last: LastUpdate) -> dict[str, th.Tensor]:
    """Return scalars about the batch: values, spread of the actor, gaps to behaviour and data."""
    squashed = th.tanh(last.mean)
    return {
        "q_mean": last.q_values.mean(),
        "q_max": last.q_values.max(),
        "target_mean": last.target.mean(),
        "mmd_max": last.distance.max(),
        "actor_std": last.std.mean(),
        "raw_gap": (last.mean - last.behavior.mean(1)).abs().mean(),
        "tanh_gap": (squashed - th.tanh(last.behavior).mean(1)).abs().mean(),
        "behavior_raw_max": last.behavior.abs().max(),
        "data_action_error": (squashed - last.actions).abs().mean(),
    }


def describe_alpha(log_alpha: th.Tensor, bounds: tuple[float, float]) -> dict[str, th.Tensor]:
    """Return the multiplier, and 1 where its logarithm sits on a bound."""
    return {
        "alpha": log_alpha.exp(),
        "log_alpha": log_alpha,
        "log_alpha_at_cap": log_alpha >= bounds[1],
        "log_alpha_at_bottom": log_alpha <= bounds[0],
    }


def to_floats(values: Mapping[str, th.Tensor]) -> dict[str, float]:
    """Fetch scalars from the device with one wait."""
    numbers = th.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
