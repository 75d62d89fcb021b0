"""Nested Python values as JSON and back, exactly: no pickle, nothing lost, nothing executed.

JSON has no tuples, no integer keys, no NaN, no arrays. Such a value becomes an object with a tag,
``{"$": "tuple", "items": [...]}``; everything else stays as it is, so the text remains readable.
A hook adds more types (see :func:`flatten_state` for tensors and :mod:`rlzoo.core.portable`).
"""

from __future__ import annotations

import base64
import json
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from rlzoo.errors import RlzooError

TAG = "$"
_READABLE = 512  # larger arrays are stored as base64
_MAX_ELEMENTS = 10**8  # a forged shape must not reserve the memory of the machine

Path = tuple[str, ...]
EncodeHook = Callable[[Any, Path], Any]
DecodeHook = Callable[[dict[str, Any]], Any]


class NotPortableError(RlzooError, TypeError):
    """A value that cannot be written without pickle. ``path`` says where it is."""

    def __init__(self, value: Any, path: Path) -> None:
        self.path = path
        where = "/".join(path) or "value"
        super().__init__(f"{where}: {type(value).__name__} cannot be stored without pickle.")


def _no_hook(value: Any, path: Path) -> Any:
    raise NotPortableError(value, path)


def encode(value: Any, hook: EncodeHook = _no_hook, path: Path = ()) -> Any:
    """Return ``value`` as something that ``json.dumps(..., allow_nan=False)`` takes.

    Args:
        value: None, bool, int, float, str, bytes, list, tuple, dict, deque, NumPy arrays and
            scalars, nested as deep as you like, and what the hook knows.
        hook: Called with each other value and its path; returns its JSON or raises.
        path: Where ``value`` is, for messages.

    Raises:
        NotPortableError: If a part of the value is of another type. Subclasses count as other
            types, because they would come back as their base.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    if kind is list:
        return [encode(item, hook, (*path, str(i))) for i, item in enumerate(value)]
    if isinstance(value, dict):  # OrderedDict and defaultdict come back as dict
        return _encode_dict(value, hook, path)
    if kind in (tuple, deque):
        items = [encode(item, hook, (*path, str(i))) for i, item in enumerate(value)]
        extra = {"maxlen": value.maxlen} if kind is deque else {}
        return {TAG: kind.__name__, "items": items, **extra}
    if kind is bytes:
        return {TAG: "bytes", "base64": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        return encode_array(np.asarray(value), "array" if kind is np.ndarray else "scalar")
    return hook(value, path)


def _encode_dict(value: Mapping[Any, Any], hook: EncodeHook, path: Path) -> Any:
    if all(type(key) is str for key in value) and TAG not in value:
        return {key: encode(item, hook, (*path, key)) for key, item in value.items()}
    items = [
        [encode(key, _no_hook, path), encode(item, hook, (*path, str(key)))]
        for key, item in value.items()
    ]
    return {TAG: "dict", "items": items}


def encode_array(array: np.ndarray[Any, Any], tag: str = "array") -> dict[str, Any]:
    """Return a numeric array as JSON; a constant one takes one number whatever its size."""
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    out: dict[str, Any] = {TAG: tag, "dtype": array.dtype.name, "shape": list(array.shape)}
    raw = contiguous.tobytes()
    if array.size > 1 and raw == contiguous.reshape(-1)[:1].tobytes() * array.size:
        out["fill"] = encode(contiguous.reshape(-1)[0].item())
    elif array.size > _READABLE or array.dtype.itemsize > 8:
        out["base64"] = base64.b64encode(raw).decode()
    else:
        out["values"] = [encode(item) for item in contiguous.reshape(-1).tolist()]
    return out


def decode_array(tree: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return the array of :func:`encode_array`."""
    dtype, shape = np.dtype(str(tree["dtype"])), tuple(int(n) for n in tree["shape"])
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) > _MAX_ELEMENTS:
        raise ValueError(f"array of {dtype} with shape {shape}")
    if "fill" in tree:
        return np.full(shape, decode(tree["fill"]), dtype)
    if "base64" in tree:
        return np.frombuffer(base64.b64decode(tree["base64"]), dtype).reshape(shape).copy()
    return np.array([decode(item) for item in tree["values"]], dtype).reshape(shape)


def _unknown(tree: dict[str, Any]) -> Any:
    raise ValueError(f"unknown kind {tree[TAG]!r}")


def decode(tree: Any, hook: DecodeHook = _unknown) -> Any:
    """Return the value of :func:`encode`. Runs no code but the hook.

    Raises:
        ValueError, TypeError, KeyError: If the tree does not come from :func:`encode`.
    """
    if isinstance(tree, list):
        return [decode(item, hook) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if TAG not in tree:
        return {key: decode(item, hook) for key, item in tree.items()}
    kind = tree[TAG]
    if kind == "float":
        return float(tree["value"])
    if kind == "bytes":
        return base64.b64decode(tree["base64"])
    if kind == "array":
        return decode_array(tree)
    if kind == "scalar":
        return decode_array(tree)[()]
    if kind in ("tuple", "deque", "dict"):
        return _decode_container(kind, tree, hook)
    return hook(tree)


def _decode_container(kind: str, tree: dict[str, Any], hook: DecodeHook) -> Any:
    items = [decode(item, hook) for item in tree["items"]]
    if kind == "dict":
        return dict(items)
    return tuple(items) if kind == "tuple" else deque(items, maxlen=tree["maxlen"])


def dumps(tree: Any) -> str:
    """Return the JSON text of an encoded tree; one tree has one text.

    Keys keep their order, because the order of a dictionary may matter.
    """
    return json.dumps(tree, indent=1, allow_nan=False) + "\n"


def flatten_state(value: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Split nested state, such as ``optimizer.state_dict()``, into tensors and JSON.

    Returns:
        The tensors by their path (``"state/0/exp_avg"``), not copied, and a JSON tree in which each
        is replaced by its name.

    Raises:
        NotPortableError: If there is anything but tensors and what :func:`encode` takes.
    """
    tensors: dict[str, torch.Tensor] = {}

    def hook(item: Any, path: Path) -> Any:
        if not isinstance(item, torch.Tensor):
            raise NotPortableError(item, path)
        name = base = "/".join(path) or "tensor"
        number = 1
        while name in tensors:  # the keys "a/b" and "a" -> "b" have the same path
            number += 1
            name = f"{base}#{number}"
        tensors[name] = item.detach()
        return {TAG: "tensor", "name": name}

    return tensors, encode(value, hook)


def unflatten_state(tensors: Mapping[str, torch.Tensor], tree: Any) -> Any:
    """Return the state of :func:`flatten_state`; the tensors are not copied.

    Raises:
        ValueError, TypeError, KeyError: If the tree does not fit the tensors.
    """

    def hook(item: dict[str, Any]) -> Any:
        return tensors[item["name"]] if item[TAG] == "tensor" else _unknown(item)

    return decode(tree, hook)
