"""Objects that YAML cannot hold, built from fixed tables. Nothing is imported before it is needed.

=====================================================  ===========================================
``{schedule: linear, start: 3e-4}``                    from ``start`` to ``end`` (0) over
                                                       ``end_fraction`` (1) of the training
``{noise: normal, std: 0.1}``                          the same deviation in every action dimension
``{noise: ornstein-uhlenbeck, std: 0.1}``              likewise, correlated in time
``activation_fn: relu``                                a class of :mod:`torch.nn`
=====================================================  ===========================================
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rlzoo.errors import RefusedError

Form = tuple[str, Mapping[str, float | None]]

SCHEDULES: dict[str, Form] = {
    "linear": (
        "stable_baselines3.common.utils:LinearSchedule",
        {"start": None, "end": 0.0, "end_fraction": 1.0},
    ),
}
"""Name -> class, and its fields with their defaults (None: must be given)."""

NOISES: dict[str, Form] = {
    "normal": ("stable_baselines3.common.noise:NormalActionNoise", {"std": None}),
    "ornstein-uhlenbeck": (
        "stable_baselines3.common.noise:OrnsteinUhlenbeckActionNoise",
        {"std": None},
    ),
}

ACTIVATIONS: dict[str, str] = {
    "relu": "torch.nn:ReLU",
    "tanh": "torch.nn:Tanh",
    "elu": "torch.nn:ELU",
    "selu": "torch.nn:SELU",
    "gelu": "torch.nn:GELU",
    "silu": "torch.nn:SiLU",
    "leaky_relu": "torch.nn:LeakyReLU",
    "sigmoid": "torch.nn:Sigmoid",
    "identity": "torch.nn:Identity",
}


def build_argument(name: str, value: Any, action_size: int | None = None) -> Any:
    """Return what the constructor expects for a checked plain value.

    Args:
        name: Name of the argument.
        value: The value, as :func:`rlzoo.config.schema.check_value` returned it.
        action_size: Number of action dimensions, needed for action noise.

    Raises:
        RefusedError: If action noise is asked for and the action space has no size.
    """
    if isinstance(value, dict):
        if "schedule" in value:
            path, fields = SCHEDULES[value["schedule"]]
            return _load(path)(**{f: value.get(f, default) for f, default in fields.items()})
        if "noise" in value:
            return _noise(name, value, action_size)
        return {key: build_argument(key, entry, action_size) for key, entry in value.items()}
    if isinstance(value, str) and "activation" in name and value in ACTIVATIONS:
        return _load(ACTIVATIONS[value])
    return value


def _noise(name: str, value: Mapping[str, Any], action_size: int | None) -> Any:
    if action_size is None:
        raise RefusedError(f"{name}: action noise needs a continuous action space.")
    import numpy as np

    mean = np.zeros(action_size, dtype=np.float32)
    return _load(NOISES[value["noise"]][0])(mean, np.full_like(mean, value["std"]))


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
