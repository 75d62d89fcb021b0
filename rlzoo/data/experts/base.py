"""What scripted experts have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlzoo.data.policies import Step


class ScriptedExpert:
    """A rule that reads the observation and knows the task, as the collector's ``BatchPolicy``.

    It draws nothing: the noise of a demonstrator is added by the collector.

    Attributes:
        name: Of the rule, for :meth:`describe`.
        version: Raised whenever the actions for the same observations change.
    """

    normals = 0
    uniforms = 0
    name = ""
    version = 1

    def act(
        self, observations: Any, step: Step, deterministic: bool = False
    ) -> NDArray[np.float32]:
        """Return the actions, ``[n, da]`` in [-1, 1].

        Args:
            observations: ``observation``, ``achieved_goal`` and ``desired_goal`` by name,
                ``[n, .]`` each.
            step: Only ``starts`` matters, and only to experts that go through phases.
            deterministic: No difference.
        """
        seen, goal = (
            np.asarray(observations[key], np.float64) for key in ("observation", "desired_goal")
        )
        return np.clip(self._actions(seen, goal, step.starts), -1, 1).astype(np.float32)

    def _actions(
        self,
        observation: NDArray[np.float64],
        goal: NDArray[np.float64],
        starts: NDArray[np.bool_],
    ) -> NDArray[np.float64]:
        """Return actions that are not clipped yet."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the kind, the rule and its version."""
        return {"kind": "scripted", "expert": self.name, "version": self.version}
