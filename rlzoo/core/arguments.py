"""Ranges as annotations: the constructor of an agent is the schema of its configuration.

``gamma: Annotated[float, Range(0, 1)]`` in a constructor is read by :func:`check_arguments` (from
Python) and by :mod:`rlzoo.config` (from YAML and ``--set``), so no second list has to be kept in
step. Standard library only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from rlzoo.errors import RefusedError, did_you_mean


@dataclass(frozen=True)
class Range:
    """An interval for a number, closed unless said otherwise.

    Args:
        low: Smallest allowed value.
        high: Largest allowed value.
        low_open: The smallest value itself is not allowed.
        high_open: The largest value itself is not allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        if math.isnan(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def __str__(self) -> str:
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = ")" if self.high_open or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


POSITIVE = Range(0, low_open=True)
NON_NEGATIVE = Range(0)
UNIT = Range(0, 1)
AT_LEAST_ONE = Range(1)


def ranges_of(function: Any) -> dict[str, Range]:
    """Return the :class:`Range` of every parameter of ``function`` that is annotated with one.

    The annotation may be nested: ``Annotated[float, Range(...)] | None`` counts as well.
    """
    found: dict[str, Range] = {}
    # Not typing.get_type_hints: it also resolves forward references inside SB3's own aliases.
    for name, hint in inspect.get_annotations(function, eval_str=True).items():
        range_ = _find_range(hint)
        if range_ is not None:
            found[name] = range_
    return found


def choices_of(function: Any) -> dict[str, list[str]]:
    """Return the strings that every parameter with a ``Literal`` in its annotation may take.

    A parameter that may also be any ``str`` is left out.
    """
    found: dict[str, list[str]] = {}
    for name, hint in inspect.get_annotations(function, eval_str=True).items():
        leaves = list(_leaves(hint))
        choices = [leaf for leaf in leaves if isinstance(leaf, str)]
        if choices and str not in leaves:
            found[name] = choices
    return found


def _leaves(hint: Any) -> Iterator[Any]:
    """Yield the plain types of a nested hint, and the values of its literals."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _leaves(part)
    else:
        yield hint


def _find_range(hint: Any) -> Range | None:
    for part in getattr(hint, "__metadata__", ()):
        if isinstance(part, Range):
            return part
    if get_origin(hint) is not None:
        for part in get_args(hint):
            range_ = _find_range(part)
            if range_ is not None:
                return range_
    return None


def check_range(name: str, value: Any, range_: Range, owner: str = "") -> None:
    """Refuse a number outside of its range.

    Strings, ``None``, callables (schedules) and containers are left to the type check.

    Raises:
        RefusedError: With the value, the range and the owner in the message.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if value not in range_:
        raise RefusedError(
            f"{owner + ': ' if owner else ''}{name}={value} is out of range.",
            f"Allowed: {range_}.",
        )


def check_choice(name: str, value: Any, choices: list[str], owner: str = "") -> None:
    """Refuse a string that is none of the choices; other types are left to the type check.

    Raises:
        RefusedError: With the value, the choices and the owner in the message.
    """
    if isinstance(value, str) and value not in choices:
        raise RefusedError(
            f"{owner + ': ' if owner else ''}{name}={value!r} is not known.",
            f"Allowed: {', '.join(repr(choice) for choice in choices)}.",
            did_you_mean(value, choices),
        )


def check_arguments(function: Any, values: Mapping[str, Any], owner: str = "") -> None:
    """Check ``values`` (by parameter name) against the annotations of ``function``.

    Raises:
        RefusedError: For the first number out of its range or string not among its literals.
    """
    for name, range_ in ranges_of(function).items():
        if name in values:
            check_range(name, values[name], range_, owner)
    for name, choices in choices_of(function).items():
        if name in values:
            check_choice(name, values[name], choices, owner)
