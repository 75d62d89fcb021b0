"""Fetch: reach, push, pick and place. In version 4 the fingers start closed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlzoo.data.experts.base import ScriptedExpert

Floats = NDArray[np.float64]

STEP = 0.05
"""Displacement of an action of 1, in metres."""

OPEN, CLOSE = 1.0, -1.0


def servo(here: Floats, target: Floats, fingers: Floats | float) -> Floats:
    """Return actions that move the gripper to a target, ``[n, 4]``."""
    return np.column_stack(
        [(target - here) / STEP, np.broadcast_to(np.asarray(fingers), len(here))]
    )


class ReachExpert(ScriptedExpert):
    """Moves the gripper to the goal."""

    name = "reach"

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        return servo(observation[:, :3], goal, 0.0)


class PickAndPlaceExpert(ScriptedExpert):
    """Rules in their order, each step anew; they read the first ten numbers, or eleven.

    Block in hand and near the goal: servo it there. Gripper not above the block: go there, open.
    Too high: descend, open. Fingers open: close. Else carry the block to the goal.
    """

    name = "pick-and-place"

    _near_goal = 0.01
    _in_hand = 0.03
    _beside = 0.02
    _above = 0.012
    _hover = np.array([0.0, 0.0, 0.08])
    _closed = 0.06  # both fingers together; the block is 0.05 wide

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        gripper, block = observation[:, :3], observation[:, 3:6]
        to_block = block - gripper
        away = np.linalg.norm(to_block, axis=1)
        off = np.linalg.norm(to_block[:, :2], axis=1)
        # Shortened observations have one finger only; the two move together.
        shortened = observation.shape[1] < 11
        fingers = observation[:, 9] * 2 if shortened else observation[:, 9:11].sum(1)
        near_goal = np.linalg.norm(goal - block, axis=1) < self._near_goal
        carry = servo(block, goal, CLOSE)
        rules = [
            (near_goal & (away < self._in_hand), carry),
            (off > self._beside, servo(gripper, block + self._hover, OPEN)),
            (away > self._above, servo(gripper, block, OPEN)),
            (fingers > self._closed, servo(gripper, block, CLOSE)),
        ]
        return np.select([rule[:, None] for rule, _ in rules], [a for _, a in rules], carry)


class PushExpert(ScriptedExpert):
    """Goes behind the block from above, then pushes it along the line to the goal.

    The block turns aside now and then; the expert then lifts its fingers and begins again.
    """

    name = "push"

    _behind = 0.075
    _near_goal = 0.015
    _hover = 0.1
    _off_line = 0.02
    _contact = 0.05  # from the gripper to the middle of the block while it is pushed

    def _actions(self, observation: Floats, goal: Floats, starts: NDArray[np.bool_]) -> Floats:
        gripper, block = observation[:, :3], observation[:, 3:6]
        way = (goal - block)[:, :2]
        left = np.linalg.norm(way, axis=1)
        forward = way / np.maximum(left, 1e-6)[:, None]
        offset = (gripper - block)[:, :2]
        along = (offset * forward).sum(1)
        aside = np.linalg.norm(offset - along[:, None] * forward, axis=1)
        start = block.copy()
        start[:, :2] -= self._behind * forward
        to_start = np.linalg.norm((start - gripper)[:, :2], axis=1)
        high = gripper[:, 2] > block[:, 2] + 0.03
        behind = (along < -0.03) & (along > -0.12) & (aside < self._off_line)
        above, over = gripper.copy(), start.copy()
        above[:, 2] = over[:, 2] = block[:, 2] + self._hover
        pushed = np.column_stack([goal[:, :2] - self._contact * forward, block[:, 2]])
        push = servo(gripper, pushed, CLOSE)
        push[:, :2] = np.clip(push[:, :2], -0.5, 0.5)  # faster, and the block slides on
        rules = [
            (left < self._near_goal, np.zeros_like(push)),
            (behind & ~high, push),
            (to_start < self._off_line, servo(gripper, start, CLOSE)),
            (gripper[:, 2] < block[:, 2] + self._hover - 0.03, servo(gripper, above, CLOSE)),
        ]
        return np.select(
            [rule[:, None] for rule, _ in rules],
            [action for _, action in rules],
            servo(gripper, over, CLOSE),
        )
