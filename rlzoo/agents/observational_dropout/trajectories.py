"""What an agent saw and what it believed, step by step, of one episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlzoo.core.seeding import stream
from rlzoo.core.swingup import CartPoleSwingUp


@dataclass(frozen=True)
class Trajectory:
    """One episode of T steps.

    Args:
        real: What was there to be seen, ``[T, O]``.
        predicted: What the world model had predicted for the step, ``[T, O]``; of the first step,
            for which there is no prediction, what was seen.
        peeks: Whether the true observation was seen, ``[T]``, bool; the first one always.
        actions: ``[T, ...]``, in the units of the environment.
        cart_pole: Whether observations are those of the swing-up, [x, dx/dt, cos, sin, dtheta/dt].
    """

    real: NDArray[np.float32]
    predicted: NDArray[np.float32]
    peeks: NDArray[np.bool_]
    actions: NDArray[Any]
    cart_pole: bool = False

    @property
    def believed(self) -> NDArray[np.float32]:
        """What policy and world model were given: step 2 of the recursion (page, 2.1)."""
        return np.where(self.peeks[:, None], self.real, self.predicted)

    def __len__(self) -> int:
        return len(self.peeks)


class Witness:
    """Acts as an agent does in one environment, and remembers what it saw and believed.

    Peeks come from a generator of its own, so that watching changes nothing and the same seed shows
    the same peeks.

    Args:
        model: An ``ObservationalDropout``.
        seed: Of the peeks.
    """

    def __init__(self, model: Any, seed: int = 0) -> None:
        self.model = model
        self._peeks = np.random.default_rng(stream(seed, "witness"))
        self._steps: list[tuple[Any, ...]] = []

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Act as the agent, see SB3; an episode start forgets what was before.

        Args:
            observation: ``[1, ...]``.
            state: What the last call returned.
            episode_start: ``[1]``.
            deterministic: As for the agent.
        """
        real = np.asarray(observation, np.float32).reshape(1, -1)
        starts = state is None or (episode_start is not None and bool(np.asarray(episode_start)[0]))
        if starts:
            self._steps = []
        policy = self.model.policy
        before, policy.peeks = policy.peeks, self._peeks
        try:
            actions, after = self.model.predict(observation, state, episode_start, deterministic)
        finally:
            policy.peeks = before
        predicted, peek = (real, True) if starts or state is None else (state[0], bool(state[1][0]))
        self._steps.append((real[0], np.asarray(predicted).reshape(-1), peek, actions[0]))
        return actions, after

    def trajectory(self) -> Trajectory:
        """Return the episode so far, or the last one.

        Raises:
            RuntimeError: If nothing was played.
        """
        if not self._steps:
            raise RuntimeError("Nothing was played yet.")
        real, predicted, peeks, actions = zip(*self._steps, strict=True)
        return Trajectory(
            np.stack(real), np.stack(predicted).astype(np.float32), np.array(peeks, bool),
            np.stack(actions),
            self.model.observation_space == CartPoleSwingUp().observation_space,
        )  # fmt: skip
