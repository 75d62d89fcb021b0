"""From layers of settings to one checked set, each value with its source.

Layers, the later one wins: constructor, ``PRESETS[preset]`` of the class,
``configs/<agent>/default.yaml``, ``configs/<agent>/<family>.yaml`` (``atari.yaml``),
``configs/<agent>/<env-id>.yaml``, ``--config FILE``, ``--set``.
In a file the section ``all`` comes before ``presets.<preset>``; there ``like: NAME`` stands for the
values of ``PRESETS[NAME]`` of the class, before what else the section has. Mappings called
``...kwargs`` are merged key by key, all else is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rlzoo.config.build import build_argument
from rlzoo.config.load import KeyPath, load_yaml, parse_value
from rlzoo.config.locate import config_files
from rlzoo.config.schema import (
    Argument,
    RunSettings,
    arguments_of,
    check_value,
    find,
    policy_arguments,
    run_arguments,
)
from rlzoo.errors import RefusedError, did_you_mean

CONSTRUCTOR = "constructor"
_TOP_KEYS = ("agent", "env", "preset", "default_preset", "all", "presets")
_DEVICE_TYPES = ("cpu", "cuda", "mps")


class AgentLike(Protocol):
    """What of :class:`rlzoo.agents.registry.AgentSpec` is needed here."""

    @property
    def name(self) -> str:
        """Name on the command line."""

    @property
    def default_env(self) -> str:
        """Environment taken when none is given."""

    def load_class(self) -> type[Any]:
        """Import and return the class of the agent."""


@dataclass(frozen=True)
class Value:
    """A value and where it comes from.

    Args:
        value: The plain value: number, text, boolean, None, list, tuple or dictionary.
        source: ``"constructor"``, ``"preset neurips2019 (BEAR.PRESETS)"``,
            ``"configs/bear/default.yaml:12"`` or ``"--set"``.
    """

    value: Any
    source: str


@dataclass(frozen=True)
class ResolvedConfig:
    """The settings of one run.

    Args:
        agent_name: Name of the agent in the registry.
        env_id: Environment id.
        preset: Name of the preset that was taken.
        preset_source: Who chose it.
        agent: Constructor arguments by name.
        run: Settings of the run by name, see :class:`rlzoo.config.schema.RunSettings`.
    """

    agent_name: str
    env_id: str
    preset: str
    preset_source: str
    agent: dict[str, Value]
    run: dict[str, Value]

    def agent_values(self) -> dict[str, Any]:
        """Return the plain constructor arguments by name, defaults included."""
        return {name: entry.value for name, entry in self.agent.items()}

    def run_settings(self) -> RunSettings:
        """Return the settings of the run as one object."""
        return RunSettings(**{name: entry.value for name, entry in self.run.items()})

    def build(self, action_size: int | None = None) -> dict[str, Any]:
        """Return the keyword arguments for the constructor, without those left at its defaults.

        Args:
            action_size: Number of action dimensions (``prod(action_space.shape)``), needed when
                there is action noise; None for action spaces that are not continuous.

        Raises:
            RefusedError: If there is action noise and no ``action_size``.
        """
        return {
            name: build_argument(name, entry.value, action_size)
            for name, entry in self.agent.items()
            if entry.source != CONSTRUCTOR
        }


@dataclass
class _File:
    """A loaded configuration file."""

    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def at(self, *path: str) -> str:
        """Return ``file:line`` of a key."""
        return f"{self.name}:{self.lines.get(path, 1)}"

    def mapping(self, *path: str) -> dict[str, Any]:
        """Return the mapping at a path, empty if the file does not have it or leaves it empty."""
        node: Any = self.values
        for depth, key in enumerate(path, start=1):
            node = node.get(key)
            if node is None:
                return {}
            if not isinstance(node, dict):
                raise RefusedError(f"{self.at(*path[:depth])}: {key!r} must be a mapping.")
        return dict(node)


def resolve(
    agent_spec: AgentLike,
    env_id: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
    device_type: str = "cpu",
    config_file: str | Path | None = None,
) -> ResolvedConfig:
    """Merge all layers and check every value against the constructor.

    Args:
        agent_spec: Entry of the registry.
        env_id: Environment id; None takes ``env`` of ``default.yaml`` or the agent's default.
        preset: Name of the preset; None takes ``default_preset`` for the type of the device.
        overrides: ``"key=value"`` of ``--set``; a key is a constructor argument, a setting of the
            run, or a path such as ``policy_kwargs.net_arch`` or ``run.steps``.
        device_type: ``"cpu"`` or ``"cuda"``.
        config_file: A file of the same shape as those in ``configs/``, or ``config.yaml`` of a run.

    Raises:
        RefusedError: For an unknown key or preset, a wrong type, a value out of range, or a file
            that cannot be read; with ``file:line`` or the ``--set`` in the message.
    """
    agent_class = agent_spec.load_class()
    if env_id is None:
        named = [f.values.get("env") for f in _load_files(agent_spec, None, config_file)]
        env_id = str([agent_spec.default_env, *filter(None, named)][-1])
    files = _load_files(agent_spec, env_id, config_file)
    chosen, chosen_by = _choose_preset(agent_class, files, preset, device_type)
    merger = _Merger(agent_class)
    merger.put_preset(chosen)
    for file in files:
        for path in (("all",), ("presets", chosen)):
            merger.put_section(file, path)
    for override in overrides:
        merger.put_override(override)
    return ResolvedConfig(
        agent_spec.name, env_id, chosen, chosen_by, merger.values["agent"], merger.values["run"]
    )


def known_presets(agent_spec: AgentLike, env_id: str | None = None) -> list[str]:
    """Return the names of the presets of an agent, for one environment."""
    files = _load_files(agent_spec, env_id, None)
    return _presets(agent_spec.load_class(), files)


def dump(config: ResolvedConfig) -> str:
    """Return a resolved configuration as YAML, with the source of each value as a comment.

    The text is itself a configuration file: ``resolve(..., config_file=…)`` gives the same values.
    """
    lines = [f"agent: {config.agent_name}", f"env: {json.dumps(config.env_id)}"]
    lines += [f"preset: {json.dumps(config.preset)}  # {config.preset_source}", "all:"]
    for section, values in (("run", config.run), ("agent", config.agent)):
        lines.append(f"  {section}:")
        for name, entry in values.items():
            try:
                # JSON is YAML, on one line and without surprises.
                text = json.dumps(entry.value, ensure_ascii=False, allow_nan=False)
                lines.append(f"    {name}: {text}  # {entry.source}")
            except (TypeError, ValueError):  # A default that only Python can write down.
                lines.append(f"    # {name}: {entry.value!r}  # {entry.source}")
    return "\n".join(lines) + "\n"


class _Merger:
    """Collects checked values, section by section."""

    def __init__(self, agent_class: type[Any]) -> None:
        self.owner = agent_class.__name__
        self.presets: dict[str, dict[str, Any]] = getattr(agent_class, "PRESETS", {})
        self.policy = policy_arguments(agent_class)
        self.arguments: dict[str, dict[str, Argument]] = {
            "agent": arguments_of(agent_class),
            "run": run_arguments(),
        }
        self.values: dict[str, dict[str, Value]] = {
            section: {name: Value(a.default, CONSTRUCTOR) for name, a in known.items()}
            for section, known in self.arguments.items()
        }
        for name, entry in self.values["run"].items():
            self.values["run"][name] = Value(entry.value, "default")

    def put(self, section: str, name: str, value: Any, source: str, where: str = "") -> None:
        """Check one value and let it replace, or merge into, the one of the layers below."""
        where = where or source
        known = self.arguments[section]
        argument = find(known, name, where, self.owner if section == "agent" else section)
        checked = check_value(argument, value, where, self.policy)
        before = self.values[section][name]
        if name.endswith("kwargs") and isinstance(checked, dict) and before.value:
            checked = {**before.value, **checked}
            source = f"{before.source}, {source}"
        self.values[section][name] = Value(checked, source)

    def put_preset(self, name: str, where: str = "") -> None:
        """Take the values that the class has for a preset, if it has any."""
        for argument, value in self.presets.get(name, {}).items():
            source = f"preset {name} ({self.owner}.PRESETS)"
            self.put("agent", argument, value, f"{source}, {where}" if where else source)

    def put_section(self, file: _File, path: tuple[str, ...]) -> None:
        """Take ``like`` and the sections ``agent`` and ``run`` below a path of a file."""
        sections = file.mapping(*path)
        if path[0] == "presets" and (like := sections.pop("like", None)) is not None:
            where = file.at(*path, "like")
            if like not in self.presets:
                raise RefusedError(
                    f"{where}: {self.owner} has no preset {like!r}. "
                    f"{did_you_mean(str(like), self.presets)}".rstrip(),
                    f"Presets of the class: {', '.join(self.presets)}.",
                )
            self.put_preset(like, where)
        for section in sections:
            _known_key(section, self.arguments, file.at(*path, section))
            for name, value in file.mapping(*path, section).items():
                self.put(section, name, value, file.at(*path, section, name))

    def put_override(self, text: str) -> None:
        """Take one ``key=value`` of ``--set``."""
        key, equals, raw = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        where = f"--set {text}"
        if not equals or not all(parts):
            raise RefusedError(f"{where}: not of the form key=value.", todo="Try --set gamma=0.98")
        value = parse_value(raw, where)
        section = parts.pop(0) if parts[0] in self.arguments and len(parts) > 1 else ""
        name, *inner = parts
        if not section:
            every = {**self.arguments["agent"], **self.arguments["run"]}
            find(every, name, where, self.owner)
            section = "agent" if name in self.arguments["agent"] else "run"
        for part in reversed(inner):
            value = {part: value}
        self.put(section, name, value, "--set", where)


def _load_files(
    agent_spec: AgentLike, env_id: str | None, config_file: str | Path | None
) -> list[_File]:
    files = [
        _File(f.name, *load_yaml(f.path, f.name)) for f in config_files(agent_spec.name, env_id)
    ]
    if config_file is not None:
        files.append(_File(str(config_file), *load_yaml(Path(config_file), str(config_file))))
    for file in files:
        for key in file.values:
            _known_key(key, _TOP_KEYS, file.at(key))
        written_for = file.values.get("agent", agent_spec.name)
        if written_for != agent_spec.name:
            raise RefusedError(
                f"{file.at('agent')}: written for the agent {written_for!r}, "
                f"asked for {agent_spec.name!r}."
            )
    return files


def _known_key(key: str, known: Any, where: str) -> None:
    if key not in known:
        raise RefusedError(
            f"{where}: unknown key {key!r}. {did_you_mean(key, known)}".strip(),
            f"Known: {', '.join(known)}.",
        )


def _presets(agent_class: type[Any], files: Sequence[_File]) -> list[str]:
    names = list(getattr(agent_class, "PRESETS", {}))
    for file in files:
        names += file.mapping("presets")
    return list(dict.fromkeys(names)) or ["default"]


def _choose_preset(
    agent_class: type[Any], files: Sequence[_File], preset: str | None, device_type: str
) -> tuple[str, str]:
    """Return the preset and who chose it; an explicit one first, then the most special file."""
    known = _presets(agent_class, files)
    wishes = [(preset, "--preset")] if preset else _wishes(files, device_type)
    for name, source in wishes:
        if name not in known:
            raise RefusedError(
                f"{source}: unknown preset {name!r}. {did_you_mean(str(name), known)}".strip(),
                f"Presets: {', '.join(known)}.",
            )
        return str(name), source
    return known[0], "the only preset" if len(known) == 1 else "the first preset"


def _wishes(files: Sequence[_File], device_type: str) -> Iterator[tuple[Any, str]]:
    for file in reversed(files):
        if file.values.get("preset"):  # The config.yaml of a run.
            yield file.values["preset"], file.at("preset")
        wish = file.values.get("default_preset")
        if not isinstance(wish, dict):
            wish = {} if wish is None else dict.fromkeys(_DEVICE_TYPES, wish)
        for key in wish:
            _known_key(key, _DEVICE_TYPES, file.at("default_preset", key))
        if device_type in wish:
            line = file.lines.get(("default_preset", device_type), file.lines[("default_preset",)])
            yield wish[device_type], f"{file.name}:{line} for {device_type}"
