"""The control tasks of ``rlzoo.envs.pets``: rewards, features, what a denoiser should see.

Section 4 of the page of DAE-MPC; rewards are those of the state after the step, and equal to what
the environments pay.
"""

from __future__ import annotations

import torch as th

from rlzoo.core.mpc_tasks.base import MpcTask

POLE = 0.6
ARM_BASE = (0.0, -0.188, 0.0)
PUSHER_GOAL = (0.45, -0.05, -0.323)

# Axis of a joint, and how far it is from there to the next one, along the link.
_LINKS = (("z", 0.1), ("y", 0.0), ("x", 0.4), ("y", 0.0), ("x", 0.321), ("y", 0.16828))


def cartpole_reward(_: th.Tensor, actions: th.Tensor, observations: th.Tensor) -> th.Tensor:
    """Return ``exp(-|tip - (0, 0.6)|^2 / 0.36) - 0.01 a^2``, ``[N]``."""
    position, angle = observations[..., 0], observations[..., 1]
    across, up = position - POLE * angle.sin(), -POLE * angle.cos()
    distance = across.square() + (up - POLE).square()
    return (-distance / POLE**2).exp() - 0.01 * actions.square().sum(-1)


def cartpole_features(observations: th.Tensor) -> th.Tensor:
    """Return sine and cosine of the angle, position, and both velocities, ``[N, 5]``."""
    angle = observations[..., 1:2]
    return th.cat((angle.sin(), angle.cos(), observations[..., :1], observations[..., 2:]), -1)


def end_effector(angles: th.Tensor) -> th.Tensor:
    """Return where the arm of ``Reacher7DoF`` ends, ``[N, 3]``.

    A product of rotations, which holds for all angles. The formula of HoT takes another branch
    where a model predicts an elbow beyond its limit; a planner finds such holes.

    Args:
        angles: Of the first six joints or more, ``[N, 6+]``; the seventh turns the hand only.
    """
    # The frame of a link as three columns; only the first one is a direction that is walked.
    eye = th.eye(3, dtype=angles.dtype, device=angles.device)
    frame = [column.expand(*angles.shape[:-1], 3) for column in eye]
    place = th.tensor(ARM_BASE, dtype=angles.dtype, device=angles.device).expand_as(frame[0])
    for index, (axis, length) in enumerate(_LINKS):
        sine, cosine = angles[..., index : index + 1].sin(), angles[..., index : index + 1].cos()
        x, y, z = frame
        if axis == "x":
            frame = [x, cosine * y + sine * z, cosine * z - sine * y]
        elif axis == "y":
            frame = [cosine * x - sine * z, y, cosine * z + sine * x]
        else:
            frame = [cosine * x + sine * y, cosine * y - sine * x, z]
        if length:
            place = place + length * frame[0]
    return place


def arm_reward(_: th.Tensor, actions: th.Tensor, observations: th.Tensor) -> th.Tensor:
    """Return ``-|end - goal|^2 - 0.01 |a|^2``, ``[N]``."""
    miss = end_effector(observations[..., :7]) - observations[..., 7:10]
    return -miss.square().sum(-1) - 0.01 * actions.square().sum(-1)


def pusher_reward(_: th.Tensor, actions: th.Tensor, observations: th.Tensor) -> th.Tensor:
    """Return ``-1.25 |object - goal|_1 - 0.5 |object - tip|_1 - 0.1 |a|^2``, ``[N]``."""
    tip, thing = observations[..., 14:17], observations[..., 17:20]
    goal = th.tensor(PUSHER_GOAL, dtype=thing.dtype, device=thing.device)
    to_goal, to_tip = (thing - goal).abs().sum(-1), (thing - tip).abs().sum(-1)
    return -1.25 * to_goal - 0.5 * to_tip - 0.1 * actions.square().sum(-1)


def cheetah_reward(_: th.Tensor, actions: th.Tensor, observations: th.Tensor) -> th.Tensor:
    """Return the forward velocity less ``0.1 |a|^2``, ``[N]``."""
    return observations[..., 0] - 0.1 * actions.square().sum(-1)


def cheetah_features(observations: th.Tensor) -> th.Tensor:
    """Return height, sine and cosine of the pitch, angles and velocities, ``[N, 18]``."""
    height, pitch = observations[..., 1:2], observations[..., 2:3]
    return th.cat((height, pitch.sin(), pitch.cos(), observations[..., 3:]), -1)


def ant_reward(_: th.Tensor, __: th.Tensor, observations: th.Tensor) -> th.Tensor:
    """Return the forward velocity, ``[N]``."""
    return observations[..., 0]


def _all_but_velocity(observations: th.Tensor) -> th.Tensor:
    return observations[..., 1:]


CARTPOLE = MpcTask(
    "rlzoo/PETSCartPole-v0", n_observations=4, n_actions=1, reward=cartpole_reward,
    features=cartpole_features,
)  # fmt: skip
# The goal is the same for a whole episode: a denoiser would find every new one unfamiliar.
ARM = MpcTask(
    "rlzoo/Reacher7DoF-v0", n_observations=17, n_actions=7, reward=arm_reward,
    dae_dims=(*range(7), *range(10, 17)),
)  # fmt: skip
PUSHER = MpcTask("rlzoo/PETSPusher-v0", n_observations=20, n_actions=7, reward=pusher_reward)
# The mean velocity of a step is predicted as it is, and nothing is predicted from it.
CHEETAH = MpcTask(
    "rlzoo/PETSHalfCheetah-v0", n_observations=18, n_actions=6, reward=cheetah_reward,
    features=cheetah_features, value_dims=(0,),
)  # fmt: skip
ANT = MpcTask(
    "rlzoo/Ant30-v0", n_observations=28, n_actions=8, reward=ant_reward,
    features=_all_but_velocity, value_dims=(0,),
)  # fmt: skip

TASKS = (CARTPOLE, ARM, PUSHER, CHEETAH, ANT)
