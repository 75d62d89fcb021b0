"""The chain of predictions of a chunk of steps, and where the gradient runs through it (page, 2.7).

A chunk is K steps in each of B environments. Observations, peeks and actions are those of the
rollout, and so is the belief that the chunk begins with; what lies between is computed again, with
the weights of now. A peek cuts the chain: nothing before it has an influence on what comes after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer

from rlzoo.agents.observational_dropout.recursion import Predict, believe


@dataclass(frozen=True)
class Chunk:
    """What a chunk is replayed from.

    Args:
        observations: True ones, ``[K, B, O]``.
        peeks: Whether they were seen, ``[K, B]``, bool.
        first: Prediction for the first step, ``[B, O]``.
    """

    observations: th.Tensor
    peeks: th.Tensor
    first: th.Tensor


class ChunkSamples(NamedTuple):
    """A minibatch; the fields of SB3's ``RolloutBufferSamples``, ``[K * B]`` step by step."""

    observations: Chunk
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor


def replay(chunk: Chunk, actions: th.Tensor, predict: Predict) -> th.Tensor:
    """Return what the agent takes for the observations: steps 2 and 5 of the recursion.

    Args:
        chunk: What was seen.
        actions: What the model is told, ``[K, B, A]``.
        predict: The world model, of ``[1, B, …]``.

    Returns:
        ``[K, B, O]``, with a gradient to the weights of the model.
    """
    prediction, found = chunk.first.detach(), []
    for observation, peek, action in zip(chunk.observations, chunk.peeks, actions, strict=True):
        x = believe(observation, prediction, peek)
        found.append(x)
        prediction = predict(x.unsqueeze(0), action.unsqueeze(0)).squeeze(0)
    return th.stack(found)


class ChunkBuffer(RolloutBuffer):
    """SB3's rollout buffer with peeks and beliefs; minibatches are of whole chunks.

    Args:
        buffer_size: Steps per environment, T; a multiple of the length of chunks.
        observation_space: Observations; their flat length is O.
        action_space: As in SB3.
        device: Where minibatches go.
        gae_lambda: As in SB3.
        gamma: As in SB3.
        n_envs: Number of environments, N.
        chunk_length: K.

    Attributes:
        peeks: Whether the observation was seen, ``[T, N]``, bool.
        believed: Prediction for every step, ``[T, N, O]``.
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
        chunk_length: int = 64,
    ) -> None:
        self.chunk_length, self.length = chunk_length, spaces.flatdim(observation_space)
        super().__init__(
            buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs
        )

    def reset(self) -> None:
        """Begin a new rollout."""
        super().reset()
        size = (self.buffer_size, self.n_envs)
        self.peeks, self.believed = np.zeros(size, bool), np.zeros((*size, self.length), np.float32)

    def remember(self, peek: NDArray[np.bool_], believed: NDArray[np.float32]) -> None:
        """Keep the flags ``[N]`` and predictions ``[N, O]`` of the step that :meth:`add` adds."""
        self.peeks[self.pos], self.believed[self.pos] = peek, believed

    def get(self, batch_size: int | None = None) -> Iterator[ChunkSamples]:  # type: ignore[override]
        """Give chunks in a random order, each once; the order is drawn by NumPy, as in SB3.

        Args:
            batch_size: Steps in a minibatch, rounded down to whole chunks; None takes all.
        """
        count = self.buffer_size // self.chunk_length * self.n_envs
        at_once = count if batch_size is None else max(batch_size // self.chunk_length, 1)
        order = np.random.permutation(count)  # noqa: NPY002
        for begin in range(0, count, at_once):
            yield self._samples(order[begin : begin + at_once])

    def _samples(self, rows: NDArray[np.int64], batch: Any = None) -> ChunkSamples:
        number, env = np.divmod(rows, self.n_envs)

        def take(array: NDArray[Any], merge: bool = True) -> th.Tensor:
            chunks = array.reshape(-1, self.chunk_length, *array.shape[1:])[number, :, env]
            found = self.to_torch(np.ascontiguousarray(chunks.swapaxes(0, 1)))
            return found.flatten(0, 1) if merge else found

        observations = take(self.observations, merge=False).flatten(2).float()
        chunk = Chunk(observations, take(self.peeks, merge=False), take(self.believed, False)[0])
        others = (self.values, self.log_probs, self.advantages, self.returns)
        return ChunkSamples(chunk, take(self.actions), *map(take, others))
