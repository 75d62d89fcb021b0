"""Gymnasium spaces as JSON and back, equal in every bound and dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlzoo.core.json_tree import TAG, NotPortableError, Path, decode_array, encode_array


def encode_space(space: spaces.Space[Any], path: Path = ()) -> dict[str, Any]:
    """Return a Box, Discrete, MultiDiscrete, MultiBinary, Dict or Tuple space as JSON.

    Raises:
        NotPortableError: If it is another space, or a subclass, which may mean something else.
    """
    tree: dict[str, Any] = {TAG: "space", "type": type(space).__name__}
    if type(space) is spaces.Box:
        arrays = ("low", "high", "bounded_below", "bounded_above")
        return tree | {name: encode_array(getattr(space, name)) for name in arrays}
    if type(space) is spaces.Discrete:
        facts = {"n": int(space.n), "start": int(space.start), "dtype": np.dtype(space.dtype).name}
        return tree | facts
    if type(space) is spaces.MultiDiscrete:
        return tree | {name: encode_array(getattr(space, name)) for name in ("nvec", "start")}
    if type(space) is spaces.MultiBinary:
        return tree | {"shape": list(space.shape), "flat": isinstance(space.n, int)}
    if type(space) is spaces.Dict:
        items = [[name, encode_space(part, (*path, name))] for name, part in space.items()]
        return tree | {"items": items}
    if type(space) is spaces.Tuple:
        return tree | {"items": [encode_space(part, (*path, "tuple")) for part in space]}
    raise NotPortableError(space, path)


def decode_space(tree: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space of :func:`encode_space`.

    Raises:
        ValueError, TypeError, KeyError: If the tree does not come from :func:`encode_space`.
    """
    kind = tree["type"]
    if kind == "Box":
        low = decode_array(tree["low"])
        space = spaces.Box(low, decode_array(tree["high"]), dtype=low.dtype)
        # Integer boxes cannot hold an infinity; they remember here that a side is open.
        space.bounded_below = decode_array(tree["bounded_below"])
        space.bounded_above = decode_array(tree["bounded_above"])
        return space
    if kind == "Discrete":
        return spaces.Discrete(tree["n"], start=tree["start"], dtype=np.dtype(tree["dtype"]))
    if kind == "MultiDiscrete":
        nvec = decode_array(tree["nvec"])
        return spaces.MultiDiscrete(nvec, dtype=nvec.dtype, start=decode_array(tree["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(tree["shape"][0] if tree["flat"] else tree["shape"])
    if kind == "Dict":
        # Pairs, not a dict: Gymnasium would sort a dict by its keys.
        return spaces.Dict([(name, decode_space(part)) for name, part in tree["items"]])
    if kind == "Tuple":
        return spaces.Tuple([decode_space(part) for part in tree["items"]])
    raise ValueError(f"unknown space {kind!r}")


def short(space: spaces.Space[Any]) -> str:
    """Return kind and size of a space for messages, such as ``Box(11,)``."""
    if isinstance(space, spaces.Dict):
        return f"Dict({', '.join(f'{name}: {short(part)}' for name, part in space.items())})"
    if isinstance(space, spaces.Tuple):
        return f"Tuple({', '.join(short(part) for part in space)})"
    if isinstance(space, spaces.Discrete):
        return f"Discrete({space.n})"
    return f"{type(space).__name__}{space.shape}"
