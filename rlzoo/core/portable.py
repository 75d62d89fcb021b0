"""The attributes of an SB3 model as JSON and back: spaces, schedules, noise, classes. No pickle.

Classes are written as ``"module:Class"`` and found again only in a few packages and only if they
are networks, optimisers, buffers or algorithms, so a forged file cannot name anything to call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import BaseBuffer
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from rlzoo.core import json_tree
from rlzoo.core.json_tree import TAG, NotPortableError, Path
from rlzoo.core.spaces_json import decode_space, encode_space
from rlzoo.errors import RefusedError

ALGORITHMS = ("rlzoo.agents", "stable_baselines3", "sb3_contrib")
PACKAGES = ("rlzoo", "stable_baselines3", "sb3_contrib", "torch.nn", "torch.optim")
_BASES = (torch.nn.Module, torch.optim.Optimizer, BaseBuffer, BaseAlgorithm)

# Plain objects: their constructor arguments, by the name of the attribute that holds each.
_OBJECTS: dict[str, tuple[type[Any], dict[str, str]]] = {
    "ConstantSchedule": (ConstantSchedule, {"val": "val"}),
    "LinearSchedule": (
        LinearSchedule,
        {"start": "start", "end": "end", "end_fraction": "end_fraction"},
    ),
    "FloatSchedule": (FloatSchedule, {"value_schedule": "value_schedule"}),
    "NormalActionNoise": (
        NormalActionNoise,
        {"mean": "_mu", "sigma": "_sigma", "dtype": "_dtype"},
    ),
    "OrnsteinUhlenbeckActionNoise": (
        OrnsteinUhlenbeckActionNoise,
        {
            "mean": "_mu", "sigma": "_sigma", "theta": "_theta", "dt": "_dt",
            "initial_noise": "initial_noise", "dtype": "_dtype",
        },
    ),
    "VectorizedActionNoise": (
        VectorizedActionNoise,
        {"base_noise": "base_noise", "n_envs": "n_envs"},
    ),
}  # fmt: skip


def class_path(cls: type[Any]) -> str:
    """Return ``"module:Class"``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def resolve_class(path: str, packages: tuple[str, ...] = PACKAGES) -> type[Any]:
    """Return the class for ``"module:Class"``.

    Raises:
        RefusedError: If it is not in one of ``packages``, does not exist, or is not a network, an
            optimiser, a buffer or an algorithm.
    """
    module, _, name = path.partition(":")
    found: Any = None
    if _inside(module, packages) and name.isidentifier():
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            found = None
    allowed = isinstance(found, type) and issubclass(found, _BASES)
    if not allowed or not _inside(found.__module__, PACKAGES):
        raise RefusedError(
            f"The file names the class {path!r}, which is not known here.",
            f"Allowed: networks, optimisers, buffers and algorithms of {', '.join(packages)}.",
        )
    return cast(type[Any], found)


def _inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def encode(value: Any, path: Path = ()) -> Any:
    """Return an attribute as JSON.

    Raises:
        NotPortableError: If it, or a part of it, would need pickle.
    """
    return json_tree.encode(value, _encode_special, path)


def decode(tree: Any) -> Any:
    """Return the attribute of :func:`encode`.

    Raises:
        RefusedError: If the tree names a class that is not allowed.
        ValueError, TypeError, KeyError: If the tree does not come from :func:`encode`.
    """
    return json_tree.decode(tree, _decode_special)


def encode_schedule(value: Callable[[float], float], progress: float) -> dict[str, Any]:
    """Return a schedule that needs pickle as its value now; :func:`decode` gives a constant.

    Args:
        value: Function of the remaining progress.
        progress: Remaining progress, from 1 (start) to 0 (end).
    """
    return {TAG: "last_value", "value": json_tree.encode(float(value(progress)))}


def _encode_special(value: Any, path: Path) -> Any:
    if isinstance(value, spaces.Space):
        return encode_space(value, path)
    if isinstance(value, type):
        return _encode_class(value, path)
    if type(value) is TrainFreq:
        return {TAG: "TrainFreq", "frequency": value.frequency, "unit": value.unit.value}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, np.dtype):
        return {TAG: "dtype", "name": value.name}
    name = type(value).__name__
    known, fields = _OBJECTS.get(name, (None, {}))
    if type(value) is not known:
        raise NotPortableError(value, path)
    tree = {TAG: name}
    for argument, attribute in fields.items():
        tree[argument] = encode(getattr(value, attribute), (*path, argument))
    return tree


def _encode_class(cls: type[Any], path: Path) -> dict[str, Any]:
    if issubclass(cls, np.generic):
        return {TAG: "dtype", "name": np.dtype(cls).name}
    name = class_path(cls)
    for package in (torch.nn, torch.optim):  # torch.nn:ReLU, wherever torch keeps it
        if getattr(package, cls.__name__, None) is cls:
            name = f"{package.__name__}:{cls.__name__}"
    try:
        portable = resolve_class(name) is cls
    except RefusedError:
        portable = False
    if not portable:
        raise NotPortableError(cls, path)
    return {TAG: "class", "path": name}


def _decode_special(tree: dict[str, Any]) -> Any:
    kind = tree[TAG]
    if kind == "space":
        return decode_space(tree)
    if kind == "class":
        return resolve_class(tree["path"])
    if kind == "TrainFreq":
        return TrainFreq(int(tree["frequency"]), TrainFrequencyUnit(tree["unit"]))
    if kind == "dtype":
        return np.dtype(tree["name"])
    if kind == "last_value":
        return FloatSchedule(float(decode(tree["value"])))
    if kind not in _OBJECTS:
        raise ValueError(f"unknown kind {kind!r}")
    cls, fields = _OBJECTS[kind]
    return cls(**{argument: decode(tree[argument]) for argument in fields})
