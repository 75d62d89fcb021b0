"""``rlzoo inspect``: what a model file holds, without running anything that is in it."""

from __future__ import annotations

import base64
import json
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from rlzoo.core import model_file, portable
from rlzoo.core.spaces_json import short
from rlzoo.runs.policies import locate

_LOST = ("not_portable", "schedules")
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "seed")


def describe_model(spec: str) -> dict[str, Any]:
    """Return what a model file or the model of a run folder holds.

    Returns:
        ``path``; ``class``, ``policy``, ``observation_space``, ``action_space`` (None in a file
        that rlzoo did not write); ``versions``; ``counters``; ``settings`` (plain values);
        ``left_out``: attributes that are not restored; ``members``: name and size in bytes;
        ``pickles``: name -> what unpickling it would import (SB3 keeps these; rlzoo's loader does
        not touch them).

    Raises:
        RefusedError: If there is no such file, or it is damaged or dangerous.
    """
    path = locate(spec).path or Path(spec)
    with model_file.open_model(path) as (file, label):
        contents = model_file.read(file, label, tensors=False)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            members = [(member.filename, member.file_size) for member in archive.infolist()]
            data = json.loads(archive.read("data"))
    description = contents.description or {}
    attributes = description.get("attributes", {})
    return {
        "path": str(path),
        "class": description.get("class"),
        "policy": description.get("policy_alias"),
        "observation_space": _space(attributes, "observation_space"),
        "action_space": _space(attributes, "action_space"),
        "versions": description.get("versions", {}),
        "counters": {n: attributes[n] for n in _COUNTERS if n in attributes},
        "settings": {n: v for n, v in sorted(attributes.items()) if _is_setting(n, v)},
        "left_out": sorted(n for key in _LOST for n in description.get(key, ())),
        "members": members,
        "pickles": {name: _imports(data[name]) for name in sorted(contents.serialized)},
    }  # fmt: skip


def _space(attributes: dict[str, Any], name: str) -> str | None:
    try:
        return short(portable.decode(attributes[name]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _is_setting(name: str, value: Any) -> bool:
    plain = isinstance(value, bool | int | float | str) or value is None
    return plain and not name.startswith("_") and name not in _COUNTERS


def _imports(entry: dict[str, Any]) -> list[str]:
    """Return the names that a pickle would import, read from its opcodes."""
    found: set[str] = set()
    memo: dict[int, str | None] = {}
    last: str | None = None  # the text that the opcode before this one pushed
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(base64.b64decode(entry[":serialized:"])):
            if opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
                memo[len(memo) if argument is None else int(argument)] = last
                continue
            last = argument if isinstance(argument, str) else None
            if opcode.name == "GLOBAL":
                found.add(str(last).replace(" ", "."))
                last = None
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(texts[-2:]))
            elif opcode.name.endswith("GET"):
                last = memo.get(int(argument or 0))
            if last is not None:
                texts.append(last)
    except Exception as error:  # the bytes are a stranger's
        return [*sorted(found), f"(unreadable: {type(error).__name__})"]
    return sorted(found)
