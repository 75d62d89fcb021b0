"""What the modes set where an argument is left open: table 2.8 of the paper's code."""

from __future__ import annotations

from typing import Any, Literal

from rlzoo.errors import RefusedError

Mode = Literal["goalgail", "gail", "her", "her_bc", "bc"]
Base = Literal["ddpg", "td3", "sac"]

_COMMON: dict[str, Any] = {
    "batch_size": 256,
    "demo_batch_size": 96,
    "hindsight_p": 0.8,
    "goal_weight": 0.0,
    "gail_weight": 0.0,
    "bc_coef": 0.0,
    "n_disc_updates": 0,
    "distance_threshold": "env",
}
_HER = {"goal_weight": 1.0, "distance_threshold": "exact"}

MODES: dict[str, dict[str, Any]] = {
    "goalgail": {**_COMMON, "gail_weight": 0.1, "n_disc_updates": 20},
    "gail": {**_COMMON, "gail_weight": 0.1, "n_disc_updates": 20, "hindsight_p": 0.0},
    "her": {**_COMMON, **_HER, "demo_batch_size": 0},
    "her_bc": {**_COMMON, **_HER, "bc_coef": 0.1},
    "bc": {**_COMMON, "batch_size": 0, "demo_batch_size": 256, "bc_coef": 1.0, "hindsight_p": 0.0},
}


def resolve(mode: Mode, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the mode decides; those that are given (not None) win.

    Args:
        mode: Name of the mode.
        given: Values by name, None where the caller said nothing.
    """
    return {
        name: value if given[name] is None else given[name] for name, value in MODES[mode].items()
    }


def check_batches(
    mode: Mode, batch_size: int, demo_batch_size: int, bc_coef: float, q_filter: bool
) -> None:
    """Refuse batches from which nothing can be learned.

    Raises:
        RefusedError: For empty batches, cloning without demonstrations, or a filter by a critic
            that is not trained.
    """
    if batch_size + demo_batch_size == 0:
        raise RefusedError(
            "GoalGAIL: batch_size=0 and demo_batch_size=0 leave nothing to learn from.",
            "Allowed: at least one of them above 0.",
        )
    if bc_coef > 0 and demo_batch_size == 0:
        raise RefusedError(
            f"GoalGAIL: bc_coef={bc_coef} with demo_batch_size=0.",
            "Cloning needs rows of demonstrations with actions.",
            "Set bc_coef=0, or demo_batch_size above 0.",
        )
    if mode == "bc" and (batch_size > 0 or bc_coef == 0):
        raise RefusedError(
            f"GoalGAIL: mode='bc' with batch_size={batch_size}, bc_coef={bc_coef}.",
            "Allowed: batch_size=0 and bc_coef above 0; it is cloning and nothing else.",
            "Use mode='her_bc' to learn from interaction, too.",
        )
    if mode == "bc" and q_filter:
        raise RefusedError(
            "GoalGAIL: q_filter=True in mode='bc'.",
            "There is no critic in this mode that could choose among demonstrations.",
            "Use mode='her_bc'.",
        )
