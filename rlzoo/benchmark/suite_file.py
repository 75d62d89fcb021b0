"""Reading a suite from YAML: every key known, every value checked, ``file:line`` in every message.

``steps``, ``eval_freq``, ``eval_episodes``, ``set``, ``dataset`` and ``preset`` of an agent or an
environment are a value for all sizes, or a mapping from sizes to values; so are ``preset`` and
``set`` of a variant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from rlzoo.agents.registry import AGENTS
from rlzoo.benchmark.suite import (
    DEFAULT_PRESET,
    SEEDS,
    AgentEntry,
    EnvEntry,
    Options,
    Size,
    Suite,
    Variant,
)
from rlzoo.config.load import KeyPath, load_yaml
from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, Range, check_range
from rlzoo.core.tasks.ids import canonical
from rlzoo.errors import RefusedError, did_you_mean
from rlzoo.report.reference import load_reference, reference_files

T = TypeVar("T")
Convert = Callable[[Any, str, str], T]

_TOP = (
    *("suite", "title", "score", "published", "target", "metrics", "axis", "every_run"),
    *("reference", "sizes", "agents", "envs"),
)
_PROTOCOL = ("steps", "eval_freq", "eval_episodes")
_SIZE = (*_PROTOCOL, "seeds", "agents", "envs", "set")
_AGENT = (*_PROTOCOL, "presets", "variants", "envs", "set")
_VARIANT = ("preset", "set", "published")
_POLICY = ("like", "envs", "set", "published")
_ENV = (*_PROTOCOL, "dataset", "set", "published")
POLICIES = ("random", "right-jump", "scripted")
"""Policies that are measured and not trained."""
_SCORE = re.compile(r"normalized|return|metrics\.\w+")


def read_suite(path: Path | Traversable, name: str) -> Suite:
    """Read and check one file.

    Args:
        path: The file.
        name: How messages call it.

    Raises:
        RefusedError: As :func:`rlzoo.benchmark.suite.load_suite`.
    """
    file = _File(name, *load_yaml(path, name))
    file.known((), _TOP)
    for key in ("suite", "title", "score", "sizes", "agents", "envs"):
        file.required((), key)
    score = file.get(("score",), _text)
    if not _SCORE.fullmatch(score):
        raise RefusedError(
            f"{file.at(('score',))}: score={score!r} is not known.",
            "Allowed: normalized, return, metrics.<name>.",
        )
    agents, envs = file.names(("agents",)), file.names(("envs",))
    for agent in agents:
        file.one_of(("agents", agent), agent, (*AGENTS, *POLICIES), "agent")
    sizes = {size: _size(file, size, agents, envs) for size in file.names(("sizes",))}
    suite = Suite(
        name=file.get(("suite",), _text),
        title=file.get(("title",), _text),
        score=score,
        reference=_reference(file),
        sizes=sizes,
        agents={agent: _agent(file, agent, tuple(sizes), envs) for agent in agents},
        envs={env: _env(file, env, tuple(sizes)) for env in envs},
        source=name,
        published=file.get(("published",), _text) if file.has("published") else None,
        target=_target(file, score),
        metrics=file.get(("metrics",), _texts) if file.has("metrics") else (),
        axis=file.get(("axis",), _text) if file.has("axis") else None,
        every_run=file.get(("every_run",), _truth) if file.has("every_run") else False,
    )
    _check_published(file, suite)
    _check_names(file, suite)
    _check_data(file, suite)
    return suite


@dataclass(frozen=True)
class _File:
    """The values of a file and the lines of its keys."""

    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int]

    def at(self, path: KeyPath) -> str:
        """Return ``file:line`` of a key, or of the nearest one above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"

    def has(self, *path: str) -> bool:
        """Return whether the file has this key."""
        return path in self.lines

    def node(self, path: KeyPath) -> Any:
        """Return the value at a path that exists."""
        node: Any = self.values
        for key in path:
            node = node[key]
        return node

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        """Return the mapping at a path; a key without a value is an empty one."""
        node = self.node(path)
        if node is None:
            return {}
        if not isinstance(node, dict):
            raise RefusedError(f"{self.at(path)}: {path[-1]!r} must be a mapping.")
        return node

    def names(self, path: KeyPath) -> tuple[str, ...]:
        """Return the keys of a mapping that may not be empty."""
        found = tuple(self.mapping(path))
        if not found:
            raise RefusedError(f"{self.at(path)}: {path[-1]!r} is empty.")
        return found

    def known(self, path: KeyPath, allowed: Sequence[str]) -> None:
        """Refuse a key that is not allowed in the mapping at a path."""
        for key in self.mapping(path):
            self.one_of((*path, key), key, allowed, "key")

    def one_of(self, path: KeyPath, name: str, allowed: Any, what: str) -> None:
        """Refuse a name that is not allowed, with its line and the nearest name."""
        if name not in allowed:
            raise RefusedError(
                f"{self.at(path)}: unknown {what} {name!r}. {did_you_mean(name, allowed)}".strip(),
                f"Known: {', '.join(allowed)}.",
            )

    def required(self, path: KeyPath, key: str) -> None:
        """Refuse a mapping that lacks a key, with its line."""
        if not self.has(*path, key):
            raise RefusedError(f"{self.at(path)}: {'.'.join((*path, key))} is missing.")

    def get(self, path: KeyPath, convert: Convert[T]) -> T:
        """Return a value that is there, checked."""
        return convert(self.node(path), path[-1], self.at(path))

    def by_size(
        self, path: KeyPath, sizes: Sequence[str], convert: Convert[T], default: T
    ) -> dict[str, T]:
        """Return size -> value of a key that may be absent, one value, or a mapping of sizes."""
        if not self.has(*path):
            return dict.fromkeys(sizes, default)
        node = self.node(path)
        if not isinstance(node, dict):
            return dict.fromkeys(sizes, self.get(path, convert))
        self.known(path, sizes)
        return {
            size: convert(node[size], path[-1], self.at((*path, size))) if size in node else default
            for size in sizes
        }


def _reference(file: _File) -> str | None:
    if not file.has("reference"):
        return None
    name = file.get(("reference",), _text)
    file.one_of(("reference",), name, reference_files(), "file of published numbers")
    return name


def _target(file: _File, score: str) -> float | None:
    if not file.has("target"):
        return None
    if score == "return":
        raise RefusedError(
            f"{file.at(('target',))}: a target needs a scale that all environments share.",
            "Allowed with: score: normalized, or metrics.<name>.",
        )
    return file.get(("target",), _positive)


def _check_published(file: _File, suite: Suite) -> None:
    if suite.published is None:
        return
    known = {entry.metric for entry in load_reference(suite.reference or "")}
    file.one_of(("published",), suite.published, sorted(known), "metric of published numbers")


def _check_names(file: _File, suite: Suite) -> None:
    """Refuse two ids of one environment: their runs would be one cell."""
    seen: dict[str, str] = {}
    for env in suite.envs:
        other = seen.setdefault(canonical(env), env)
        if other != env:
            raise RefusedError(f"{file.at(('envs', env))}: {env} is the environment {other}.")


def _size(file: _File, name: str, agents: Sequence[str], envs: Sequence[str]) -> Size:
    path = ("sizes", name)
    file.known(path, _SIZE)
    for key in (*_PROTOCOL, "seeds"):
        file.required(path, key)
    return Size(
        name=name,
        options=_options(file, path, (name,))[name],
        seeds=file.get((*path, "seeds"), _seeds),
        agents=_subset(file, (*path, "agents"), agents, "agent"),
        envs=_subset(file, (*path, "envs"), envs, "environment"),
    )


def _agent(file: _File, name: str, sizes: Sequence[str], envs: Sequence[str]) -> AgentEntry:
    path = ("agents", name)
    is_policy = name in POLICIES
    file.known(path, _POLICY if is_policy else _AGENT)
    has_envs = file.has(*path, "envs")
    names = file.names((*path, "variants")) if file.has(*path, "variants") else ()
    return AgentEntry(
        name=name,
        presets=file.by_size((*path, "presets"), sizes, _texts, names or (DEFAULT_PRESET,)),
        envs=_subset(file, (*path, "envs"), envs, "environment") if has_envs else None,
        options=_options(file, path, sizes),
        needs_data=not is_policy and AGENTS[name].needs_data,
        variants={n: _variant(file, (*path, "variants", n), sizes) for n in names},
        like=_like(file, path) if is_policy else None,
        published=_published(file, path),
    )


def _variant(file: _File, path: KeyPath, sizes: Sequence[str]) -> Variant:
    file.known(path, _VARIANT)
    none: str | None = None
    nothing: tuple[str, ...] = ()
    return Variant(
        name=path[-1],
        presets=file.by_size((*path, "preset"), sizes, _text_or_none, none),
        overrides=file.by_size((*path, "set"), sizes, _overrides, nothing),
        published=_published(file, path),
    )


def _like(file: _File, path: KeyPath) -> str:
    """Return the agent as which a policy is evaluated."""
    file.required(path, "like")
    name = file.get((*path, "like"), _text)
    file.one_of((*path, "like"), name, AGENTS, "agent")
    return name


def _published(file: _File, path: KeyPath) -> str | None:
    return file.get((*path, "published"), _text) if file.has(*path, "published") else None


def _env(file: _File, name: str, sizes: Sequence[str]) -> EnvEntry:
    path = ("envs", name)
    file.known(path, _ENV)
    none: str | None = None
    datasets = file.by_size((*path, "dataset"), sizes, _text_or_none, none)
    return EnvEntry(name, datasets, _options(file, path, sizes), _published(file, path))


def _options(file: _File, path: KeyPath, sizes: Sequence[str]) -> dict[str, Options]:
    none: int | None = None
    steps, eval_freq, eval_episodes = (
        file.by_size((*path, key), sizes, _count, none) for key in _PROTOCOL
    )
    nothing: tuple[str, ...] = ()
    overrides = file.by_size((*path, "set"), sizes, _overrides, nothing)
    return {
        size: Options(steps[size], eval_freq[size], eval_episodes[size], overrides[size])
        for size in sizes
    }


def _subset(file: _File, path: KeyPath, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Return a list of names of the suite, in the order of the suite; all if it is absent."""
    if not file.has(*path):
        return tuple(known)
    names = file.get(path, _texts)
    for name in names:
        file.one_of(path, name, known, what)
    return tuple(name for name in known if name in names)


def _check_data(file: _File, suite: Suite) -> None:
    """Refuse an agent that learns from data where an environment has none."""
    for size in suite.sizes.values():
        learners = [suite.agents[name] for name in size.agents if suite.agents[name].needs_data]
        for agent in learners:
            for env in size.envs if agent.envs is None else agent.envs:
                if env in size.envs and suite.envs[env].datasets[size.name] is None:
                    raise RefusedError(
                        f"{file.at(('envs', env))}: {env} has no dataset in size {size.name!r}.",
                        f"{agent.name} learns from data.",
                    )


def _wrong(value: Any, name: str, where: str, allowed: str) -> RefusedError:
    return RefusedError(f"{where}: {name}={value!r} has the wrong type.", f"Allowed: {allowed}.")


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(value, name, where, "text")
    return value


def _text_or_none(value: Any, name: str, where: str) -> str | None:
    return _text(value, name, where)


def _texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Return one text or a list of different ones as a tuple."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise _wrong(value, name, where, "text, or a list of texts")
    found = tuple(_text(entry, name, where) for entry in values)
    return _distinct(found, name, where)


def _overrides(value: Any, name: str, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(value, name, where, "a list of 'key=value'")
    found = tuple(_text(entry, name, where) for entry in value)
    for entry in found:
        if "=" not in entry:
            raise RefusedError(f"{where}: {entry!r} is not of the form key=value.")
    return found


def _truth(value: Any, name: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, name, where, "true or false")
    return value


def _positive(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(value, name, where, f"a number in {POSITIVE}")
    check_range(name, value, POSITIVE, where)
    return float(value)


def _count(value: Any, name: str, where: str) -> int | None:
    return _integer(value, name, where, AT_LEAST_ONE)


def _integer(value: Any, name: str, where: str, range_: Range) -> int:
    # 1e6 is a float in YAML and means a million.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, name, where, f"an integer in {range_}")
    check_range(name, value, range_, where)
    return value


def _seeds(value: Any, name: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise _wrong(value, name, where, "a list of integers")
    found = tuple(_integer(entry, name, where, SEEDS) for entry in value)
    return _distinct(found, name, where)


def _distinct(values: tuple[T, ...], name: str, where: str) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise RefusedError(f"{where}: {name} has an entry twice: {list(values)}.")
    return values
