"""``rlzoo inspect``: what a file or folder holds, read without running anything that is in it."""

from __future__ import annotations

import io
import json
import mmap
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors

from rlzoo.core import checkpoint
from rlzoo.core.pickle_imports import imports_of
from rlzoo.core.zip_checks import MAX_MEMBERS
from rlzoo.errors import RefusedError
from rlzoo.runs.model_info import describe_model

_SHOWN = (
    "Allowed: a model.zip, a run folder, a checkpoint folder, .pkl, .npz, .npy, .safetensors, .pth."
)
_KINDS = (  # first bytes of a file, what it is, what to do instead
    (b"\x89HDF", "an HDF5 file", "Look at a data set with: rlzoo dataset check FILE"),
    (b"\x89PNG", "a picture", ""),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"{", "text such as JSON", "Read it with any editor; it is not run."),
    (b"<", "a web page or XML", "The download may have failed."),
)
_PICKLE_NAMES = (".pkl", ".pickle", ".p")
_MAX_PICKLE = 1 << 26  # bytes of an object array that are searched for imports


def describe(spec: str) -> dict[str, Any]:
    """Return what a file or folder holds.

    Args:
        spec: Path of a model (``.zip`` may be left out), run folder, checkpoint folder, pickle,
            ``.npz``, ``.npy``, ``.safetensors`` or torch file. Contents decide, not the suffix.

    Returns:
        JSON-able facts; ``kind`` is ``"model"`` (see :func:`describe_model`), ``"run"``,
        ``"checkpoint"``, ``"pickle"``, ``"arrays"``, ``"safetensors"`` or ``"torch"``, ``path``
        where it is. Names and values come from the file and may be anything.

    Raises:
        RefusedError: If there is no such thing, it is damaged, or of another kind; the message says
            what it is not.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        with_suffix = Path(f"{path}.zip")
        if with_suffix.is_file():
            return describe_model(str(with_suffix))
        raise RefusedError(f"There is no file or folder {spec!r}.", _SHOWN)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise RefusedError(f"{path} cannot be read: {error.strerror}.") from error
    return _file(path, head)


def _file(path: Path, head: bytes) -> dict[str, Any]:
    if head.startswith(b"PK"):
        return _zip(path)
    if head.startswith(b"\x93NUMPY"):
        with open(path, "rb") as file:
            return _facts("arrays", path, {"arrays": {path.stem: _array(file)}})
    if (head[:1] == b"\x80" and head[1:2] <= b"\x0f") or (path.suffix in _PICKLE_NAMES and head):
        return _pickle(path)
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return _safetensors(path)
    if path.suffix == ".zip":
        return describe_model(str(path))  # it says why that is none
    raise _unknown(path, head)


def _unknown(path: Path, head: bytes) -> RefusedError:
    what, todo = f"of an unknown kind (first bytes {head[:8]!r})", ""
    if not head:
        what = "empty"
    elif b"\0" not in head and path.suffix != ".zip":
        what, todo = "text", "Read it with any editor; it is not run."
    for start, kind, instead in _KINDS:
        if head.lstrip().startswith(start):
            what, todo = kind, instead
    return RefusedError(f"{path} is {what}, and nothing that inspect shows.", _SHOWN, todo)


def _facts(kind: str, path: Path, more: dict[str, Any]) -> dict[str, Any]:
    size = path.stat().st_size if path.is_file() else None
    return {
        "kind": kind,
        "path": str(path),
        **({"bytes": size} if size is not None else {}),
        **more,
    }


# --- files ----------------------------------------------------------------------------------------


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:  # the bytes are a stranger's, and every reader has its own errors
        text = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise RefusedError(f"{path} is damaged: {text}") from error


def _zip(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "data" in names or len(names) > MAX_MEMBERS:
                return describe_model(str(path))
            if names and all(name.endswith(".npy") for name in names):
                return _npz(path, archive)
            pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
            if pickles:
                with _damage(path):
                    imports = {name: imports_of(archive.read(name)) for name in pickles}
                members = [[member.filename, member.file_size] for member in archive.infolist()]
                return _facts("torch", path, {"members": members, "pickles": imports})
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        if isinstance(error, RefusedError):
            raise
    return describe_model(str(path))  # it says what is wrong


def _npz(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    arrays = {}
    with _damage(path):
        for name in archive.namelist():
            with archive.open(name) as member:
                arrays[name.removesuffix(".npy")] = _array(member)
    return _facts("arrays", path, {"arrays": arrays})


def _array(file: Any) -> dict[str, Any]:
    """Return dtype and shape of an array in NumPy's format; objects are never unpickled."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, _, dtype = readers[version](file)
    except Exception as error:  # the bytes are a stranger's
        text = (str(error).splitlines() or [""])[0][:80]
        return {"dtype": f"unreadable: {type(error).__name__} {text}", "shape": [], "imports": []}
    facts: dict[str, Any] = {"dtype": str(dtype), "shape": list(shape)}
    if dtype.hasobject:
        facts["imports"] = imports_of(io.BytesIO(file.read(_MAX_PICKLE)))
    return facts


def _safetensors(path: Path) -> dict[str, Any]:
    with _damage(path), safetensors.safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        arrays = {
            name: {"dtype": str(part.get_dtype()), "shape": list(part.get_shape())}
            for name, part in slices.items()
        }
        return _facts("safetensors", path, {"arrays": arrays, "metadata": file.metadata() or {}})


def _pickle(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file, _mapped(file) as data:
        return _facts("pickle", path, {"imports": imports_of(data)})


@contextmanager
def _mapped(file: BinaryIO) -> Iterator[mmap.mmap]:
    # Mapped, so that a forged length reserves no memory.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


# --- folders --------------------------------------------------------------------------------------


def _folder(path: Path) -> dict[str, Any]:
    manifest = read_json(path / "manifest.json")
    if manifest.get("format") == checkpoint.FORMAT or _looks_like_checkpoint(path):
        return _checkpoint(path, manifest)
    if (path / "config.yaml").is_file() or (path / "model.zip").is_file() or "agent" in manifest:
        return _run(path, manifest)
    todo = ""
    if (path / "data" / "metadata.json").is_file() or (path / "metadata.json").is_file():
        todo = f"It looks like a data set: rlzoo dataset check {path}"
    raise RefusedError(
        f"The folder {path} is no run and no checkpoint: it has no manifest.json of rlzoo and no "
        "model.zip.",
        _SHOWN,
        todo,
    )


def _looks_like_checkpoint(path: Path) -> bool:
    return path.name.startswith("ckpt-") or path.parent.name == "checkpoints"


def _checkpoint(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    files = manifest.get("files")
    facts = {
        "step": manifest.get("step"),
        "class": (manifest.get("meta") or {}).get("class")
        if isinstance(manifest.get("meta"), dict)
        else None,
        "versions": manifest.get("versions"),
        "meta": manifest.get("meta"),
        "parts": manifest.get("parts"),
        "files": [
            [name, facts.get("size") if isinstance(facts, dict) else None]
            for name, facts in (files.items() if isinstance(files, dict) else ())
        ],
        "verified": True,
        "problem": "",
    }
    try:
        checkpoint.load(path)
    except RefusedError as error:
        facts["verified"], facts["problem"] = False, error.given
    return _facts("checkpoint", path, facts)


def _run(path: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    result = read_json(path / "result.json")
    known = {**result, **manifest}
    names = ("agent", "env", "preset", "seed", "device", "dataset", "status", "commit", "command")
    facts: dict[str, Any] = {name: known.get(name) for name in names}
    facts["versions"] = known.get("versions")
    for name in ("total_timesteps", "wall_seconds", "final", "best"):
        facts[name] = result.get(name)
    facts["checkpoints"] = [
        [entry.name, read_json(entry / "manifest.json").get("step"), folder_size(entry)]
        for entry in _entries(path / "checkpoints")
        if entry.is_dir()
    ]
    facts["files"] = [[e.name, e.stat().st_size] for e in _entries(path) if e.is_file()]
    facts["model"], facts["problem"] = None, ""
    if (path / "model.zip").is_file():
        try:
            facts["model"] = describe_model(str(path / "model.zip"))
        except RefusedError as error:
            facts["problem"] = error.given
    return _facts("run", path, facts)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder; links count where they are."""
    return sum(entry.lstat().st_size for entry in folder.rglob("*") if entry.is_file())


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is none or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
