"""Reading an SB3 model file without unpickling anything; the base of :mod:`rlzoo.core.safe_zip`."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

import rlzoo
from rlzoo.core import zip_checks
from rlzoo.errors import RefusedError

MEMBER = "rlzoo.json"
FORMAT, VERSION = "rlzoo-model", 1
_FIELDS = {
    "format": str,
    "version": int,
    "class": str,
    "policy_alias": str | None,
    "attributes": dict,
    "not_portable": dict,
    "rebuilt": list,
    "schedules": list,
    "versions": dict,
}
ModelPath = str | Path | io.BufferedIOBase


class MissingModelError(RefusedError, FileNotFoundError):
    """There is no such model file."""


@dataclass
class ModelFile:
    """Contents of a zip, read without unpickling."""

    label: str
    description: dict[str, Any] | None
    serialized: list[str]
    system_info: str
    params: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)


def read_description(path: ModelPath) -> dict[str, Any]:
    """Return ``rlzoo.json`` of a model file: class, versions, attributes. Builds nothing.

    Raises:
        MissingModelError, RefusedError: As :func:`load_model`.
    """
    with open_model(path) as (file, label):
        return description_of(read(file, label, tensors=False))


@contextmanager
def open_model(path: ModelPath) -> Iterator[tuple[BinaryIO, str]]:
    """Open a model file, with or without ``.zip`` in its name; gives the file and its name.

    Raises:
        MissingModelError: If there is no such file.
        RefusedError: If an open file that was given cannot be read.
    """
    if not isinstance(path, str | os.PathLike):
        if not (path.readable() and path.seekable()):
            raise RefusedError("The model file is not readable and seekable.")
        yield cast(BinaryIO, path), str(getattr(path, "name", "The model file"))
        return
    candidates = [Path(path), Path(f"{path}.zip")]
    existing = next((candidate for candidate in candidates if candidate.is_file()), None)
    if existing is None:
        raise MissingModelError(f"There is no model file {path} or {path}.zip.")
    with open(existing, "rb") as file:
        yield file, str(existing)


def read(file: BinaryIO, label: str, tensors: bool) -> ModelFile:
    """Read a model file; nothing is unpickled.

    Args:
        file: Seekable binary file.
        label: Its name, for messages.
        tensors: Read the weights too (only of files that rlzoo wrote).

    Raises:
        RefusedError: If it is damaged or dangerous to unpack.
    """
    with zip_checks.opened(file, label) as archive:
        names = archive.namelist()
        if "data" not in names:
            raise ValueError("it has no member 'data'")
        data = json.loads(archive.read("data"))
        contents = ModelFile(
            label=label,
            description=dict(json.loads(archive.read(MEMBER))) if MEMBER in names else None,
            serialized=[k for k, v in data.items() if isinstance(v, dict) and ":serialized:" in v],
            system_info=archive.read("system_info.txt").decode()
            if "system_info.txt" in names
            else "unknown",
        )
        if tensors and contents.description is not None:
            for name in names:
                if name == "pytorch_variables.pth":
                    contents.variables = _read_tensors(archive, name) or {}
                elif name.endswith(".pth"):
                    contents.params[name.removesuffix(".pth")] = _read_tensors(archive, name)
    return contents


def read_parameters(path: ModelPath) -> dict[str, Any]:
    """Return the state dictionaries of a model file, from SB3 or from rlzoo; nothing is unpickled.

    Raises:
        MissingModelError, RefusedError: As :func:`load_model`.
    """
    with open_model(path) as (file, label), zip_checks.opened(file, label) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        return {
            name.removesuffix(".pth"): _read_tensors(archive, name)
            for name in names
            if name != "pytorch_variables.pth"
        }


def _read_tensors(archive: zipfile.ZipFile, name: str) -> Any:
    inner = io.BytesIO(archive.read(name))
    with zip_checks.opened(inner, name):  # torch's files are archives as well
        inner.seek(0)
        # On the CPU first: Adam's step counters stay there, set_parameters moves the rest.
        return torch.load(inner, map_location="cpu", weights_only=True)


def description_of(contents: ModelFile) -> dict[str, Any]:
    """Return ``rlzoo.json``.

    Raises:
        RefusedError: If the file has none, or one of a newer format.
    """
    found = contents.description
    if found is None:
        raise RefusedError(
            f"{contents.label} was not saved by rlzoo; loading it would run the pickles in it.",
            f"They are: {listed(contents.serialized)}.",
            "If you trust where it comes from: trust_pickle=True, or --trust on the command line.",
        )
    broken = [name for name, kind in _FIELDS.items() if not isinstance(found.get(name), kind)]
    if broken:
        raise RefusedError(f"{contents.label}: {MEMBER} has no proper {', '.join(broken)}.")
    if found["format"] != FORMAT or found["version"] > VERSION:
        raise RefusedError(
            f"{contents.label} has format {found['format']} {found['version']}.",
            f"This rlzoo ({rlzoo.__version__}) reads {FORMAT} up to {VERSION}.",
            f"Install rlzoo {found['versions'].get('rlzoo', '')} or newer.",
        )
    return found


def misfit(label: str, model: Any, error: Exception) -> RefusedError:
    """Return the refusal for states that torch or SB3 could not put into a model."""
    text = " ".join(str(error).split())[:200]
    return RefusedError(f"{label}: the weights do not fit {type(model).__name__}.", text)


def listed(names: list[str]) -> str:
    """Return up to ten names for a message; they come from the file, so they are quoted and cut."""
    shown = ", ".join(repr(str(name))[:60] for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
