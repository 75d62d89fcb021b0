"""What a model file holds, read without running anything that is in it."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from rlzoo.core import model_file, portable, zip_checks
from rlzoo.core.pickle_imports import imports_of
from rlzoo.core.spaces_json import short
from rlzoo.runs.policies import locate

_LOST = ("not_portable", "schedules")
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "seed")


def describe_model(spec: str) -> dict[str, Any]:
    """Return what a model file or the model of a run folder holds.

    Returns:
        ``kind`` (``"model"``); ``path``; ``class``, ``policy``, ``observation_space``,
        ``action_space`` (None in a file that rlzoo did not write); ``versions``; ``counters``;
        ``settings`` (plain values); ``left_out``: attributes that are not restored; ``members``:
        name and size in bytes; ``pickles``: name -> what unpickling it would import (SB3 keeps
        these; rlzoo's loader does not touch them); ``weights``: the same for the files of torch,
        which are read in its safe mode.

    Raises:
        RefusedError: If there is no such file, or it is damaged or dangerous.
    """
    path = locate(spec).path or Path(spec)
    with model_file.open_model(path) as (file, label):
        contents = model_file.read(file, label, tensors=False)
        file.seek(0)
        with zip_checks.opened(file, label) as archive:
            members = [(member.filename, member.file_size) for member in archive.infolist()]
            data = json.loads(archive.read("data"))
            weights = _weight_imports(archive)
    description = contents.description or {}
    attributes = description.get("attributes", {})
    return {
        "kind": "model",
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
        "weights": weights,
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
    """Return what an entry of SB3's ``data`` would import."""
    try:
        content = base64.b64decode(entry[":serialized:"])
    except (ValueError, TypeError):
        return ["(unreadable: not base64)"]
    return imports_of(content)


def _weight_imports(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    """Return what the pickles in the files of torch would import; its safe mode refuses most."""
    found = {}
    for name in archive.namelist():
        if not name.endswith(".pth"):
            continue
        content = archive.read(name)
        if not zipfile.is_zipfile(io.BytesIO(content)):
            found[name] = imports_of(content)  # torch's format before 1.6
            continue
        with zip_checks.opened(io.BytesIO(content), name) as inner:
            pickles = [member for member in inner.namelist() if member.endswith(".pkl")]
            names = {entry for member in pickles for entry in imports_of(inner.read(member))}
            found[name] = sorted(names)
    return found
