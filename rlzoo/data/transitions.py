"""The one schema of batch data: what every loader returns and every agent takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.errors import RefusedError

PER_EPISODE = ("episode_seeds", "episode_successes", "episode_final_successes")
"""Lists in the metadata with one entry per episode."""


@dataclass(frozen=True, eq=False)
class Transitions:
    """A data set of ``n`` transitions in ``e`` episodes, in the units of the environment.

    Rows of one episode are contiguous and in order. A row never links two episodes: at a time
    limit ``next_observations`` holds the observation that the environment returned there.

    Args:
        observations: ``[n, *observation_shape]``, float32 (pixels: uint8).
        actions: ``[n, *action_shape]``, float32, inside the bounds of ``action_space``
            (int64 for discrete actions).
        rewards: ``[n]``, float32.
        terminations: ``[n]``, bool; the environment ended the episode (no bootstrapping).
        truncations: ``[n]``, bool; cut from outside (time limit, end of collection).
        next_observations: as ``observations``.
        episode_starts: ``[e + 1]``, int64; episode ``i`` is rows
            ``episode_starts[i]:episode_starts[i + 1]``; first 0, last ``n``.
        observation_space: Gymnasium space of one observation.
        action_space: Gymnasium space of one action.
        metadata: JSON-able facts: ``id``, ``env_id``, ``recipe``, ``versions``, ``source`` …
    """

    observations: NDArray[Any]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    next_observations: NDArray[Any]
    episode_starts: NDArray[np.int64]
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def n_episodes(self) -> int:
        """Number of episodes, cut ones included."""
        return len(self.episode_starts) - 1

    @property
    def dataset_id(self) -> str:
        """Name of the data set, ``"unnamed"`` when it has none."""
        return str(self.metadata.get("id", "unnamed"))

    @property
    def env_id(self) -> str | None:
        """Id of the environment that the data came from, if known."""
        return self.metadata.get("env_id")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the arrays, see :mod:`rlzoo.data.fingerprint`."""
        from rlzoo.data.fingerprint import fingerprint

        return fingerprint(self)

    @cached_property
    def episode_returns(self) -> NDArray[np.float64]:
        """Undiscounted return of every episode, ``[e]``, cut ones included."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts[:-1])

    @cached_property
    def episode_lengths(self) -> NDArray[np.int64]:
        """Length of every episode, ``[e]``."""
        return np.diff(self.episode_starts)

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """Which episodes ran to a termination or to the environment's own time limit, ``[e]``.

        An episode that the collector cut at its quota is listed in ``metadata["cut_episodes"]``;
        its return says nothing about the policy.
        """
        mask = np.ones(self.n_episodes, dtype=np.bool_)
        mask[list(self.metadata.get("cut_episodes", []))] = False
        return mask

    def return_statistics(self) -> dict[str, float]:
        """Return ``mean``, ``std``, ``min``, ``max``, ``episodes`` over the complete episodes.

        Falls back to all episodes when every one was cut.
        """
        chosen = (
            self.episode_returns[self.complete] if self.complete.any() else self.episode_returns
        )
        return {
            "mean": float(chosen.mean()),
            "std": float(chosen.std()),
            "min": float(chosen.min()),
            "max": float(chosen.max()),
            "episodes": len(chosen),
        }

    def with_metadata(self, **values: Any) -> Transitions:
        """Return the same data with ``values`` added to the metadata."""
        return replace(self, metadata={**self.metadata, **values})

    def select_episodes(self, indices: NDArray[np.int64] | list[int]) -> Transitions:
        """Return the data set that holds only the given episodes, in the given order."""
        chosen = [int(i) for i in indices]
        bounds = [(int(self.episode_starts[i]), int(self.episode_starts[i + 1])) for i in chosen]
        rows = (
            np.concatenate([np.arange(a, b) for a, b in bounds])
            if bounds
            else np.zeros(0, dtype=np.int64)
        )
        lengths = np.asarray([b - a for a, b in bounds], dtype=np.int64)
        cut = set(self.metadata.get("cut_episodes", []))
        per_episode = {
            name: [values[i] for i in chosen]
            for name in PER_EPISODE
            if len(values := self.metadata.get(name, [])) == self.n_episodes
        }
        return replace(
            self,
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            terminations=self.terminations[rows],
            truncations=self.truncations[rows],
            next_observations=self.next_observations[rows],
            episode_starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            metadata={
                **self.metadata,
                **per_episode,
                "cut_episodes": [new for new, old in enumerate(chosen) if old in cut],
            },
        )


def concatenate(parts: Sequence[Transitions], metadata: Mapping[str, Any]) -> Transitions:
    """Return data sets of one environment one behind the other.

    Args:
        parts: At least one; their spaces are equal.
        metadata: Of the whole; ``parts`` (the metadata of every part) and ``cut_episodes`` are
            added, and the lists per episode that all parts have.

    Raises:
        RefusedError: If spaces differ.
    """
    first = parts[0]
    for part in parts[1:]:
        for name in ("observation_space", "action_space"):
            if getattr(part, name) != getattr(first, name):
                raise RefusedError(
                    f"{part.dataset_id} and {first.dataset_id} have different {name}s.",
                    f"{getattr(part, name)} and {getattr(first, name)}.",
                )
    counts = np.cumsum([0, *(part.n_episodes for part in parts)])
    cut = [
        int(i + shift)
        for part, shift in zip(parts, counts, strict=False)
        for i in part.metadata.get("cut_episodes", [])
    ]
    lists = {
        name: [entry for part in parts for entry in part.metadata[name]]
        for name in PER_EPISODE
        if all(len(part.metadata.get(name, [])) == part.n_episodes for part in parts)
    }
    own = [
        {k: v for k, v in part.metadata.items() if k not in (*PER_EPISODE, "cut_episodes")}
        for part in parts
    ]
    lengths = np.concatenate([part.episode_lengths for part in parts])
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("observations", "actions", "rewards", "terminations", "truncations",
                     "next_observations")
    }  # fmt: skip
    return replace(
        first,
        **columns,
        episode_starts=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        metadata={**metadata, **lists, "parts": own, "cut_episodes": cut},
    )
