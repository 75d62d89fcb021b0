"""The paper's own diagnostic: what a plan promised against what came of it (Fig. 3)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Gap(NamedTuple):
    """Means over the plans whose horizon has passed.

    Args:
        realised: Return of the steps that followed.
        gap: Imagined less realised return.
    """

    realised: float
    gap: float


class GapTracker:
    """Compares imagined returns with the rewards of the ``H`` steps after each decision.

    The plan is revised in every step, so this measures trust in the model along the way that is
    really gone. What an end of the episode cuts off is left out.

    Args:
        horizon: Steps ``H``.
        n_envs: Environments ``B``.
        gamma: Discount.
    """

    def __init__(self, horizon: int, n_envs: int, gamma: float = 1.0) -> None:
        self.gamma = gamma
        self.imagined = np.full((horizon, n_envs), np.nan)
        self.realised = np.zeros((horizon, n_envs))
        self.weights = np.zeros(horizon)
        self.step = 0

    def begin(self, imagined: NDArray[np.floating[Any]] | None) -> Gap | None:
        """Note what a decision promises, and return what came of the one ``H`` steps ago.

        Args:
            imagined: Imagined returns ``[B]``; None: no plan was made.
        """
        slot = self.step % len(self.imagined)
        gaps = self.imagined[slot] - self.realised[slot]
        known = np.isfinite(gaps)
        found = None
        if known.any():
            found = Gap(float(self.realised[slot][known].mean()), float(gaps[known].mean()))
        self.imagined[slot] = np.nan if imagined is None else imagined
        self.realised[slot], self.weights[slot] = 0, 1
        return found

    def reward(self, rewards: NDArray[np.floating[Any]], dones: NDArray[np.bool_]) -> None:
        """Note the rewards of a step ``[B]``, and which episodes it ended."""
        self.realised += self.weights[:, None] * rewards
        self.weights *= self.gamma
        self.imagined[:, np.asarray(dones, bool)] = np.nan
        self.step += 1

    def get_state(self) -> dict[str, Any]:
        """Return all of it, for checkpoints."""
        arrays = (self.imagined, self.realised, self.weights)
        return {"arrays": [array.copy() for array in arrays], "step": self.step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_state` returned."""
        self.imagined, self.realised, self.weights = (np.array(a) for a in state["arrays"])
        self.step = int(state["step"])
