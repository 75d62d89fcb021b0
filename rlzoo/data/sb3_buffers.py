"""Stable-Baselines3 replay buffers, both ways.

What SB3 stores differs from the schema in three points: off-policy agents write ``Box`` actions
scaled to [-1, 1]; steps of ``n_envs`` environments lie side by side in a ring; an end is a ``done``
with a ``timeout`` flag beside it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl

from rlzoo.data.schema import add_note, build, schema_spaces
from rlzoo.data.transitions import Transitions
from rlzoo.data.validate import DatasetWarning, action_bounds, validate
from rlzoo.errors import RefusedError


def from_replay_buffer(
    buffer: ReplayBuffer,
    env_id: str | None = None,
    dataset_id: str = "replay-buffer",
    actions_scaled: bool = True,
    time_limit: int | None = None,
    check: bool = True,
) -> Transitions:
    """Return what a replay buffer holds, environment by environment, oldest first.

    An episode that is still running, and the one whose start a full ring has overwritten, are kept
    and listed in ``metadata["cut_episodes"]``. With ``optimize_memory_usage`` SB3 overwrites the
    observation after an end; such a row keeps its own observation there when it is a termination
    (never used: no bootstrapping) and is dropped when it is a time-out.

    Args:
        buffer: A ``ReplayBuffer`` with ``Box`` observations.
        env_id: Environment of the data, for the metadata.
        dataset_id: Name for messages and metadata.
        actions_scaled: ``Box`` actions are stored in [-1, 1], as every SB3 off-policy agent does.
            ``False`` for a buffer that was filled with raw actions.
        time_limit: Steps of the environment's time limit. Only used for buffers that do not record
            time-outs (``handle_timeout_termination=False``); without it all their ends count as
            terminations.
        check: Validate; ``False`` only for repairs and inspection.

    Raises:
        RefusedError: For ``Dict`` observations, an empty buffer or invalid data.
    """
    if isinstance(buffer, DictReplayBuffer) or not isinstance(buffer, ReplayBuffer):
        raise RefusedError(
            f"A {type(buffer).__name__} is not supported.",
            "Allowed: stable_baselines3 ReplayBuffer with Box observations.",
        )
    order = _chronological(buffer)
    if not len(order):
        raise RefusedError(f"{dataset_id} is empty: the replay buffer holds no transitions.")
    spaces_ = schema_spaces(buffer.observation_space, buffer.action_space, dataset_id)
    parts = [_column(buffer, order, env, time_limit) for env in range(buffer.n_envs)]
    arrays = {
        key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "lengths"
    }
    lengths = np.concatenate([part["lengths"] for part in parts])
    if not len(lengths):
        raise RefusedError(f"{dataset_id} is empty once rows without a next observation are gone.")
    arrays["actions"] = _from_stored(arrays["actions"], spaces_[1], actions_scaled)
    metadata: dict[str, Any] = {"id": dataset_id, "source": "sb3", "n_envs": buffer.n_envs}
    if env_id:
        metadata["env_id"] = env_id
    if buffer.full:
        first = np.cumsum([0] + [len(part["lengths"]) for part in parts[:-1]])
        metadata["cut_episodes"] = [
            int(i) for i, p in zip(first, parts, strict=True) if len(p["lengths"])
        ]
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    notes = _notes(buffer, time_limit)
    t = add_note(build(arrays, starts, *spaces_, metadata), *notes)
    if not check:
        return t
    for note in notes:
        warnings.warn(f"{dataset_id}: {note}", DatasetWarning, stacklevel=2)
    return validate(t)


def load_replay_buffer(path: str | Path, trust_pickle: bool = False) -> ReplayBuffer:
    """Read what SB3's ``save_replay_buffer`` wrote.

    Args:
        path: The ``.pkl`` file.
        trust_pickle: Unpickle it: this runs whatever its author put in. For files of your own.

    Raises:
        RefusedError: Without ``trust_pickle``, or if the file is missing, damaged or holds
            something else.
    """
    path = Path(path)
    if not path.is_file():
        raise RefusedError(f"{path} does not exist.")
    if not trust_pickle:
        raise RefusedError(
            f"{path} is a pickle; loading it would run the code that is in it.",
            f"See what it names: rlzoo inspect {path}",
            "If you trust where it comes from: rlzoo dataset import --trust (trust_pickle=True).",
        )
    try:
        found = load_from_pkl(path)
    except Exception as error:  # unpickling calls whatever the file says
        text = (str(error).splitlines() or [""])[0][:160]
        raise RefusedError(
            f"{path} cannot be unpickled: {type(error).__name__}: {text}",
            todo="Save it again with save_replay_buffer, or with the versions that wrote it.",
        ) from error
    if not isinstance(found, ReplayBuffer):
        raise RefusedError(
            f"{path} holds a {type(found).__name__}.",
            "Allowed: stable_baselines3 ReplayBuffer, as save_replay_buffer writes it.",
        )
    return found


def _chronological(buffer: ReplayBuffer) -> NDArray[np.int64]:
    """Return the positions of the ring, oldest first, without the one that is not a transition."""
    if not buffer.full:
        return np.arange(buffer.pos)
    order = (np.arange(buffer.buffer_size) + buffer.pos) % buffer.buffer_size
    # There the observation after the newest transition has replaced the oldest observation.
    return order[1:] if buffer.optimize_memory_usage else order


def _column(
    buffer: ReplayBuffer, order: NDArray[np.int64], env: int, time_limit: int | None
) -> dict[str, NDArray[Any]]:
    """Return the rows of one environment and the lengths of its episodes."""
    done = buffer.dones[order, env] > 0
    timeout = (buffer.timeouts[order, env] > 0) & done
    if not buffer.handle_timeout_termination and time_limit is not None:
        timeout = _counted(done, time_limit, start_known=not buffer.full)
    observations = buffer.observations[order, env]
    keep, truncation = np.ones(len(order), np.bool_), timeout.copy()
    if buffer.optimize_memory_usage:
        following = buffer.observations[(order + 1) % buffer.buffer_size, env]
        lost = done.copy()
        lost[-1] = False  # nothing has been written over the newest one yet
        following[lost] = observations[lost]
        keep = ~(lost & timeout)
        before = np.flatnonzero(~keep) - 1  # the episode now ends at the row before
        before = before[before >= 0]
        truncation[before] |= ~done[before]
    else:
        following = buffer.next_observations[order, env]
    episode = np.concatenate([np.zeros(1, np.int64), np.cumsum(done[:-1])])[keep]
    return {
        "observations": observations[keep],
        "actions": buffer.actions[order, env][keep],
        "rewards": buffer.rewards[order, env][keep],
        "terminations": (done & ~timeout)[keep],
        "truncations": truncation[keep],
        "next_observations": following[keep],
        "lengths": np.unique(episode, return_counts=True)[1],
    }


def _counted(done: NDArray[np.bool_], time_limit: int, start_known: bool) -> NDArray[np.bool_]:
    """Return the ends that come exactly at the time limit."""
    ends = np.flatnonzero(done)
    steps = np.diff(ends, prepend=-1)
    if len(steps) and not start_known:
        steps[0] = -1
    timeout = np.zeros_like(done)
    timeout[ends[steps == time_limit]] = True
    return timeout


def _notes(buffer: ReplayBuffer, time_limit: int | None) -> list[str]:
    if buffer.handle_timeout_termination:
        return []
    if time_limit is None:
        return ["no time-out information in the buffer: every end counts as a termination"]
    return [f"no time-out information in the buffer: ends at step {time_limit} count as time-outs"]


def to_replay_buffer(
    t: Transitions,
    device: torch.device | str = "auto",
    buffer_size: int | None = None,
) -> ReplayBuffer:
    """Return an SB3 replay buffer with all rows of ``t``, for an off-policy agent to go on with.

    Args:
        t: The data set.
        device: Where samples go.
        buffer_size: Capacity; by default one row more than the data (so that the ring is not
            full, and :func:`from_replay_buffer` knows that nothing was overwritten).

    Returns:
        A buffer for one environment that records time-outs. ``Box`` actions are scaled to
        [-1, 1]; a cut is ``done`` with its ``timeout`` flag, so that SB3 bootstraps there.

    Raises:
        RefusedError: If the capacity is too small or actions have no bounds to scale by.
    """
    n = len(t)
    size = n + 1 if buffer_size is None else buffer_size
    if size < n:
        raise RefusedError(f"buffer_size={size} is out of range.", f"Allowed: {n} or more.")
    buffer = ReplayBuffer(size, t.observation_space, t.action_space, device=device, n_envs=1)
    buffer.observations[:n, 0] = t.observations
    buffer.next_observations[:n, 0] = t.next_observations
    buffer.actions[:n, 0] = _to_stored(t.actions, t.action_space).reshape(n, -1)
    buffer.rewards[:n, 0] = t.rewards
    buffer.dones[:n, 0] = t.terminations | t.truncations
    buffer.timeouts[:n, 0] = t.truncations & ~t.terminations
    buffer.pos, buffer.full = n % size, n == size
    return buffer


def _scale(space: spaces.Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = action_bounds(space)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise RefusedError(
            "Actions without bounds cannot be scaled to [-1, 1].",
            "Allowed: finite bounds in every dimension.",
        )
    return (low + high) / 2, np.maximum((high - low) / 2, np.finfo(np.float32).tiny)


def _to_stored(actions: NDArray[Any], space: spaces.Space[Any]) -> NDArray[Any]:
    if not isinstance(space, spaces.Box):
        return actions
    middle, half = _scale(space)
    return ((actions.astype(np.float64) - middle) / half).astype(np.float32)


def _from_stored(actions: NDArray[Any], space: spaces.Space[Any], scaled: bool) -> NDArray[Any]:
    actions = actions.reshape(len(actions), *(space.shape or ()))
    if not isinstance(space, spaces.Box) or not scaled:
        return actions
    # In float64: for bounds that are symmetric powers of two, such as [-1, 1], this is exact.
    middle, half = _scale(space)
    raw = (actions.astype(np.float64) * half + middle).astype(np.float32)
    # Only rounding is removed; an action that is really outside stays there for the checks to see.
    inside = np.abs(actions) <= 1
    return np.where(inside, np.clip(raw, space.low, space.high), raw)
