"""One ``make_vec`` for every family of environments."""

from rlzoo.envs.make import make_env, make_vec

__all__ = ["make_env", "make_vec"]
