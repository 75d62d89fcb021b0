"""One ``make_vec`` for every family of environments."""

from rlzoo.envs.checks import check_action_space, check_api, check_env_id, policy_for
from rlzoo.envs.make import make_env, make_vec

__all__ = [
    "check_action_space",
    "check_api",
    "check_env_id",
    "make_env",
    "make_vec",
    "policy_for",
]
