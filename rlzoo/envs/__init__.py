"""One ``make_vec`` for every family of environments."""

from rlzoo.envs import foraging, goals, grid, multiroom, pets, swingup
from rlzoo.envs.checks import check_action_space, check_api, check_env_id, policy_for
from rlzoo.envs.make import make_env, make_vec
from rlzoo.envs.training import EnvFailedError, TrainingVecEnv

__all__ = [
    "EnvFailedError",
    "TrainingVecEnv",
    "check_action_space",
    "check_api",
    "check_env_id",
    "make_env",
    "make_vec",
    "policy_for",
]

foraging.register()
goals.register()
grid.register()
multiroom.register()
pets.register()
swingup.register()
