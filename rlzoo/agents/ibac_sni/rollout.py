"""A rollout buffer that lives on the device: observations go there once, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples

from rlzoo.errors import RefusedError


class DeviceRolloutBuffer(RolloutBuffer):
    """SB3's rollout buffer with torch tensors on the device instead of arrays on the host.

    Images are stored as uint8 and channels last, so that a minibatch of them is one gather into
    the layout that convolutions want. All tensors keep their place for the life of the buffer,
    which CUDA graphs rely on. Time comes first everywhere: ``[T, N, ...]``.

    Args:
        buffer_size: Steps per environment, ``T``.
        observation_space: Observations; a Dict is refused.
        action_space: Discrete actions.
        device: Where everything is.
        gae_lambda: ``lambda`` of GAE.
        gamma: Discount factor.
        n_envs: Number of environments, ``N``.
        channels_last: Layout of images ``(C, H, W)``; without effect on other observations.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        channels_last: bool = False,
    ) -> None:
        if observation_space.shape is None or isinstance(observation_space, spaces.Dict):
            raise RefusedError(
                f"IBACSNI cannot store the observation space {observation_space}.",
                "Allowed: Box, Discrete, MultiDiscrete, MultiBinary.",
            )
        self.channels_last = channels_last and len(observation_space.shape) == 3
        self._tensors: dict[str, th.Tensor] = {}
        super().__init__(
            buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs
        )

    def reset(self) -> None:
        """Begin a new rollout in the same memory."""
        if not self._tensors:
            self._allocate()
        self.pos, self.full = 0, False

    def _allocate(self) -> None:
        size = (self.buffer_size, self.n_envs)
        self._rows = self._empty_observations(size)
        for name in ("values", "log_probs", "rewards", "episode_starts", "advantages", "returns"):
            self._tensors[name] = th.zeros(size, device=self.device)
            setattr(self, name, self._tensors[name])
        self.actions = th.zeros(size, dtype=th.int64, device=self.device)  # type: ignore[assignment]
        self._tensors |= {"observations": self._rows, "actions": cast(th.Tensor, self.actions)}
        # What others see: [T, N, C, H, W] whatever the layout.
        view = self._rows.permute(0, 1, 4, 2, 3) if self.channels_last else self._rows
        self.observations = view  # type: ignore[assignment]

    def _empty_observations(self, size: tuple[int, int]) -> th.Tensor:
        shape = tuple(self.observation_space.shape or ())
        if self.channels_last:
            shape = (*shape[1:], shape[0])
        # Environments of MuJoCo observe float64; everything in torch is float32.
        kind = np.dtype(self.observation_space.dtype)
        dtype = th.float32 if kind.kind == "f" else th.from_numpy(np.zeros(0, kind)).dtype
        return th.zeros((*size, *shape), dtype=dtype, device=self.device)

    def put_observation(self, observation: Any) -> th.Tensor:
        """Copy observations ``[N, ...]`` into the current step, and return that place."""
        place: th.Tensor = cast(th.Tensor, self.observations)[self.pos]
        place.copy_(th.as_tensor(observation).to(self.device))  # there it is turned around
        return place

    def put(
        self,
        actions: th.Tensor,
        rewards: Any,
        episode_starts: Any,
        values: th.Tensor,
        log_probs: th.Tensor,
    ) -> None:
        """Complete the step of the last :meth:`put_observation`; everything is ``[N]``."""
        found = {
            "actions": actions,
            "values": values,
            "log_probs": log_probs,
            "rewards": th.as_tensor(rewards),
            "episode_starts": th.as_tensor(episode_starts),
        }
        for name, value in found.items():
            self._tensors[name][self.pos].copy_(value.reshape(self.n_envs))
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def add(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        episode_start: Any,
        value: th.Tensor,
        log_prob: th.Tensor,
    ) -> None:
        """Add one step of all environments, as in SB3."""
        self.put_observation(obs)
        self.put(th.as_tensor(action), reward, episode_start, value, log_prob)

    @th.no_grad()
    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: Any) -> None:
        """Compute GAE advantages and lambda-returns on the device, as in SB3.

        Args:
            last_values: Values of the observations after the last step, ``[N]``.
            dones: Whether the last step ended an episode, ``[N]``.
        """
        rewards, values = self._tensors["rewards"], self._tensors["values"]
        ended = th.as_tensor(dones).to(self.device, th.float32).unsqueeze(0)
        alive = 1 - th.cat((self._tensors["episode_starts"][1:], ended))
        next_values = th.cat((values[1:], last_values.reshape(1, -1)))
        deltas = rewards + self.gamma * next_values * alive - values
        decay = self.gamma * self.gae_lambda * alive
        advantages = self._tensors["advantages"]
        advantage = th.zeros_like(deltas[0])
        for step in reversed(range(self.buffer_size)):
            advantage = th.addcmul(deltas[step], decay[step], advantage)
            advantages[step].copy_(advantage)
        th.add(advantages, values, out=self._tensors["returns"])

    def minibatches(self, batch_size: int) -> Iterator[th.Tensor]:
        """Give random rows, each once: index tensors on the device, the last one may be shorter.

        The permutation is NumPy's, in SB3's order of rows: equal seeds give SB3's minibatches.
        """
        n_rows = self.buffer_size * self.n_envs
        order = np.random.permutation(n_rows)  # noqa: NPY002
        # SB3 counts environment by environment, the tensors here count step by step.
        env, step = np.divmod(order, self.buffer_size)
        rows = th.from_numpy(step * self.n_envs + env).to(self.device)
        yield from th.split(rows, batch_size)

    def rows(self, name: str, index: th.Tensor) -> th.Tensor:
        """Return rows of a tensor, ``[B, ...]``; images as ``[B, C, H, W]`` in their layout."""
        found = self._tensors[name].flatten(0, 1).index_select(0, index)
        if name == "observations" and self.channels_last:
            return found.permute(0, 3, 1, 2)
        return found

    def get(self, batch_size: int | None = None) -> Any:
        """Give minibatches as in SB3."""
        names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
        for index in self.minibatches(batch_size or self.buffer_size * self.n_envs):
            yield RolloutBufferSamples(*(self.rows(name, index) for name in names))
