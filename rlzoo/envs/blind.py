"""Policies for Procgen that never look at the screen: what an agent has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from rlzoo.core.arguments import UNIT, check_range
from rlzoo.envs.procgen import REDUCED_ACTIONS
from rlzoo.errors import RefusedError


class RightJump:
    """Runs to the right, and jumps on the way with probability ``p``; never looks.

    For the collector (it draws nothing itself) and, by :meth:`predict`, for evaluations. What
    cannot beat it has learned nothing about levels: its mean return in CoinRun is 6.5 on easy
    levels, where random actions have 2.8.

    Args:
        action_space: Procgen's fifteen actions, or the seven of ``REDUCED_ACTIONS``.
        p: Probability of a jump, in [0, 1].
        seed: Of what :meth:`predict` draws.

    Raises:
        RefusedError: If ``p`` is out of range or the actions are others.
    """

    normals, uniforms = 0, 1

    def __init__(
        self, action_space: spaces.Space[Any], p: float = 0.8, seed: int | None = None
    ) -> None:
        check_range("p", p, UNIT)
        known = {15: (7, 8), len(REDUCED_ACTIONS): (1, 4)}
        if not isinstance(action_space, spaces.Discrete) or int(action_space.n) not in known:
            raise RefusedError(
                f"There is no right and no jump in {action_space}.",
                "Allowed: the actions of Procgen, Discrete(15), or its reduced ones, Discrete(7).",
            )
        self.action_space, self.p = action_space, p
        self._right, self._jump = known[int(action_space.n)]
        self.set_random_seed(seed)

    def act(
        self, observations: npt.NDArray[Any], step: Any, deterministic: bool = False
    ) -> npt.NDArray[np.int64]:
        """Return ``[n]`` actions for ``step.uniforms``, ``[n, 1]`` in [0, 1)."""
        return np.where(step.uniforms[:, 0] < self.p, self._jump, self._right).astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """Return the kind and its setting."""
        return {"kind": "right-jump", "p": self.p}

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: Any = None,
        episode_start: npt.NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[np.int64], Any]:
        """Return one action per row of a batch of observations, and ``state``, as SB3 does."""
        jumps = self._rng.random(len(observation)) < self.p
        return np.where(jumps, self._jump, self._right).astype(np.int64), state

    def set_random_seed(self, seed: int | None) -> None:
        """Seed the generator that :meth:`predict` draws from."""
        self._rng = np.random.default_rng(seed)
