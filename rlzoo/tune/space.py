"""Search spaces: YAML beside the configurations, checked against the constructor like these.

==========================================  ======================================================
``{type: float, low: 1e-5, high: 1e-2}``    a number; ``log: true`` for a logarithmic scale,
                                            ``step`` for a grid
``{type: int, low: 1, high: 20}``           an integer, likewise
``{type: choice, values: [[64], [256]]}``   one of these; any value that a configuration may have
==========================================  ======================================================

A key is a constructor argument, a path such as ``policy_kwargs.net_arch``, or ``run.n_envs``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlzoo.agents.registry import AgentSpec
from rlzoo.config.load import KeyPath, load_yaml
from rlzoo.config.locate import config_root
from rlzoo.config.schema import (
    Argument,
    arguments_of,
    check_value,
    find,
    policy_arguments,
    run_arguments,
)
from rlzoo.errors import RefusedError, did_you_mean

NAME = "search.yaml"

_FIELDS = {
    "float": ("type", "low", "high", "log", "step"),
    "int": ("type", "low", "high", "log", "step"),
    "choice": ("type", "values"),
}
# Other settings of a run decide how a trial is measured.
_TUNABLE_RUN = ("n_envs",)


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Args:
        key: As ``--set`` takes it.
        kind: ``float``, ``int`` or ``choice``.
        low: Smallest number.
        high: Largest number.
        log: Whether numbers are drawn on a logarithmic scale.
        step: Distance between numbers, None for any number (1 for integers).
        values: The values of a choice, as JSON: Optuna's choices are text or numbers.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    values: tuple[str, ...] = ()

    def override(self, value: Any) -> str:
        """Return ``key=value`` for ``--set``; the value as Optuna has it."""
        return f"{self.key}={value if self.kind == 'choice' else json.dumps(value)}"


def load_space(spec: AgentSpec, path: Path | None = None) -> tuple[Dimension, ...]:
    """Read and check a search space.

    Args:
        spec: The agent.
        path: The file; ``configs/<agent>/search.yaml`` by default.

    Raises:
        RefusedError: With ``file:line``, for anything that the agent would not take.
    """
    if path is not None:
        name = str(path)
        values, lines = load_yaml(path, name)
    else:
        root, name = config_root(), f"configs/{spec.name}/{NAME}"
        file = None if root is None else root.joinpath(spec.name, NAME)
        if file is None or not file.is_file():
            raise RefusedError(
                f"{spec.name} has no search space ({name}).",
                "A space is a YAML file: key: {type: float, low: 1e-5, high: 1e-2, log: true}",
                "Give one with --space FILE.",
            )
        values, lines = load_yaml(file, name)
    checker = _Checker(spec, name, lines)
    space = tuple(checker.dimension(key, entry) for key, entry in values.items())
    seen: dict[str, str] = {}
    for key, dimension in zip(values, space, strict=True):
        if dimension.key in seen:
            raise RefusedError(f"{checker.at(key)}: the same setting as {seen[dimension.key]!r}.")
        seen[dimension.key] = key
    return space


def without(space: Iterable[Dimension], overrides: Iterable[str]) -> tuple[Dimension, ...]:
    """Return the dimensions that ``--set`` does not fix.

    Raises:
        RefusedError: If none is left.
    """
    given = {text.partition("=")[0].strip().removeprefix("agent.") for text in overrides}
    left = tuple(
        dimension for dimension in space if not any(_same(dimension.key, key) for key in given)
    )
    if not left:
        raise RefusedError("--set fixes every setting of the search space: nothing to search.")
    return left


def _same(key: str, given: str) -> bool:
    """Whether one of two keys is the other or holds it."""
    a, b = key.removeprefix("run.").split("."), given.removeprefix("run.").split(".")
    length = min(len(a), len(b))
    return a[:length] == b[:length]


class _Checker:
    """Checks entries of a file against the constructor of an agent."""

    def __init__(self, spec: AgentSpec, name: str, lines: Mapping[KeyPath, int]) -> None:
        agent_class = spec.load_class()
        self.owner, self.name, self.lines = agent_class.__name__, name, lines
        self.agent, self.run = arguments_of(agent_class), run_arguments()
        self.policy = policy_arguments(agent_class)

    def at(self, *path: str) -> str:
        """Return ``file:line`` of a key."""
        return f"{self.name}:{self.lines.get(path, self.lines.get(path[:1], 1))}"

    def dimension(self, key: str, entry: Any) -> Dimension:
        """Return a checked dimension."""
        where = self.at(key)
        canonical, argument, inner = self._argument(key, where)
        if not isinstance(entry, dict) or entry.get("type") not in _FIELDS:
            raise RefusedError(
                f"{where}: {key} is not a dimension of a search space.",
                f"Allowed: a mapping with type: {', '.join(_FIELDS)}.",
            )
        kind = entry["type"]
        for field in entry:
            if field not in _FIELDS[kind]:
                raise RefusedError(
                    f"{self.at(key, field)}: unknown field {field!r}. "
                    f"{did_you_mean(field, _FIELDS[kind])}".strip(),
                    f"type: {kind} has: {', '.join(_FIELDS[kind])}.",
                )
        made = self._choice(canonical, entry, where) if kind == "choice" else (
            self._numbers(canonical, kind, entry, where)
        )  # fmt: skip
        for value in _samples(made):
            for part in reversed(inner):
                value = {part: value}
            check_value(argument, value, where, self.policy)
        return made

    def _argument(self, key: str, where: str) -> tuple[str, Argument, list[str]]:
        """Return the key as it is written elsewhere, its argument, and the path inside of that."""
        parts = key.split(".")
        if parts[0] == "run" or (len(parts) == 1 and key in self.run and key not in self.agent):
            name = parts[-1]
            argument = find(self.run, name, where, "run")
            if name not in _TUNABLE_RUN or len(parts) > 2:
                raise RefusedError(
                    f"{where}: {key} cannot be searched: trials could not be compared.",
                    f"Of a run, only {', '.join(_TUNABLE_RUN)} may differ.",
                )
            return f"run.{name}", argument, []
        if parts[0] == "agent" and len(parts) > 1:
            parts = parts[1:]
        argument = find(self.agent, parts[0], where, self.owner)
        return ".".join(parts), argument, parts[1:]

    def _choice(self, key: str, entry: Mapping[str, Any], where: str) -> Dimension:
        values = entry.get("values")
        if not isinstance(values, list) or not values:
            raise RefusedError(f"{where}: {key} has no list of values.")
        texts = tuple(json.dumps(value, sort_keys=True) for value in values)
        if len(set(texts)) < len(texts):
            raise RefusedError(f"{where}: {key} has the same value twice.")
        return Dimension(key, "choice", values=texts)

    def _numbers(self, key: str, kind: str, entry: Mapping[str, Any], where: str) -> Dimension:
        low, high = (_number(entry.get(name), name, key, kind, where) for name in ("low", "high"))
        given = entry.get("step")
        step = None if given is None else _number(given, "step", key, kind, where)
        log = entry.get("log", False)
        if not isinstance(log, bool):
            raise RefusedError(f"{where}: log of {key} is {log!r}.", "Allowed: true, false.")
        if not low < high:
            raise RefusedError(f"{where}: low={low} of {key} is not below high={high}.")
        if log and (low <= 0 or step is not None):
            raise RefusedError(
                f"{where}: log of {key} needs a low above 0 and no step; low={low}, step={step}."
            )
        if step is not None and not 0 < step <= high - low:
            raise RefusedError(
                f"{where}: step of {key} is {step}.", f"Allowed: above 0, at most {high - low}."
            )
        return Dimension(key, kind, low, high, log, step)


def _number(value: Any, name: str, key: str, kind: str, where: str) -> float:
    wanted = (int,) if kind == "int" else (int, float)
    fits = isinstance(value, wanted) and not isinstance(value, bool)
    if not fits or not math.isfinite(value):
        raise RefusedError(
            f"{where}: {name} of {key} is {value!r}.",
            f"It must be {'an integer' if kind == 'int' else 'a number'}.",
        )
    number: float = value
    return number


def _samples(dimension: Dimension) -> Iterator[Any]:
    """Yield values that a dimension may take: its ends, something in between, all of a choice."""
    if dimension.kind == "choice":
        yield from (json.loads(text) for text in dimension.values)
        return
    yield from (dimension.low, dimension.high)
    if dimension.kind == "float":  # not an integer: an argument that wants one is found out
        if dimension.step is None:
            yield dimension.low + 0.38196601125 * (dimension.high - dimension.low)
        else:
            yield dimension.low + dimension.step
