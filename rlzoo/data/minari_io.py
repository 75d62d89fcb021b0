"""Minari data sets, loss-free in both directions, in Minari's own store.

The store is ``MINARI_DATASETS_PATH`` or ``~/.minari/datasets``. What rlzoo writes is read by plain
``minari.load_dataset``; beside Minari's fields, ``metadata.json`` has an ``"rlzoo"`` entry with the
whole metadata of the data set and its fingerprint, which is checked on load.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage, is_image_space
from minari.namespace import create_namespace, list_local_namespaces
from minari.serialization import serialize_space
from minari.storage import get_dataset_path

from rlzoo.data import scores
from rlzoo.data.goals import LAYOUT, dict_space, flat_space, goal_layout, layout_of
from rlzoo.data.hdf5 import open_hdf5
from rlzoo.data.minari_layout import MAIN_FILE, EpisodeReader, write_episodes
from rlzoo.data.schema import action_dtype, add_note, build, schema_spaces, to_json
from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import validate
from rlzoo.errors import FailedError, RefusedError, did_you_mean

_FORMAT = 1
_ID = re.compile(r"\w[\w-]*(/\w[\w-]*)*-v\d+")
_TMP = ".rlzoo-tmp-"  # hidden, so Minari's listing passes over it
_STALE_SECONDS = 86_400.0


def check_id(dataset_id: str) -> str:
    """Return the id if it is safe to join to the path of the store.

    Raises:
        RefusedError: If it is not ``name/space/name-v<number>`` in letters, digits, ``-``, ``_``.
    """
    if not is_id(dataset_id):
        raise RefusedError(
            f"{dataset_id!r} is not a data set id.",
            "Allowed: letters, digits, '-' and '_' in parts joined by '/', ending in -v<number>, "
            "such as rlzoo/hopper/medium-v0.",
        )
    return dataset_id


def is_id(text: str) -> bool:
    """Return whether a string has the form of an id that is safe to join to the store's path."""
    try:
        parse_dataset_id(text)
    except (ValueError, TypeError):
        return False
    # Minari takes a folder called "data" for the contents of a data set.
    return bool(_ID.fullmatch(text)) and "data" not in text.split("/")


def exists(dataset_id: str) -> bool:
    """Return whether the store has a published data set of this id."""
    return (_folder(dataset_id) / "data" / "metadata.json").is_file()


def local_ids() -> list[str]:
    """Return the ids of all data sets in the store, sorted; damaged ones are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's line per damaged set
        return sorted(minari.list_local_datasets())


def download(dataset_id: str) -> Transitions:
    """Fetch a data set from the remote Minari server and load it.

    Raises:
        FailedError: If the server cannot be reached or does not have it.
    """
    check_id(dataset_id)
    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # every remote backend raises its own kind
        raise FailedError(
            f"{dataset_id} could not be downloaded: {type(error).__name__}: {str(error)[:200]}",
            "",
            "Look up the id with `minari list remote`, or collect the data set yourself.",
        ) from error
    return load(dataset_id)


# --- writing ------------------------------------------------------------------------------------


def save(t: Transitions, dataset_id: str, overwrite: bool = False) -> Transitions:
    """Write a data set to the store under ``dataset_id``.

    It is built in a hidden folder and published by one rename: a kill leaves either nothing or the
    whole set. (With ``overwrite`` there is an instant between taking the old set away and putting
    the new one in its place; a kill there leaves the old one in the hidden folder.)

    Args:
        t: The data set; it is validated first.
        dataset_id: Such as ``rlzoo/hopper/medium-v0``.
        overwrite: Replace an existing data set.

    Returns:
        What was stored: ``t`` with its new id in the metadata.

    Raises:
        RefusedError: If the id is unsafe or taken, the data set is invalid, or the store cannot
            be written to.
    """
    target = _folder(check_id(dataset_id))
    if target.exists() and not overwrite:
        raise RefusedError(
            f"Data set {dataset_id} exists already.",
            "",
            "Pass --overwrite (overwrite=True) or choose another name or version.",
        )
    t = validate(t.with_metadata(id=dataset_id))
    root = Path(get_dataset_path())
    try:
        _remove_leftovers(root)
        with tempfile.TemporaryDirectory(prefix=_TMP, dir=root, ignore_cleanup_errors=True) as tmp:
            _write_folder(Path(tmp) / "new" / "data", t, dataset_id)
            _make_namespace(dataset_id)
            _publish(Path(tmp), target)
    except OSError as error:
        raise FailedError(
            f"Data set {dataset_id} could not be written to {root}: {error.strerror or error}.",
            "",
            "Make room or set MINARI_DATASETS_PATH to a folder that can be written to.",
        ) from error
    return t


def _folder(dataset_id: str) -> Path:
    return Path(get_dataset_path(check_id(dataset_id)))


def _publish(tmp: Path, target: Path) -> None:
    if target.exists():
        os.rename(target, tmp / "old")
    try:
        os.rename(tmp / "new", target)
    except OSError:
        if (tmp / "old").exists():
            os.rename(tmp / "old", target)
        raise


def _write_folder(data: Path, t: Transitions, dataset_id: str) -> None:
    data.mkdir(parents=True)
    write_episodes(data / MAIN_FILE, t)
    size = (data / MAIN_FILE).stat().st_size
    # Through to_json first, so that odd metadata are refused before anything is published.
    text = to_json(_minari_metadata(t, dataset_id, size))
    with (data / "metadata.json").open("w", encoding="utf-8") as file:
        file.write(text)
    for name in (MAIN_FILE, "metadata.json"):
        with (data / name).open("rb") as file:
            os.fsync(file.fileno())


def _minari_metadata(t: Transitions, dataset_id: str, size: int) -> dict[str, Any]:
    reference = scores.reference(t.env_id)
    values: dict[str, Any] = {
        "dataset_id": dataset_id,
        "minari_version": minari.__version__,
        "total_episodes": t.n_episodes,
        "total_steps": len(t),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(_observation_space(t)),
        "action_space": serialize_space(t.action_space),
        "dataset_size": round(size / 1e6, 1),
        "author": ["rlzoo"],
        "description": f"{len(t)} transitions of {t.env_id or 'an unnamed environment'}",
        "rlzoo": {"format": _FORMAT, "fingerprint": t.fingerprint, "metadata": dict(t.metadata)},
    }
    if reference is not None:
        values["ref_min_score"], values["ref_max_score"] = reference
    with suppress(gym.error.Error, TypeError, ValueError):  # an env that is not registered here
        if t.env_id:
            values["env_spec"] = gym.spec(t.env_id).to_json()
    return values


def _observation_space(t: Transitions) -> gym.Space[Any]:
    layout = layout_of(t)
    if layout is None or not isinstance(t.observation_space, gym.spaces.Box):
        return t.observation_space
    return dict_space(t.observation_space, layout)


def _make_namespace(dataset_id: str) -> None:
    namespace = parse_dataset_id(dataset_id)[0]
    with suppress(ValueError):  # another process made it in between
        if namespace and namespace not in list_local_namespaces():
            create_namespace(namespace)


def _remove_leftovers(root: Path) -> None:
    """Remove hidden folders that killed writers left more than a day ago.

    A folder with an ``old`` set in it is kept: the kill came in the middle of an overwrite.
    """
    for folder in root.glob(f"{_TMP}*"):
        with suppress(OSError):
            if (
                time.time() - folder.stat().st_mtime > _STALE_SECONDS
                and not (folder / "old").exists()
            ):
                shutil.rmtree(folder)


# --- reading ------------------------------------------------------------------------------------


def load(dataset_id: str, check: bool = True) -> Transitions:
    """Load a data set from the store, validated.

    Args:
        dataset_id: Any id in the store, rlzoo's own or not.
        check: Validate it and compare its fingerprint; ``False`` only for repairs and inspection.

    Raises:
        RefusedError: If it is missing, damaged, invalid or of a kind that the schema cannot hold.
    """
    folder = _folder(dataset_id)
    if not folder.exists():
        known = local_ids()
        near = did_you_mean(dataset_id, known)
        raise RefusedError(
            f"There is no data set {dataset_id} in {get_dataset_path()}.", near, todo(dataset_id)
        )
    return load_folder(folder, check=check, dataset_id=dataset_id)


def todo(dataset_id: str) -> str:
    """Return how to get a data set that is missing or damaged."""
    if dataset_id.startswith("rlzoo/"):
        return f"Collect it: rlzoo collect {dataset_id}"
    return f"Download it: minari download {dataset_id} (or collect one with rlzoo collect)."


def load_folder(folder: Path, check: bool = True, dataset_id: str | None = None) -> Transitions:
    """Load a data set from a Minari folder anywhere on disk, see :func:`load`.

    Args:
        folder: Folder that holds ``data/metadata.json``, or the ``data`` folder itself.
        check: See :func:`load`.
        dataset_id: Name for messages; by default the one in the metadata.
    """
    data = folder / "data" if (folder / "data").is_dir() else folder
    raw = _read_metadata(data, todo(dataset_id or "rlzoo/") if dataset_id else _AGAIN)
    source = dataset_id or str(raw.get("dataset_id", folder.name))
    try:
        t = _read_arrays(data, raw, source)
        if check:
            t = _check_fingerprint(t, raw)
    except RefusedError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        # Entries and attributes of a file from elsewhere may be of any type.
        text = (str(error).splitlines() or [""])[0][:120]
        raise RefusedError(
            f"{source} is damaged: {type(error).__name__}: {text}", "", _AGAIN
        ) from error
    return validate(t) if check else t


_AGAIN = "Collect, import or download the data set again."


def _read_metadata(data: Path, advice: str) -> dict[str, Any]:
    path = data / "metadata.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RefusedError(
            f"{data} holds no Minari data set: metadata.json is missing.", "", advice
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        size = path.stat().st_size
        raise RefusedError(f"{path} is damaged ({size:,} bytes): {error}.", "", advice) from error
    missing = {"data_format", "total_episodes", "total_steps"} - set(
        raw if isinstance(raw, dict) else ()
    )
    if missing:
        raise RefusedError(f"{path} is damaged: no {', '.join(sorted(missing))}.", "", advice)
    return dict(raw)


def _read_arrays(data: Path, raw: dict[str, Any], source: str) -> Transitions:
    advice = todo(source) if _ID.fullmatch(source) else _AGAIN
    if raw["data_format"] == "hdf5":
        with open_hdf5(data / MAIN_FILE, advice):
            pass  # say what is wrong with the file before Minari trips over it
    try:
        storage = MinariStorage.read(data)
    except Exception as error:  # spaces, environment or format that this Minari cannot make
        raise RefusedError(
            f"{source}: Minari cannot open it: {type(error).__name__}: {str(error)[:160]}",
            "",
            advice,
        ) from error
    layout = goal_layout(storage.observation_space)
    observed = flat_space(storage.observation_space) if layout else storage.observation_space
    observation_space, action_space = schema_spaces(observed, storage.action_space, source)
    jpeg = storage.jpeg_encoding and (
        is_image_space(storage.observation_space) or is_image_space(storage.action_space)
    )
    own_reader = raw["data_format"] == "hdf5" and not jpeg
    lengths, seeds = _episode_facts(data, storage, raw, source, advice)
    reader = EpisodeReader(
        source, lengths, observation_space, action_space, action_dtype(action_space), layout
    )
    if own_reader:
        with open_hdf5(data / MAIN_FILE, advice) as file:
            reader.read_file(file)
    else:
        reader.read_episodes(storage.get_episodes(range(len(lengths))))
    metadata = _schema_metadata(raw, source, seeds)
    if layout is not None:
        metadata[LAYOUT] = layout
    t = build(reader.arrays, reader.episode_starts, observation_space, action_space, metadata)
    return add_note(t, "pixels were stored as JPEG (not loss-free)") if jpeg else t


def _episode_facts(
    data: Path, storage: MinariStorage, raw: dict[str, Any], source: str, advice: str
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[int | None]]:
    """Return the lengths of the episodes and their seeds."""
    total = int(raw["total_episodes"])
    if raw["data_format"] == "hdf5":
        with open_hdf5(data / MAIN_FILE, advice) as file:
            found = [_attributes(file, i, source, advice) for i in range(total)]
    else:
        found = list(storage.get_episode_metadata(range(total)))
    lengths = np.asarray([int(facts["total_steps"]) for facts in found], dtype=np.int64)
    if int(lengths.sum()) != int(raw["total_steps"]):
        raise RefusedError(
            f"{source}: lengths differ: metadata.json says {raw['total_steps']} steps, the "
            f"episodes hold {int(lengths.sum())}.",
            "",
            advice,
        )
    return lengths, [None if f.get("seed") is None else int(f["seed"]) for f in found]


def _attributes(file: h5py.File, i: int, source: str, advice: str) -> dict[str, Any]:
    name = f"episode_{i}"
    if name not in file:
        raise RefusedError(f"{source}: episode {i} is missing.", "", advice)
    group = file[name]
    steps = group.attrs.get("total_steps")
    if steps is None and "rewards" in group:
        steps = len(group["rewards"])
    return {"total_steps": steps or 0, "seed": group.attrs.get("seed")}


def _schema_metadata(raw: dict[str, Any], source: str, seeds: list[int | None]) -> dict[str, Any]:
    ours = raw.get("rlzoo")
    if isinstance(ours, dict) and isinstance(ours.get("metadata"), dict):
        return dict(ours["metadata"])
    metadata: dict[str, Any] = {"id": source, "source": "minari"}
    with suppress(KeyError, ValueError, TypeError):
        metadata["env_id"] = json.loads(raw["env_spec"])["id"]
    for key in ("minari_version", "algorithm_name", "author", "code_permalink", "description"):
        if key in raw:
            metadata[key] = raw[key]
    if any(seed is not None for seed in seeds):
        metadata["episode_seeds"] = seeds
    return metadata


def _check_fingerprint(t: Transitions, raw: dict[str, Any]) -> Transitions:
    wanted = (raw.get("rlzoo") or {}).get("fingerprint")
    if wanted is None or wanted == t.fingerprint:
        return t
    t = validate(t)  # a nameable fault is said instead
    raise RefusedError(
        f"Data set {t.dataset_id} was changed after it was written: fingerprint "
        f"{t.fingerprint[:12]}…, written with {wanted[:12]}….",
        "",
        todo(t.dataset_id),
    )
