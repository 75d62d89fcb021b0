"""Plain D4RL HDF5 files, read and written without the d4rl package.

A file is one long recording: ``observations``, ``actions``, ``rewards``, ``terminals`` and, from
the v2 sets on, ``timeouts`` and ``next_observations``. What is missing is reconstructed:

* No usable ``timeouts``: steps are counted, an episode ends after ``time_limit`` of them.
* No ``next_observations``: the next row's observation, inside an episode. The true observation at a
  time limit is then lost, so that row is dropped (as D4RL's own loader does, which however lets the
  count of an episode after a termination start at 1). The one after a termination is lost too, but
  never used, since there is no bootstrapping: the row keeps its own observation in its place.
* ``terminals`` and ``timeouts`` both set: the termination wins.

Every reconstruction is recorded in ``metadata["notes"]``.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from gymnasium import spaces
from minari.serialization import deserialize_space, serialize_space
from numpy.typing import NDArray

from rlzoo.data.hdf5 import open_hdf5
from rlzoo.data.schema import add_note, build, schema_spaces, to_json
from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import DatasetWarning, validate
from rlzoo.errors import FailedError, RefusedError

Ends = Literal["auto", "drop", "keep"]

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_NAMES = {"hopper": "Hopper", "halfcheetah": "HalfCheetah", "walker2d": "Walker2d", "ant": "Ant"}
_ADVICE = "Download the file again, or collect a data set with rlzoo collect."
_OURS = "metadata/rlzoo"
_BROKEN_HOPPER_ROWS = 1_200_919


def load(
    path: str | Path,
    time_limit: int = 1000,
    ends: Ends = "auto",
    env_id: str | None = None,
    action_limit: float = 1.0,
    check: bool = True,
) -> Transitions:
    """Load a D4RL file.

    Args:
        path: The ``.hdf5`` file.
        time_limit: Steps after which the environment cuts an episode; used where the file does not
            say it.
        ends: What to do with the row at a time limit: ``"drop"`` it, ``"keep"`` it with its true
            next observation, or ``"auto"``: keep where the file has true next observations.
        env_id: Environment of the data; by default read from the file name
            (``hopper_medium-v2.hdf5`` gives ``Hopper-v2``).
        action_limit: Actions lie in ``[-action_limit, action_limit]`` (a D4RL file does not say).
        check: Validate; ``False`` only for repairs and inspection.

    Raises:
        RefusedError: If the file is missing, damaged or incomplete, ``"keep"`` is asked of a file
            without true next observations, or the data are invalid.
    """
    path = Path(path)
    if ends not in ("auto", "drop", "keep"):
        raise RefusedError(f"ends={ends!r} is unknown.", "Allowed: 'auto', 'drop', 'keep'.")
    if time_limit < 1:
        raise RefusedError(f"time_limit={time_limit} is out of range.", "Allowed: 1 or more.")
    arrays, ours = _read(path)
    _check_columns(path, arrays)
    if "next_observations" not in arrays and ends == "keep":
        raise RefusedError(
            f"{path.name} has no next_observations, so ends='keep' is not possible.",
            "Allowed for this file: ends='drop'.",
        )
    t, notes = _assemble(path, arrays, ours, time_limit, ends == "drop", env_id, action_limit)
    if check and ours and len(t) == len(arrays["rewards"]) and t.fingerprint != ours["fingerprint"]:
        validate(t)  # a nameable fault is said instead
        raise RefusedError(f"{path} was changed after it was written.", "", _ADVICE)
    if not check:
        return t
    for note in notes:
        warnings.warn(f"{path.name}: {note}", DatasetWarning, stacklevel=2)
    return validate(t)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and what rlzoo wrote beside them (empty for files of others)."""
    with open_hdf5(path, _ADVICE) as file:
        missing = [key for key in _REQUIRED if key not in file]
        if missing:
            raise RefusedError(
                f"{path.name} is no D4RL file: {', '.join(missing)} missing; it has "
                f"{', '.join(sorted(file)) or 'nothing'}.",
                f"Needed: {', '.join(_REQUIRED)}; better also timeouts, next_observations.",
                _ADVICE,
            )
        rows, width = file["rewards"].shape[:1], file["observations"].shape[1:]
        if rows == (_BROKEN_HOPPER_ROWS,) and width == (11,):
            raise RefusedError(
                f"{path.name} ({_BROKEN_HOPPER_ROWS:,} rows) is hopper-medium-expert-v0, broken: "
                "expert and mixed data, not medium and expert (D4RL issue 19).",
                "",
                "Use hopper_medium_expert-v2.hdf5 or collect rlzoo/hopper/medium-expert-v0.",
            )
        keys = (*_REQUIRED, "timeouts", "next_observations")
        arrays = {key: file[key][()] for key in keys if key in file}
        ours = _own_facts(path, file[_OURS][()]) if _OURS in file else {}
    return arrays, ours


def _own_facts(path: Path, stored: Any) -> dict[str, Any]:
    """Return what rlzoo wrote into the file, with the spaces made."""
    try:
        facts = json.loads(stored.decode())
        return {
            "metadata": {**facts["metadata"]},
            "fingerprint": str(facts["fingerprint"]),
            "observation_space": deserialize_space(facts["observation_space"]),
            "action_space": deserialize_space(facts["action_space"]),
        }
    except Exception as error:  # anything may stand there
        text = (str(error).splitlines() or [""])[0][:120]
        raise RefusedError(
            f"{path.name} is damaged: {_OURS} is not what rlzoo writes: "
            f"{type(error).__name__}: {text}",
            "",
            _ADVICE,
        ) from error


def _check_columns(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    lengths = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} {n}" for key, n in lengths.items())
        raise RefusedError(f"{path.name}: lengths differ ({shown}).", "", _ADVICE)
    if not lengths["rewards"]:
        raise RefusedError(f"{path.name} is empty: it holds no transitions.", "", _ADVICE)
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim != 1:
            arrays[key] = arrays[key].reshape(lengths[key], -1)
            if arrays[key].shape[1] != 1:
                raise RefusedError(f"{path.name}: {key} have the wrong shape.", "Allowed: [n].")
            arrays[key] = arrays[key][:, 0]
    wanted = arrays["observations"].shape
    if arrays.get("next_observations", arrays["observations"]).shape != wanted:
        raise RefusedError(
            f"{path.name}: next_observations have the wrong shape: "
            f"{arrays['next_observations'].shape}, observations {wanted}.",
            "",
            _ADVICE,
        )
    if len(wanted) < 2 or arrays["actions"].ndim > 2:
        raise RefusedError(
            f"{path.name}: observations or actions have the wrong shape.", "", _ADVICE
        )


def _assemble(
    path: Path,
    arrays: dict[str, NDArray[Any]],
    ours: dict[str, Any],
    time_limit: int,
    drop: bool,
    env_id: str | None,
    action_limit: float,
) -> tuple[Transitions, list[str]]:
    n = len(arrays["rewards"])
    for key in ("terminals", "timeouts"):
        if key in arrays:
            arrays[key] = _flags(path, key, arrays[key])
    terminal = arrays["terminals"]
    timeout, notes = _timeouts(arrays, time_limit)
    chosen: list[str] = []
    true_next = "next_observations" in arrays
    ended = terminal | timeout
    ended[-1] = True  # the recording stops here
    following = arrays["next_observations"] if true_next else arrays["observations"].copy()
    keep = np.ones(n, np.bool_)
    if not true_next:
        inner = np.flatnonzero(~ended[:-1])
        following[inner] = arrays["observations"][inner + 1]
        keep = ~ended | terminal
        notes.append("no next_observations: rows at time limits and the open end are dropped")
    elif drop:
        keep = ~timeout | terminal
        chosen = ["rows at time limits are dropped (ends='drop')"]
    # Numbered before dropping, so that an episode that loses its last row stays one episode.
    episode = np.concatenate([np.zeros(1, np.int64), np.cumsum(ended[:-1])])[keep]
    truncation = (timeout & ~terminal)[keep]
    if not keep.any():
        raise RefusedError(f"{path.name} is empty once rows at time limits are dropped.")
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    last = np.concatenate([starts[1:], [len(episode)]]) - 1
    # An episode that lost its row at the time limit ends at the row before it; only the end of
    # the recording is a cut that says nothing about the policy.
    lost = last[~(terminal[keep][last] | truncation[last])]
    stopped = not terminal[-1] and not timeout[-1] and episode[-1] == ended[:-1].sum()
    truncation[lost] = True
    metadata = _metadata(path, ours, env_id, [len(starts) - 1] if stopped else [])
    observation_space, action_space = _spaces(path, arrays, ours, action_limit)
    columns = {
        "observations": arrays["observations"][keep],
        "actions": arrays["actions"][keep],
        "rewards": arrays["rewards"][keep],
        "terminations": terminal[keep],
        "truncations": truncation,
        "next_observations": following[keep],
    }
    bounds = np.append(starts, len(episode)).astype(np.int64)
    t = build(columns, bounds, observation_space, action_space, metadata)
    return add_note(t, *notes, *chosen), notes


def _flags(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise RefusedError(
            f"{path.name}: {key} has the wrong dtype or values: {values.dtype}.",
            "Allowed: true and false (0 and 1).",
        )
    return values.astype(np.bool_)


def _timeouts(
    arrays: dict[str, NDArray[Any]], time_limit: int
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return where an episode was cut, and what had to be reconstructed.

    Flags are trusted in files with ``next_observations`` (v2). In older ones they are incomplete,
    so steps are counted as well.
    """
    terminal = arrays["terminals"]
    flags = arrays.get("timeouts", np.zeros_like(terminal))
    notes = []
    both = int((flags & terminal).sum())
    if both:
        notes.append(f"{both} rows are terminal and time-out at once (counted as termination)")
    if "timeouts" in arrays and "next_observations" in arrays:
        return flags & ~terminal, notes
    known = terminal | flags
    row = np.arange(len(known))
    # First row of the stretch between known ends that each row belongs to.
    first = np.maximum.accumulate(np.where(np.concatenate([[True], known[:-1]]), row, 0))
    counted = (row - first) % time_limit == time_limit - 1
    if "timeouts" not in arrays:
        notes.append(f"no time-out information: steps counted to time_limit={time_limit}")
    elif (counted & ~known).any():
        notes.append(f"time-outs are incomplete: steps counted to time_limit={time_limit}")
    return (flags | counted) & ~terminal, notes


def _metadata(
    path: Path, ours: dict[str, Any], env_id: str | None, cut: list[int]
) -> dict[str, Any]:
    if ours:
        return {**ours["metadata"], **({"env_id": env_id} if env_id else {})}
    name = re.match(r"[a-z0-9]+", path.stem.lower())
    guess = _NAMES.get(name[0]) if name else None
    metadata: dict[str, Any] = {"id": path.stem, "source": "d4rl", "file": path.name}
    if env_id or guess:
        metadata["env_id"] = env_id or f"{guess}-v2"
    if cut:
        metadata["cut_episodes"] = cut
    return metadata


def _spaces(
    path: Path, arrays: dict[str, NDArray[Any]], ours: dict[str, Any], action_limit: float
) -> tuple[spaces.Box, spaces.Space[Any]]:
    if ours:
        return schema_spaces(ours["observation_space"], ours["action_space"], path.name)
    shape = arrays["observations"].shape[1:]
    pixels = arrays["observations"].dtype == np.uint8 and len(shape) >= 2
    observation_space = (
        spaces.Box(0, 255, shape, np.uint8)
        if pixels
        else spaces.Box(-np.inf, np.inf, shape, np.float32)
    )
    if arrays["actions"].dtype.kind in "iu":
        count = int(arrays["actions"].max()) + 1
        return observation_space, spaces.Discrete(max(count, 1))
    if arrays["actions"].ndim != 2:
        raise RefusedError(f"{path.name}: actions have the wrong shape.", "Allowed: [n, d].")
    limits = (-action_limit, action_limit, arrays["actions"].shape[1:])
    return observation_space, spaces.Box(*limits, np.float32)


def save(t: Transitions, path: str | Path, overwrite: bool = False) -> Path:
    """Write a data set as a D4RL file (v2 layout), through a temporary file and one rename.

    Any D4RL reader can use it. Spaces and metadata are stored beside the arrays, so that
    :func:`load` gives back the same bytes.

    Raises:
        RefusedError: If the file exists or the data set is invalid.
        FailedError: If it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise RefusedError(f"{path} exists already.", "", "Choose another name or overwrite=True.")
    t = validate(t)
    columns = {
        "observations": t.observations,
        "actions": t.actions,
        "rewards": t.rewards,
        "terminals": t.terminations,
        "timeouts": t.truncations,
        "next_observations": t.next_observations,
    }
    ours = to_json(
        {
            "fingerprint": t.fingerprint,
            "observation_space": serialize_space(t.observation_space),
            "action_space": serialize_space(t.action_space),
            "metadata": dict(t.metadata),
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".rlzoo-tmp-", dir=path.parent) as tmp:
            part = Path(tmp) / path.name
            with h5py.File(part, "w") as file:
                for key, array in columns.items():
                    file.create_dataset(key, data=array, compression="gzip", compression_opts=1)
                file[_OURS] = ours
            os.replace(part, path)
    except OSError as error:
        raise FailedError(f"{path} could not be written: {error.strerror or error}.") from error
    return path
