"""A YAML loader that never runs anything and knows the line of every value.

It follows the YAML 1.2 core schema where PyYAML follows 1.1: ``1e6`` is a number, ``no`` and
``on`` are text, ``1:30`` is not ninety. Only mappings, lists, numbers, text, booleans and null are
accepted; nothing is constructed from tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from rlzoo.errors import RefusedError

KeyPath = tuple[str, ...]

_NULL, _BOOL, _INT, _FLOAT, _STR = (
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str")
)
_SCALARS: tuple[tuple[str, str], ...] = (
    (_NULL, r"~|null|Null|NULL|"),
    (_BOOL, r"true|True|TRUE|false|False|FALSE"),
    (_INT, r"[-+]?[0-9][0-9_]*"),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.nan",
    ),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader up to the node tree; its constructors are never called."""

    # An own table, so that PyYAML's YAML 1.1 rules are not inherited.
    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node as PyYAML does, but refuse aliases."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not allowed, write the value out", mark
            )
        return super().compose_node(parent, index)


for _tag, _pattern in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)


def load_yaml(
    path: Path | Traversable, name: str | None = None
) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a configuration file.

    Args:
        path: The file.
        name: How messages call it; by default its path.

    Returns:
        The values as nested dictionaries, and the line (from 1) of every key by its path, as in
        ``lines["presets", "cpu", "agent", "gamma"]``.

    Raises:
        RefusedError: With ``file:line``, if the file cannot be read, is not one YAML mapping, or
            has tabs as indentation, a duplicate key, a key that is not text, a tag or an alias.
    """
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RefusedError(f"{name}: cannot be read ({error}).") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if "\t" in line[: len(line) - len(line.lstrip())]:
            raise RefusedError(
                f"{name}:{number}: a tab is used as indentation.", "YAML allows spaces only."
            )
    node = _compose(text, name)
    if not isinstance(node, yaml.MappingNode):
        what = "is empty" if node is None else "is not a mapping"
        raise RefusedError(
            f"{name}:1: the document {what}.", "Allowed: 'key: value' lines, as in configs/."
        )
    lines: dict[KeyPath, int] = {}
    return _build(node, name, (), lines), lines


def parse_value(text: str, name: str) -> Any:
    """Parse the value of ``key=value`` like a YAML value: ``1e6``, ``[128, 128]``, ``auto``.

    Args:
        text: The text right of the equals sign.
        name: How messages call the place, as in ``"--set gamma"``.

    Raises:
        RefusedError: If it is empty or not one YAML value.
    """
    if not text.strip():
        raise RefusedError(f"{name}: no value is given.", "Write null for none and '' for no text.")
    return _build(_compose(text, name, numbered=False), name, (), {}, numbered=False)


def _compose(text: str, name: str, numbered: bool = True) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        try:
            node: yaml.Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark and numbered else name
        raise RefusedError(f"{where}: not valid YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        raise RefusedError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from error
    return node


def _build(
    node: Any, name: str, path: KeyPath, lines: dict[KeyPath, int], numbered: bool = True
) -> Any:
    """Turn a node into plain values, noting the line of every key."""
    where = f"{name}:{node.start_mark.line + 1}" if numbered else name
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return {
            key: _build(value, name, (*path, key), lines, numbered)
            for key, value in _items(node, name, path, lines, numbered)
        }
    if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
        return [_build(item, name, path, lines, numbered) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag in (_NULL, _BOOL, _INT, _FLOAT, _STR):
        return _scalar(node, where)
    raise RefusedError(
        f"{where}: the tag {node.tag!r} is not allowed.",
        "Allowed: mappings, lists, numbers, text, true, false, null.",
    )


def _items(
    node: yaml.MappingNode, name: str, path: KeyPath, lines: dict[KeyPath, int], numbered: bool
) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        where = f"{name}:{line}" if numbered else name
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _STR:
            raise RefusedError(f"{where}: a key is not text.", "Put it into quotes.")
        key = key_node.value
        if key in seen:
            raise RefusedError(
                f"{where}: the key {key!r} occurs twice; first in line {seen[key]}.",
                todo="Remove one of them.",
            )
        seen[key] = lines[(*path, key)] = line
        yield key, value_node


def _scalar(node: yaml.ScalarNode, where: str) -> Any:
    text: str = node.value
    try:
        if node.tag == _NULL:
            return None
        if node.tag == _BOOL:
            return {"true": True, "false": False}[text.lower()]
        if node.tag == _INT:
            return int(text)
        if node.tag == _FLOAT:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except (ValueError, KeyError) as error:
        raise RefusedError(f"{where}: {text!r} does not fit its tag {node.tag!r}.") from error
    return text
