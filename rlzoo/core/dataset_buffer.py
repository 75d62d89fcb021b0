"""A whole data set as tensors on the device, sampled on the device."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from rlzoo.core.safe_files import replacing
from rlzoo.errors import RefusedError

FileLike = str | Path | io.BufferedIOBase

# Stored actions stay within +- this, so that `atanh` of an action at its bound is finite.
ACTION_LIMIT = 1 - 1e-6


class TransitionsLike(Protocol):
    """What an offline agent needs of a data set (``rlzoo.data.Transitions`` has it)."""

    @property
    def observations(self) -> NDArray[Any]:
        """``[n, *observation_shape]``."""

    @property
    def actions(self) -> NDArray[Any]:
        """``[n, *action_shape]``, in the units of the environment."""

    @property
    def rewards(self) -> NDArray[np.float32]:
        """``[n]``."""

    @property
    def terminations(self) -> NDArray[np.bool_]:
        """``[n]``."""

    @property
    def next_observations(self) -> NDArray[Any]:
        """``[n, *observation_shape]``."""

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """Space of one observation."""

    @property
    def action_space(self) -> spaces.Space[Any]:
        """Space of one action."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays."""

    @property
    def dataset_id(self) -> str:
        """Name of the data set."""


class _Arrays(NamedTuple):
    observations: th.Tensor
    actions: th.Tensor
    rewards: th.Tensor
    dones: th.Tensor
    next_observations: th.Tensor


def scale_actions(actions: NDArray[Any], space: spaces.Box) -> NDArray[np.float32]:
    """Map actions from the bounds of ``space`` to [-1, 1], as SB3's off-policy agents store them.

    Values are clipped to +- ``ACTION_LIMIT``.
    """
    low, high = space.low, space.high
    scaled = 2.0 * ((actions - low) / (high - low)) - 1.0
    return np.clip(scaled, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)


def _read_arrays(path: FileLike) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _Arrays._fields}
        if len({len(array) for array in arrays.values()}) != 1:
            raise ValueError("its arrays differ in length")
        if any(array.dtype.kind not in "biuf" for array in arrays.values()):
            raise ValueError("its arrays are not numbers")
    except Exception as error:  # NumPy and zipfile have a dozen of ways to say "damaged"
        text = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise RefusedError(
            f"{path} holds no data set of an offline agent: {text}",
            "Allowed: the .npz that save_replay_buffer() wrote; pickles are not read.",
        ) from error
    return arrays


class DatasetBuffer(ReplayBuffer):
    """Read-only replay buffer whose storage and sampling live on ``device``.

    ``sample`` draws uniformly with replacement from torch's generator of the device: no host copy
    and no synchronisation. ``dones`` are true terminations; a time limit is not one. On the CPU
    float32 arrays are shared with ``data``, not copied.

    Args:
        data: The transitions; actions in the units of the environment.
        device: Where the tensors live.
    """

    _statistics: tuple[NDArray[np.float32], th.Tensor] | None = None

    def __init__(self, data: TransitionsLike, device: th.device | str = "cpu") -> None:
        # ReplayBuffer.__init__ would allocate NumPy arrays for the same data a second time.
        super(ReplayBuffer, self).__init__(
            len(data.rewards), data.observation_space, data.action_space, device, n_envs=1
        )
        if not isinstance(data.action_space, spaces.Box):
            raise RefusedError(
                f"Action space {data.action_space} in data set {data.dataset_id!r}.",
                "Offline agents take continuous (Box) actions.",
            )
        self.optimize_memory_usage, self.handle_timeout_termination = False, True
        self.pos, self.full = 0, True
        rows = len(data.rewards)
        self._arrays = _Arrays(
            observations=self._tensor(data.observations.reshape(rows, -1)),
            actions=self._tensor(scale_actions(data.actions, data.action_space).reshape(rows, -1)),
            rewards=self._tensor(data.rewards.reshape(rows, 1)),
            dones=self._tensor(data.terminations.reshape(rows, 1)),
            next_observations=self._tensor(data.next_observations.reshape(rows, -1)),
        )

    def _tensor(self, array: NDArray[Any]) -> th.Tensor:
        # torch warns about arrays that it may not write to.
        writable = np.require(array, requirements="W")
        return th.as_tensor(writable).to(self.device, dtype=th.float32)

    @property
    def tensors(self) -> dict[str, th.Tensor]:
        """The whole data set by name; actions scaled to [-1, 1]."""
        return self._arrays._asdict()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Return ``batch_size`` transitions drawn uniformly with replacement.

        Args:
            batch_size: Number of transitions.
            env: Normalise observations and rewards with its statistics; they are stored raw.

        Returns:
            Tensors ``[batch_size, ...]``; actions scaled to [-1, 1], ``dones`` float.
        """
        rows = th.randint(self.buffer_size, (batch_size,), device=self.device)
        return self._rows(rows, env)

    def _get_samples(
        self, batch_inds: NDArray[np.int64], env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        return self._rows(th.as_tensor(batch_inds, device=self.device), env)

    def _rows(self, rows: th.Tensor, env: VecNormalize | None) -> ReplayBufferSamples:
        batch = _Arrays(*(array.index_select(0, rows) for array in self._arrays))
        if env is not None:
            batch = self._normalized(batch, env)
        return ReplayBufferSamples(
            observations=batch.observations,
            actions=batch.actions,
            next_observations=batch.next_observations,
            dones=batch.dones,
            rewards=batch.rewards,
        )

    def _normalized(self, batch: _Arrays, env: VecNormalize) -> _Arrays:
        statistics = [np.sqrt(env.ret_rms.var + env.epsilon)]
        if env.norm_obs:
            moments = cast(RunningMeanStd, env.obs_rms)
            statistics += [moments.mean, np.sqrt(moments.var + env.epsilon)]
        host = np.concatenate([np.ravel(s) for s in statistics]).astype(np.float32)
        if self._statistics is None or not np.array_equal(self._statistics[0], host):
            # Copied when they change and not per batch: a CUDA graph cannot hold such a copy.
            self._statistics = host, th.as_tensor(host, device=self.device)
        reward_std, obs = self._statistics[1][0], self._statistics[1][1:]
        if env.norm_reward:
            rewards = (batch.rewards / reward_std).clamp_(-env.clip_reward, env.clip_reward)
            batch = batch._replace(rewards=rewards)
        if env.norm_obs:
            mean, std = obs.chunk(2)
            now, later = (
                ((x - mean) / std).clamp_(-env.clip_obs, env.clip_obs)
                for x in (batch.observations, batch.next_observations)
            )
            batch = batch._replace(observations=now, next_observations=later)
        return batch

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: the data set is fixed."""
        raise RefusedError(
            "A transition was added to the data set of an offline agent.",
            "The data set is read-only.",
            "Build a new data set with rlzoo.data and pass it to set_dataset().",
        )

    def save(self, path: FileLike) -> None:
        """Write the tensors as ``.npz`` (no pickle) to a path or an open binary file."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in self.tensors.items()}
        if not isinstance(path, str | os.PathLike):
            np.savez(path, **arrays)  # type: ignore[arg-type]
            return
        with replacing(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    @classmethod
    def restore(
        cls,
        path: FileLike,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str,
    ) -> DatasetBuffer:
        """Read what :meth:`save` wrote; nothing is unpickled.

        Raises:
            RefusedError: If the file is missing, damaged, or something else.
        """
        buffer = cls.__new__(cls)
        arrays = _read_arrays(path)
        super(ReplayBuffer, buffer).__init__(
            len(arrays["rewards"]), observation_space, action_space, device, n_envs=1
        )
        buffer.optimize_memory_usage, buffer.handle_timeout_termination = False, True
        buffer.pos, buffer.full = 0, True
        buffer._arrays = _Arrays(**{name: buffer._tensor(array) for name, array in arrays.items()})
        return buffer
