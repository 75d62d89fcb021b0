"""The base class of agents that learn from a fixed data set, shaped like any SB3 agent.

What differs from an online agent:

* ``total_timesteps`` of :meth:`OfflineAlgorithm.learn` and ``num_timesteps`` count **gradient
  steps**, so callbacks, schedules, the progress bar and TensorBoard's x-axis work unchanged;
* an environment is optional: a :class:`SpacesOnlyVecEnv` stands in when data are given without one.

:meth:`OfflineAlgorithm.learn_online` goes on by interaction, as any off-policy agent of SB3.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Self, cast

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.core.arguments import check_arguments
from rlzoo.core.dataset_buffer import DatasetBuffer, FileLike, TransitionsLike
from rlzoo.core.device import resolve_device
from rlzoo.core.finite import check_finite
from rlzoo.core.online_buffer import OnlineBuffer
from rlzoo.core.safe_zip import SafeSaveMixin
from rlzoo.core.seeding import check_seed
from rlzoo.core.spaces import same_values
from rlzoo.errors import RefusedError

# core may not import data: names and files are turned into data sets by this function, found by
# its path when it is first needed.
DATASET_LOADER = "rlzoo.data.load:load_dataset"

FINITE_CHECK_EVERY = 100

# Where agents add up what they log, on the device, and the number of updates in it.
_LOG_SUMS = {"_sums", "_n_summed"}


class SpacesOnlyEnv(gym.Env[Any, Any]):
    """An environment that has spaces and can be reset to zeros, but refuses to step."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Return zeros in the shape of the observation space."""
        super().reset(seed=seed)
        space = self.observation_space
        return np.zeros(space.shape or (), dtype=space.dtype), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Refuse: there is nothing to step."""
        raise RefusedError(
            "This agent has data but no environment, so it cannot be stepped.",
            "Give it one: model.set_env(env).",
        )


class SpacesOnlyVecEnv(DummyVecEnv):
    """One :class:`SpacesOnlyEnv`, the stand-in where batch data have no environment.

    SB3's training loop and its callbacks demand one. A ``DummyVecEnv``, because ``EvalCallback``
    warns when training and evaluation environments are of different kinds.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        super().__init__([lambda: SpacesOnlyEnv(observation_space, action_space)])


def _load(dataset: Any) -> TransitionsLike:
    module, _, function = DATASET_LOADER.partition(":")
    return cast(TransitionsLike, getattr(importlib.import_module(module), function)(dataset))


class OfflineAlgorithm(SafeSaveMixin, OffPolicyAlgorithm):
    """Plumbing of batch-RL agents; the update itself is in the ``train`` of the agent.

    A subclass implements ``train(gradient_steps, batch_size)`` and adds what it wants logged to
    ``self._sums`` (a device tensor, see :meth:`_log_training`).

    Args:
        policy: Policy class or alias.
        env: Environment, id of one, or None when ``dataset`` is given.
        dataset: Data set: a ``Transitions``, an SB3 replay buffer, a Minari id, or the path of a
            Minari folder or D4RL HDF5 file. It is not saved with the agent; its name and
            fingerprint are.
        learning_rate: Learning rate, or a function of the remaining progress (1 to 0).
        arguments: Every constructor argument by name, checked against the annotated ranges.
        kwargs: Passed on to SB3's ``OffPolicyAlgorithm``.
    """

    dataset_id: str | None
    dataset_fingerprint: str | None

    SB3_ARGUMENTS: ClassVar[dict[str, Any]] = {
        "support_multi_env": True, "sde_support": False, "supported_action_spaces": (spaces.Box,),
    }  # fmt: skip
    """What the next constructor takes beside the user's arguments."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        dataset: Any,
        learning_rate: float | Schedule,
        arguments: dict[str, Any],
        **kwargs: Any,
    ) -> None:
        check_arguments(type(self).__init__, arguments, owner=type(self).__name__)
        if kwargs.get("seed") is not None:
            kwargs["seed"] = check_seed(kwargs["seed"])
        kwargs["device"] = resolve_device(kwargs.get("device", "auto"))
        data = None if dataset is None else _load(dataset)
        if data is not None and env is None:
            env = SpacesOnlyVecEnv(data.observation_space, data.action_space)
        self.dataset_id = self.dataset_fingerprint = None
        self._pending_data = data
        try:
            super().__init__(
                policy, cast(Any, env), learning_rate, learning_starts=0, **self.SB3_ARGUMENTS,
                **kwargs,
            )  # fmt: skip
        except AssertionError as error:  # SB3's checks of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        if not hasattr(self, "observation_space"):
            raise RefusedError(
                f"{type(self).__name__} was given neither an environment nor a data set.",
                "It takes its observation and action space from one of them.",
                "Pass dataset=… (enough for training), or env=…",
            )
        self._build()
        data, self._pending_data = getattr(self, "_pending_data", None), None
        if data is not None:
            self._install(data)

    def _build(self) -> None:
        """Make schedules and networks."""
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self._policy_arguments()
        ).to(self.device)
        self._convert_train_freq()

    def _policy_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the policy."""
        return self.policy_kwargs

    def set_dataset(self, dataset: Any) -> None:
        """Put a data set on the device; training continues on it.

        Args:
            dataset: As in the constructor.

        Raises:
            RefusedError: If its spaces are not those of the agent, or it cannot be read.
        """
        self._install(_load(dataset))

    def _install(self, data: TransitionsLike) -> None:
        self._check_spaces(data)
        if self.env is None:
            self.set_env(SpacesOnlyVecEnv(data.observation_space, data.action_space))
        self.replay_buffer = DatasetBuffer(data, self.device)
        self.dataset_id, self.dataset_fingerprint = data.dataset_id, data.fingerprint
        self._on_new_data()

    def _on_new_data(self) -> None:
        """Forget what was derived from the previous data set (a captured update)."""

    def _check_spaces(self, data: TransitionsLike) -> None:
        for name, mine, theirs in (
            ("observation", self.observation_space, data.observation_space),
            ("action", self.action_space, data.action_space),
        ):
            same = mine.shape == theirs.shape and type(mine) is type(theirs)
            if same and name == "action" and isinstance(mine, spaces.Box):
                other = cast(spaces.Box, theirs)
                same = np.allclose(mine.low, other.low) and np.allclose(mine.high, other.high)
            if not same:
                raise RefusedError(
                    f"Data set {data.dataset_id!r} has {name} space {theirs}.",
                    f"This {type(self).__name__} was made for {mine}.",
                    "Take data of the same environment and version (v4 and v5 may differ).",
                )

    # ---------------------------------------------------------------- training

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Take ``total_timesteps`` gradient steps on the data set.

        Args:
            total_timesteps: Number of gradient steps.
            callback: As in SB3; ``on_step`` is called after every gradient step, and a "rollout"
                is ``log_interval`` steps.
            log_interval: Gradient steps between two log lines; None logs nothing by itself.
            tb_log_name: Name of the run in TensorBoard; the name of the class by default.
            reset_num_timesteps: Start counting at 0; False continues counters and log folder.
            progress_bar: Show SB3's progress bar.

        Returns:
            The agent itself.

        Raises:
            RefusedError: If there is no data set, or ``total_timesteps`` is negative.
            NonFiniteError: If a loss is not finite; the weights are left as they are.
        """
        if total_timesteps < 0:
            raise RefusedError(
                f"total_timesteps={total_timesteps} is out of range.", "Allowed: [0, inf)."
            )
        self._require_data()
        if self._vec_normalize_env is not None:
            self._on_new_data()  # its statistics may be others than at the last call
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps,
            tb_log_name or type(self).__name__, progress_bar,
        )  # fmt: skip
        callback.on_training_start(locals(), globals())
        keep_on = True
        while keep_on and self.num_timesteps < total_timesteps:
            # Log lines at multiples of the interval, wherever an interrupted training goes on.
            interval = log_interval or 1000
            steps = interval - self.num_timesteps % interval
            steps = min(steps, total_timesteps - self.num_timesteps)
            callback.on_rollout_start()
            keep_on = self._take_steps(steps, total_timesteps, callback)
            callback.on_rollout_end()
            if keep_on and log_interval is not None:
                self.dump_logs()
        callback.on_training_end()
        return self

    def _take_steps(self, steps: int, total_timesteps: int, callback: BaseCallback) -> bool:
        # The names that SB3's own callbacks look up in the locals of the training loop.
        new_obs = self._last_obs
        infos: list[dict[str, Any]] = [{} for _ in range(self.n_envs)]
        rewards, dones = np.zeros(self.n_envs, np.float32), np.zeros(self.n_envs, np.bool_)
        for _ in range(steps):
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            if self.num_timesteps % FINITE_CHECK_EVERY == 0:
                self.check_finite()
            callback.update_locals(locals())
            if not callback.on_step():
                return False
        self.check_finite()
        return True

    def learn_online(
        self,
        total_timesteps: int,
        env: GymEnv | None = None,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        buffer_size: int = 1_000_000,
        action_noise: ActionNoise | None = None,
    ) -> Self:
        """Go on by interaction: SB3's off-policy loop, one update per step, the data kept.

        Weights, optimisers, multipliers and the number of updates stay as :meth:`learn` left them.
        Transitions are added behind the data (:class:`~rlzoo.core.online_buffer.OnlineBuffer`) and
        batches are drawn from both; ``save_replay_buffer`` writes both.

        Args:
            total_timesteps: Steps in the environment.
            env: Environment; None keeps the one that the agent has.
            callback: As in SB3.
            log_interval: Episodes between two log lines.
            tb_log_name: Name of the run in TensorBoard; ``<class>_online`` by default.
            reset_num_timesteps: Count steps from 0, in a log folder of its own.
            progress_bar: Show SB3's progress bar.
            buffer_size: Transitions of the interaction that are kept. A later call goes on with
                what it finds.
            action_noise: Exploration noise, which a deterministic policy (TD3) needs.

        Returns:
            The agent itself.

        Raises:
            RefusedError: If there are no data or no environment to step, or a number is negative.
            NonFiniteError: If a loss is not finite.
        """
        if total_timesteps < 0 or buffer_size < 1:
            raise RefusedError(
                f"total_timesteps={total_timesteps}, buffer_size={buffer_size}: out of range.",
                "Allowed: [0, inf) and [1, inf).",
            )
        self._require_data()
        if env is not None:
            self.set_env(env)
        if self.env is None or isinstance(self.env.unwrapped, SpacesOnlyVecEnv):
            raise RefusedError(
                f"{type(self).__name__} has data but no environment to interact with.",
                todo="Pass env=… to learn_online(), or call set_env(env).",
            )
        if not isinstance(self.replay_buffer, OnlineBuffer):
            self.replay_buffer = OnlineBuffer(cast(DatasetBuffer, self.replay_buffer), buffer_size)
            self._on_new_data()
        self.action_noise = action_noise
        return super().learn(
            total_timesteps, callback, log_interval,
            tb_log_name or f"{type(self).__name__}_online", reset_num_timesteps, progress_bar,
        )  # fmt: skip

    def _on_step(self) -> None:
        """Look at the losses now and then while interacting."""
        if self._n_updates % FINITE_CHECK_EVERY == 0:
            self.check_finite()

    def _require_data(self) -> None:
        if not isinstance(self.replay_buffer, DatasetBuffer):
            raise RefusedError(
                f"{type(self).__name__} has no data set to learn from.",
                "It learns from a fixed data set, not from interaction.",
                "Pass dataset=… to the constructor, or call set_dataset(…) after load().",
            )

    def check_finite(self) -> None:
        """Raise ``NonFiniteError`` if a sum of losses is not finite. One host synchronisation."""
        check_finite(self._finite_candidates(), self.num_timesteps)

    def _finite_candidates(self) -> dict[str, th.Tensor]:
        return {}

    def dump_logs(self) -> None:
        """Write one log line: SB3's time and progress tags and what the agent recorded."""
        self._log_training()
        super().dump_logs()

    def _log_training(self) -> None:
        """Record the agent's training metrics (the only place where they leave the device)."""

    # ------------------------------------------------------------ exact resume

    def get_extra_state(self) -> dict[str, Any]:
        """Return what an exact continuation needs and ``save`` leaves out: the open log sums."""
        return {name: getattr(self, name) for name in _LOG_SUMS if hasattr(self, name)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` returned."""
        for name in _LOG_SUMS & state.keys():
            value = state[name]
            setattr(self, name, value.to(self.device) if isinstance(value, th.Tensor) else value)

    # --------------------------------------------------------------- SB3 hooks

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment; another number of copies than before is fine, none is stepped.

        Raises:
            ValueError: If its spaces are not those of the agent.
        """
        env = self._wrap_env(env, self.verbose)
        observation, action = self.observation_space, self.action_space
        # Data sets hold float32 where environments have float64: the environment's dtype wins.
        if same_values(env.observation_space, observation):
            observation = env.observation_space
        if same_values(env.action_space, action):
            action = env.action_space
        check_for_correct_spaces(env, observation, action)
        self.observation_space, self.action_space, self.n_envs = observation, action, env.num_envs
        super().set_env(env, force_reset)
        self._on_new_data()  # it may normalise, or no longer

    def save_replay_buffer(self, path: FileLike) -> None:
        """Write the data set as ``.npz`` (SB3 would pickle it), to a path or an open file."""
        self._require_data()
        cast(DatasetBuffer, self.replay_buffer).save(path)

    def load_replay_buffer(self, path: FileLike, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote; nothing is unpickled."""
        self.replay_buffer = DatasetBuffer.restore(
            path, self.observation_space, self.action_space, self.device
        )
        self._on_new_data()
        if self.env is None:
            self.set_env(SpacesOnlyVecEnv(self.observation_space, self.action_space))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_pending_data"]
