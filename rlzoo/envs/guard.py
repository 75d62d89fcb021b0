"""Knowing which copy of an environment failed, and why, wherever it runs.

SB3's vectors lose both: an exception in a worker process arrives as ``EOFError``, a worker that
hangs blocks for ever, and in one process nothing says which copy raised. ``make_vec`` therefore
puts a :class:`Guard` around each copy and runs processes behind a
:class:`~rlzoo.envs.workers.WorkerVecEnv`.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy.typing as npt

from rlzoo.envs.checks import first_line
from rlzoo.errors import FailedError, RlzooError

_log = logging.getLogger(__name__)

MAKE = "make"
"""The call that failed, when there is no environment yet."""


class EnvFailedError(FailedError):
    """An environment raised, or its process died or hung.

    Args:
        given: Which environment, and what happened.
        allowed: Seed, steps and action that led there.
        todo: What may help.
        index: Index of the environment in its vector, from 0.
        seed: Seed of its last seeding; None while unknown.
        step: Steps since then, counting the one that failed; 0 for the seeded reset itself.
        action: The last action, of shape ``action_space.shape``; None before the first.
    """

    def __init__(
        self,
        given: str,
        allowed: str = "",
        todo: str = "",
        *,
        index: int = -1,
        seed: int | None = None,
        step: int | None = None,
        action: npt.NDArray[Any] | None = None,
    ) -> None:
        super().__init__(given, allowed, todo)
        self.index, self.seed, self.step, self.action = index, seed, step, action


@dataclass(frozen=True)
class Failure:
    """An exception of an environment as text, which can always be sent to another process.

    Args:
        call: ``"step"``, ``"reset"`` or ``MAKE``.
        problem: Type and first line of the message.
        trace: The traceback, as Python prints it.
    """

    call: str
    problem: str
    trace: str

    @classmethod
    def of(cls, call: str, error: Exception) -> Failure:
        """Describe an exception that has been caught."""
        trace = "".join(traceback.format_exception(error))
        return cls(call, describe_error(error), trace)


def describe_error(error: Exception) -> str:
    """Return type and first line of the message; rlzoo's own errors need no type."""
    text = first_line(error).removesuffix(".")
    plain = isinstance(error, RlzooError) or not str(error).strip()
    return text if plain else f"{type(error).__name__}: {text}"


def failed_error(
    index: int, n_envs: int, call: str, problem: str, todo: str = ""
) -> EnvFailedError:
    """Return the error for environment ``index`` of ``n_envs``, which failed in ``call``."""
    which = f"Environment {index}" + (f" (of 0 to {n_envs - 1})" if n_envs > 1 else "")
    what = "cannot be made" if call == MAKE else f"failed in {call}"
    return EnvFailedError(f"{which} {what}: {problem}.", todo=todo, index=index)


class Guard(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the exception of an environment for whoever owns the vector; else changes nothing.

    Args:
        env: The environment.
        remote: Whether this is a worker process. There an exception would end the process and be
            lost, so it is returned as a :class:`Failure` in place of the observation, which
            ``WorkerVecEnv`` raises again. In the process of the vector it passes.
    """

    def __init__(self, env: gym.Env[Any, Any], remote: bool = False) -> None:
        super().__init__(env)
        self.remote = remote
        self.error: Exception | None = None
        self.failed_call = ""

    def step(self, action: Any) -> Any:
        """Step the environment."""
        try:
            return self.env.step(action)
        except Exception as error:
            self._keep(error, "step")
            return Failure.of("step", error), 0.0, False, False, {}

    def reset(self, **kwargs: Any) -> Any:
        """Reset the environment."""
        try:
            return self.env.reset(**kwargs)
        except Exception as error:
            self._keep(error, "reset")
            return Failure.of("reset", error), {}

    def close(self) -> None:
        """Close the environment; an error is logged, because the other copies are to be closed."""
        try:
            self.env.close()
        except Exception as error:
            _log.warning("Closing an environment: %s.", describe_error(error))

    def _keep(self, error: Exception, call: str) -> None:
        self.error, self.failed_call = error, call
        if not self.remote:
            raise error


class Unmade(gym.Env[Any, Any]):
    """Stands in for an environment that could not be made in its worker, and says why."""

    def __init__(self, error: Exception, render_mode: str | None) -> None:
        failure: Any = Failure.of(MAKE, error)
        self.observation_space = self.action_space = failure
        self.render_mode = render_mode


def find_guard(env: gym.Env[Any, Any]) -> Guard | None:
    """Return the guard among the wrappers of an environment."""
    while isinstance(env, gym.Wrapper):
        if isinstance(env, Guard):
            return env
        env = env.env
    return None
