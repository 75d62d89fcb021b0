"""Stack two: fetch cube 1 and set it down on cube 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlzoo.data.experts.base import ScriptedExpert
from rlzoo.data.experts.fetch import CLOSE, OPEN, servo

Floats = NDArray[np.float64]

_HOVER, _DESCEND, _GRASP, _LIFT, _MOVE, _LOWER, _RELEASE, _RETREAT = range(8)
_CUBE = 0.05
_ABOVE = np.array([0.0, 0.0, 1.0])


class StackExpert(ScriptedExpert):
    """Goes through phases; each row has its own. A cube that was lost is fetched again."""

    name = "stack"

    def __init__(self) -> None:
        self._phase = np.zeros(0, np.int64)
        self._waited = np.zeros(0, np.int64)

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        n = len(observation)
        if len(self._phase) != n:
            self._phase, self._waited = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._phase[starts] = _HOVER
        self._waited[starts] = 0
        gripper, below, cube = observation[:, :3], observation[:, 3:6], observation[:, 6:9]
        place = below + _CUBE * _ABOVE
        self._advance(gripper, cube, place)
        phase = self._phase
        over = gripper + (place - cube)  # where the gripper is when the cube is in its place
        high = np.column_stack([gripper[:, :2], (place - cube)[:, 2] + gripper[:, 2] + 0.07])
        down = servo(gripper, over, CLOSE)
        down[:, 2] = np.clip(down[:, 2], -0.3, 0.3)
        return np.select(
            [(phase == index)[:, None] for index in range(_RETREAT)],
            [
                servo(gripper, cube + 0.1 * _ABOVE, OPEN),
                servo(gripper, cube, OPEN),
                servo(gripper, cube, CLOSE),
                servo(gripper, high, CLOSE),
                servo(gripper, over + 0.07 * _ABOVE, CLOSE),
                down,
                servo(gripper, gripper, OPEN),
            ],
            servo(gripper, place + 0.12 * _ABOVE, OPEN),
        )

    def _advance(self, gripper: Floats, cube: Floats, place: Floats) -> None:
        """Go on to the next phase where one is done, and back to the first where the cube fell."""
        phase, waited = self._phase, self._waited
        to_cube, to_place = cube - gripper, place - cube
        off, away = np.linalg.norm(to_cube[:, :2], axis=1), np.linalg.norm(to_cube, axis=1)
        aside = np.linalg.norm(to_place[:, :2], axis=1)
        carrying = (phase >= _LIFT) & (phase <= _LOWER)
        lost = carrying & (away > 0.05)
        fallen = (phase == _RETREAT) & (np.linalg.norm(to_place, axis=1) > 0.03)
        done = np.select(
            [phase == index for index in range(_RETREAT)],
            [
                (off < 0.01) & (to_cube[:, 2] < -0.06),
                away < 0.012,
                waited >= 3,
                to_place[:, 2] < -0.06,
                aside < 0.005,
                np.abs(to_place[:, 2]) < 0.006,
                waited >= 4,
            ],
            False,
        )
        phase[:] = np.where(lost | fallen, _HOVER, phase + done)
        waited[:] = np.where(done | lost | fallen, 0, waited + 1)
