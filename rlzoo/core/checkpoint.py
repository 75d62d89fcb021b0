"""Checkpoints: a folder that appears complete by one rename, or not at all. No pickle.

``<folder>/ckpt-<step>/`` holds safetensors, JSON and raw files, and ``manifest.json`` with size and
SHA-256 of each. It is built under a temporary name, flushed to the disk and renamed; older ones are
removed only afterwards. A reader accepts nothing whose sums do not match, and :func:`latest` steps
back to the newest that does.

Large files that do not change (see :class:`Link`) are hard links: every folder is complete in
itself, and may be removed without a look at the others, but the contents are on the disk once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import rlzoo
from rlzoo.core import json_tree
from rlzoo.core.checkpoint_files import Content, damaged, put, read_file, verify_file, write_flushed
from rlzoo.core.checkpoint_files import DamagedError as DamagedError
from rlzoo.core.checkpoint_files import FilePart as FilePart
from rlzoo.core.checkpoint_files import Link as Link
from rlzoo.core.finite import check_finite
from rlzoo.core.safe_files import (
    fsync_folder,
    remove_leftovers,
    replace_folder,
    temporary_name,
)
from rlzoo.errors import FailedError, RefusedError

FORMAT, VERSION = "rlzoo-checkpoint", 2  # 2: there are parts of the kind "file"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_FOLDER = re.compile(r"ckpt-(\d+)(\.old-\d+(-\d+)?)?")
_logger = logging.getLogger(__name__)


class NotPublishedError(FailedError):
    """A checkpoint could not be written; earlier ones are untouched, so training may go on."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read and verified.

    Args:
        path: The folder.
        step: Step at which it was written.
        parts: By name, what was given to :func:`publish`, tensors on the CPU.
        meta: What was given to :func:`publish`.
        versions: Versions of the libraries that wrote it.
        files: By name, the file of each part that was given as :class:`FilePart` or :class:`Link`.
    """

    path: Path
    step: int
    parts: dict[str, Any]
    meta: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"rlzoo": rlzoo.__version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def library_versions() -> dict[str, str]:
    """Return the versions of rlzoo, Python and the libraries that training depends on."""
    return dict(_versions())  # looking them up takes 20 ms


def publish(
    folder: str | Path,
    step: int,
    parts: Mapping[str, Any],
    meta: Mapping[str, Any] | None = None,
    *,
    name: str | None = None,
    keep_last: int | None = 3,
    protect: Iterable[str] = (),
    links: Sequence[Link] = (),
) -> Path:
    """Write a checkpoint, and only then remove older ones.

    Args:
        folder: Where checkpoints live; made if missing.
        step: Current step, 0 or more.
        parts: By name: bytes, a dict of tensors, a ``state_dict`` of an optimiser, or any nesting
            of dict, list, tuple, tensors, NumPy arrays and scalars. They come back exactly. Or a
            :class:`FilePart`, which comes back as a path.
        meta: JSON-able facts for the manifest, such as ``{"class": ..., "dataset": ...}``.
        name: Name of the folder; ``ckpt-<step>`` unless given. One that exists is replaced. Other
            names (``"best"``) are never pruned and never returned by :func:`latest`.
        keep_last: How many ``ckpt-`` folders up to this step remain; None keeps all.
        protect: Names of folders that are kept in any case.
        links: Files of earlier checkpoints (see :func:`linkable`). They become hard links, or
            copies where the file system has none.

    Returns:
        The folder of the checkpoint.

    Raises:
        NonFiniteError: If a tensor is not finite; nothing was written (see :func:`save_aside`).
        NotPublishedError: If the disk is full or not writable; earlier checkpoints are intact.
        NotPortableError: If a part would need pickle.
    """
    files, kinds = _serialise(parts)
    check_finite(_all_tensors(parts), step)
    for link in links:
        if link.name in kinds:
            raise ValueError(f"Two parts have the name {link.name!r}.")
        kinds[_checked(link.name)], files[f"{link.name}.safetensors"] = "file", link
    final = Path(folder) / (f"ckpt-{step}" if name is None else _checked(name))
    _write(final, step, files, kinds, meta)
    try:
        _prune(final, step, keep_last, {final.name, *protect})
    except OSError as error:
        _logger.warning("Old checkpoints in %s could not be removed: %s", folder, error)
    return final


def save_aside(
    folder: str | Path, step: int, parts: Mapping[str, Any], meta: Mapping[str, Any] | None = None
) -> Path:
    """Write a bad state to ``nan-<step>`` for inspection; it is never taken for a checkpoint.

    Raises:
        NotPublishedError, NotPortableError: As :func:`publish`.
    """
    final = Path(folder) / f"nan-{step}"
    _write(final, step, *_serialise(parts), meta)
    return final


def load(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint. Runs no code from the file.

    Raises:
        DamagedError: If anything is missing, cut off or altered; the message names the part.
        RefusedError: If there is no such folder, or a newer rlzoo wrote it.
    """
    path = Path(path)
    if not path.is_dir():
        raise RefusedError(f"There is no checkpoint {path}.", todo="Give a folder like ckpt-1000.")
    manifest = _read_manifest(path)
    try:
        paths = _file_parts(path, manifest)
        unread = {file.name for file in paths.values()}
        contents = {
            name: read_file(path / _checked(name), facts["size"], facts["sha256"])
            for name, facts in manifest["files"].items()
            if name not in unread
        }
        for file in paths.values():
            verify_file(file, **manifest["files"][file.name])
        kinds = {name: kind for name, kind in manifest["parts"].items() if name not in paths}
        parts = {name: _parse(name, kind, contents) for name, kind in kinds.items()}
        meta = json_tree.decode(manifest["meta"])
        return Checkpoint(path, manifest["step"], parts, meta, manifest["versions"], paths)
    except (KeyError, TypeError, ValueError, AttributeError, safetensors.SafetensorError) as error:
        if isinstance(error, DamagedError):
            raise
        raise damaged(path, f"not understood ({error})") from error


def linkable(path: str | Path) -> dict[str, Link]:
    """Return by name the parts of a checkpoint that the next one may link to.

    Their contents are not read: who has just written or loaded the checkpoint knows them.

    Raises:
        DamagedError: If the manifest is.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    return {
        name: Link(name, file, **manifest["files"][file.name])
        for name, file in _file_parts(path, manifest).items()
    }


def latest(folder: str | Path) -> tuple[Checkpoint | None, str]:
    """Return the newest checkpoint that is intact.

    Returns:
        The checkpoint, or None where there is none yet; and a line that says which newer ones are
        damaged, empty if none is.

    Raises:
        DamagedError: If there are checkpoints and all are damaged.
        RefusedError: If the newest intact one was written by a newer rlzoo.
    """
    folder, problems = Path(folder), []
    for _, path in reversed(_published(folder)):
        try:
            found = load(path)
        except DamagedError as error:
            problems.append(error.given)
            continue
        return found, " ".join([*problems, f"Continuing from {path.name}."]) if problems else ""
    if problems:
        raise DamagedError(
            f"No usable checkpoint in {folder}: all {len(problems)} are damaged.",
            problems[0],
            "Start again in a new folder.",
        )
    return None, ""


def _published(folder: Path) -> list[tuple[int, Path]]:
    """Return the steps and checkpoints of a folder, oldest first.

    A previous version that was moved aside by a killed process counts, behind its replacement.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1]), match[2] is None, path))
    return [(step, path) for step, _, path in sorted(found)]


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise RefusedError(f"Bad name {name!r}.", "Allowed: letters, digits, '.', '_', '-'.")
    return name


def _all_tensors(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        f"{part}/{name}": tensor
        for part, value in parts.items()
        if not isinstance(value, bytes | FilePart)
        for name, tensor in json_tree.flatten_state(value)[0].items()
    }


def _serialise(parts: Mapping[str, Any]) -> tuple[dict[str, Content], dict[str, str]]:
    """Return file name -> contents, and part -> kind."""
    files: dict[str, Content] = {}
    kinds: dict[str, str] = {}
    for name, value in parts.items():
        _checked(name)
        if isinstance(value, bytes):
            kinds[name], files[f"{name}.bin"] = "bytes", value
            continue
        if isinstance(value, FilePart):
            kinds[name], files[f"{name}.safetensors"] = "file", value
            continue
        tensors, tree = json_tree.flatten_state(value)
        flat = isinstance(value, dict) and bool(tensors) and set(tensors) == set(value)
        kinds[name] = "tensors" if flat else "state" if tensors else "json"
        if tensors:
            # Clones: safetensors takes neither shared memory nor strides, and the state may change.
            copies = {
                k: t.to("cpu", copy=True, memory_format=torch.contiguous_format)
                for k, t in tensors.items()
            }
            files[f"{name}.safetensors"] = safetensors.torch.save(copies)
        if not flat:
            files[f"{name}.json"] = json_tree.dumps(tree).encode()
    return files, kinds


def _write(
    final: Path,
    step: int,
    files: dict[str, Content],
    kinds: dict[str, str],
    meta: Mapping[str, Any] | None,
) -> None:
    manifest = {
        "format": FORMAT,
        "version": 2 if "file" in kinds.values() else 1,
        "step": int(step),
        "parts": kinds,
        "files": {},
        "meta": json_tree.encode(dict(meta or {})),
        "versions": library_versions(),
    }
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(final.parent)
        with temporary_name(final) as temporary:
            temporary.mkdir()
            manifest["files"] = {n: put(temporary / n, what) for n, what in files.items()}
            manifest["sha256"] = _digest(manifest)
            write_flushed(temporary / MANIFEST, json_tree.dumps(manifest).encode())
            fsync_folder(temporary)
            replace_folder(temporary, final)
    except OSError as error:
        raise NotPublishedError(
            f"Checkpoint {final} could not be written: {error.strerror or error}.",
            "Earlier checkpoints are intact.",
            "Free some disk space or choose another folder.",
        ) from error


def _prune(final: Path, step: int, keep_last: int | None, protect: set[str]) -> None:
    if keep_last is None:
        return
    # What lies ahead of this step comes from another continuation; it is not ours to count or
    # to remove, and must not push out the checkpoint that was just written.
    ours = [path for at, path in _published(final.parent) if at <= step]
    for path in ours[: max(len(ours) - max(keep_last, 1), 0)]:
        if path.name not in protect:
            # Renamed first, so that nobody reads a folder that is half removed.
            with temporary_name(path) as doomed:
                os.replace(path, doomed)


def _digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json_tree.dumps(rest).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        text = (path / MANIFEST).read_text()
        manifest = json.loads(text)
    except OSError as error:
        raise damaged(path, f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{MANIFEST} is not JSON") from error
    exact = isinstance(manifest, dict) and json_tree.dumps(manifest) == text
    if not exact or manifest.get("sha256") != _digest(manifest):
        raise damaged(path, f"{MANIFEST} does not match its own sum")
    if manifest.get("format") != FORMAT or manifest["version"] > VERSION:
        raise RefusedError(
            f"Checkpoint {path} has format {manifest.get('format')} {manifest.get('version')}.",
            f"This rlzoo ({rlzoo.__version__}) reads {FORMAT} up to {VERSION}.",
            f"Install rlzoo {manifest.get('versions', {}).get('rlzoo', '')} or newer.",
        )
    return cast(dict[str, Any], manifest)


def _file_parts(path: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    names = [name for name, kind in manifest["parts"].items() if kind == "file"]
    return {name: path / f"{_checked(name)}.safetensors" for name in names}


def _parse(name: str, kind: str, contents: Mapping[str, bytes]) -> Any:
    if kind == "bytes":
        return contents[f"{name}.bin"]
    if kind not in ("tensors", "state", "json"):
        raise ValueError(f"part {name} is of the unknown kind {kind!r}")
    tensors = {}
    if f"{name}.safetensors" in contents:
        tensors = safetensors.torch.load(contents[f"{name}.safetensors"])
    if kind == "tensors":
        return tensors
    return json_tree.unflatten_state(tensors, json.loads(contents[f"{name}.json"]))
