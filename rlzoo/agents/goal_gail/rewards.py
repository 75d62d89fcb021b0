"""The reward of a transition from the discriminator and from success; the bound of values."""

from __future__ import annotations

import math
from typing import Literal

import torch as th
from torch.nn import functional as F  # noqa: N812

from rlzoo.errors import RefusedError

GailReward = Literal["log_d", "logit", "neg_log_one_minus_d", "prob"]
POSITIVE_REWARDS = ("neg_log_one_minus_d", "prob")
_TINY = 1e-8
_FLOOR = math.log(_TINY)


def gail_reward(kind: GailReward, logits: th.Tensor) -> th.Tensor:
    """Return ``r_G`` for raw outputs of the discriminator (high: like the expert).

    Args:
        kind: ``"log_d"``: log of the sigmoid, in [-18.42, 0]; ``"logit"``: the output itself;
            ``"neg_log_one_minus_d"``: -log(1 - sigmoid), in [0, 18.42]; ``"prob"``: the sigmoid.
        logits: ``[B]``.
    """
    if kind == "log_d":
        return F.logsigmoid(logits).clamp(min=_FLOOR)
    if kind == "neg_log_one_minus_d":
        return -F.logsigmoid(-logits).clamp(min=_FLOOR)
    return logits if kind == "logit" else logits.sigmoid()


def reward(
    success: th.Tensor,
    r_gail: th.Tensor | None,
    goal_weight: float,
    gail_weight: th.Tensor | float,
    clip: float | None = None,
) -> th.Tensor:
    """Return ``w_g s + delta clip(r_G, -b, b)``.

    Args:
        success: ``[B]`` bool.
        r_gail: ``[B]``, or None where the discriminator has no weight.
        goal_weight: ``w_g``.
        gail_weight: ``delta``.
        clip: ``b``, None for none.
    """
    total = goal_weight * success.float()
    if r_gail is None:
        return total
    if clip is not None:
        r_gail = r_gail.clamp(-clip, clip)
    return total + gail_weight * r_gail


def largest_value(kind: GailReward, goal_weight: float, gamma: float, terminate: bool) -> float:
    """Return ``y_max``, which no value can exceed.

    With ``log_d`` every reward but that of the goal is at most 0, and the goal ends the sum; where
    it does not end it, success may repeat. Other discriminator rewards have no bound.
    """
    if kind != "log_d":
        return math.inf
    if terminate or goal_weight == 0:
        return goal_weight
    return goal_weight / (1 - gamma) if gamma < 1 else math.inf


def check_rewards(
    kind: GailReward, goal_weight: float, gail_weight: float, gail_anneal: float, terminate: bool
) -> None:
    """Refuse rewards that teach nothing, or to stay away from the goal.

    Raises:
        RefusedError: For a positive discriminator reward with termination on success, and for a
            discriminator reward that fades with nothing beside it.
    """
    if kind in POSITIVE_REWARDS and terminate and gail_weight > 0:
        raise RefusedError(
            f"GoalGAIL: gail_reward={kind!r} with terminate_on_success=True.",
            "Such rewards are positive, and success ends them: the best policy avoids the goal.",
            "Use gail_reward='log_d', or terminate_on_success=False.",
        )
    if gail_anneal < 1 and goal_weight == 0 and gail_weight > 0:
        raise RefusedError(
            f"GoalGAIL: gail_anneal={gail_anneal} with goal_weight=0.",
            "The discriminator's reward is the only one here, so all rewards would fade to 0.",
            "Leave gail_anneal at 1, or give success a reward by goal_weight.",
        )
