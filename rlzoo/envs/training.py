"""The vector of environments of a training: failures that can be found again, and exact replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from rlzoo.envs.guard import EnvFailedError, describe_error, failed_error, find_guard
from rlzoo.envs.workers import WorkerVecEnv
from rlzoo.errors import RefusedError

__all__ = ["EnvFailedError", "TrainingVecEnv"]


class TrainingVecEnv(VecEnvWrapper):
    """Around ``make_vec(...)``: says what failed after what, and records how to come back here.

    **Failures.** When an environment raises, or its process dies or does not answer in time,
    :class:`EnvFailedError` names the environment, its seed, how far it was and the last action.
    Every later step raises it again; :meth:`close` still works, and ends processes that hang.
    An environment that hangs in this process (``processes=False``) cannot be interrupted.

    **Replay.** The state of an environment follows from the seed of its last seeding and the
    actions since then. ``replay(seeds, actions, resets)`` with :attr:`seeds`,
    :meth:`actions_since_barrier` and :meth:`resets_since_barrier` of one vector brings a fresh one
    into the same state, for every environment that draws from its own seeded generator only. What
    ``env_method``, ``set_attr`` or reset options did is not recorded. An environment that draws
    from a global generator draws in the replay too: restore global generators afterwards.

    Args:
        venv: From :func:`rlzoo.envs.make_vec`.
        timeout: Seconds that a process may take for an answer, above 0; None waits for ever.
            Without effect on environments in this process.

    Raises:
        RefusedError: If the timeout is out of range.
    """

    def __init__(self, venv: VecEnv, timeout: float | None = None) -> None:
        if timeout is not None and not 0 < timeout < math.inf:
            raise RefusedError(f"timeout={timeout} is out of range.", "Allowed: above 0 seconds.")
        super().__init__(venv)
        self._base = venv.unwrapped
        if isinstance(self._base, WorkerVecEnv):
            self._base.timeout = timeout
        self._failed: EnvFailedError | None = None
        self.seeds: list[int] | None = None
        """Seeds of the last seeding, by environment; None before the first reset."""
        self._log: list[npt.NDArray[Any]] = []
        self._resets: list[int] = []
        self._pending: npt.NDArray[Any] | None = None
        self._episodes = np.zeros(venv.num_envs, np.int64)

    # --- stepping --------------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Reset all environments; with seeds set on the innermost vector a new log begins.

        Raises:
            EnvFailedError: If an environment fails.
        """
        self._check_usable()
        self._begin([seed for seed in self._base._seeds if seed is not None])
        try:
            observations = self.venv.reset()
        except Exception as error:
            self._fail(error)
        self.reset_infos = self._base.reset_infos
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Start a step.

        Args:
            actions: Shape [n_envs, *action shape]. All actions since the last seeding have one
                dtype: that of the first, into which later ones are cast if they differ.

        Raises:
            EnvFailedError: If an environment fails.
            TypeError: If the actions cannot be cast.
        """
        self._check_usable()
        if self._log and actions.dtype != self._log[0].dtype:
            actions = actions.astype(self._log[0].dtype, casting="same_kind")
        # A copy, as an environment may change its action in place.
        self._pending = actions.copy()
        try:
            self.venv.step_async(actions)
        except Exception as error:
            self._fail(error)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish the step; its actions count from now on.

        Raises:
            EnvFailedError: If an environment fails. The log ends before this step.
        """
        try:
            result = self.venv.step_wait()
        except Exception as error:
            self._fail(error)
        if self._pending is not None:
            self._log.append(self._pending)
            self._pending = None
        if True in result[2].tolist():  # NumPy's own reductions cost microseconds on so few.
            self._episodes += result[2]
        self.reset_infos = self._base.reset_infos
        self._check_numbers(result[0], result[1])
        return result

    # --- replay ----------------------------------------------------------------------------------

    def barrier(self, seeds: Sequence[int]) -> VecEnvObs:
        """Reset every environment with its seed and begin a new log.

        Args:
            seeds: One per environment.

        Returns:
            The first observations.

        Raises:
            RefusedError: If the number of seeds is wrong.
            EnvFailedError: If an environment fails.
        """
        self.set_seeds(seeds)
        return self.reset()

    def set_seeds(self, seeds: Sequence[int]) -> None:
        """Give every environment a seed for its next reset.

        Unlike ``seed``, which adds the index of the environment to one seed.

        Args:
            seeds: One per environment.

        Raises:
            RefusedError: If the number of seeds is wrong.
        """
        if len(seeds) != self.num_envs:
            raise RefusedError(
                f"{len(seeds)} seeds.", f"Needed: one per environment, {self.num_envs}."
            )
        self._base._seeds = [int(seed) for seed in seeds]

    def actions_since_barrier(self) -> npt.NDArray[Any]:
        """Return the actions since the last seeding, of shape [T, n_envs, *action shape].

        T may be 0. The dtype is that of the actions as they were given.
        """
        if self._log:
            return np.stack(self._log)
        shape = self.action_space.shape or ()
        return np.empty((0, self.num_envs, *shape), self.action_space.dtype)

    def resets_since_barrier(self) -> list[int]:
        """Return the numbers of steps after which all were reset without a seed; seldom any."""
        return list(self._resets)

    def replay(
        self, seeds: Sequence[int], actions: npt.NDArray[Any], resets: Sequence[int] = ()
    ) -> VecEnvObs:
        """Bring the environments into the state that another vector was in.

        Args:
            seeds: :attr:`seeds` of the other one.
            actions: Its :meth:`actions_since_barrier`, in the same dtype.
            resets: Its :meth:`resets_since_barrier`.

        Returns:
            The last observations.

        Raises:
            RefusedError: If the number of seeds is wrong.
            EnvFailedError: If an environment fails.
        """
        observations = self.barrier(seeds)
        again = list(resets)
        for done, row in enumerate(np.array(actions)):
            while again and again[0] == done:
                observations, _ = self.reset(), again.pop(0)
            observations = self.step(row)[0]
        for _ in again:
            observations = self.reset()
        return observations

    # --- failures --------------------------------------------------------------------------------

    def _begin(self, seeds: list[int]) -> None:
        """Note a reset, before it is done: it may fail."""
        self._pending = None
        if len(seeds) == self.num_envs:
            self.seeds = seeds
            self._log, self._resets = [], []
            self._episodes[:] = 0
        else:
            self._resets.append(len(self._log))

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _check_numbers(self, observations: VecEnvObs, rewards: npt.NDArray[Any]) -> None:
        """Raise if an environment gave a NaN or an infinity, before anything learns from it."""
        parts = observations.values() if isinstance(observations, dict) else [observations]
        named = [("a reward", rewards), *(("an observation", np.asarray(part)) for part in parts)]
        for what, values in named:
            if values.dtype.kind != "f" or np.isfinite(values).all():
                continue
            index = int(np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))[0])
            problem = f"it gave {what} that is not finite"
            self._fail(failed_error(index, self.num_envs, "step", problem))

    def _fail(self, error: Exception) -> NoReturn:
        """Raise the error that names the environment, or pass one that no environment raised."""
        failed = error if isinstance(error, EnvFailedError) else self._find(error)
        if failed is None:
            raise error
        cause = error.__cause__ if failed is error else error
        index = failed.index
        failed.seed = None if self.seeds is None else self.seeds[index]
        failed.step = len(self._log) + (self._pending is not None)
        tried = [*self._log[-1:], *([] if self._pending is None else [self._pending])]
        failed.action = tried[-1][index] if tried else None
        since = f"{self._episodes[index]} episodes and {failed.step} steps ago"
        failed.allowed = (
            f"Last seeded with {failed.seed}, {since}; "
            f"last action: {'none' if failed.action is None else short(failed.action)}."
        )
        self._failed = failed
        raise failed from cause

    def _find(self, error: Exception) -> EnvFailedError | None:
        """Return which environment of this process raised the error."""
        envs = self._base.envs if isinstance(self._base, DummyVecEnv) else []
        for index, env in enumerate(envs):
            guard = find_guard(env)
            if guard is not None and guard.error is error:
                problem = describe_error(error)
                return failed_error(index, self.num_envs, guard.failed_call, problem)
        return None


def short(action: npt.NDArray[Any], length: int = 120) -> str:
    """Return an action in one line of at most ``length`` characters."""
    text = np.array2string(action, precision=4, threshold=8, separator=", ")
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
