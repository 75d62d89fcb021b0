"""Batch data: one schema, its checks, and bridges to Minari, D4RL files and SB3 replay buffers.

``load_dataset`` is loaded on first use. ``validate`` is not: it has the name of its module, and
only a function that is bound after the module was loaded keeps the name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import validate

if TYPE_CHECKING:
    from rlzoo.data.load import load_dataset as load_dataset

__all__ = ["Transitions", "load_dataset", "validate"]


def __getattr__(name: str) -> Any:
    if name == "load_dataset":
        from rlzoo.data.load import load_dataset

        return load_dataset
    raise AttributeError(f"module 'rlzoo.data' has no attribute {name!r}")
