"""What surrounds the update: episodes, demonstrations, networks, exploration, files.

The update itself is in :mod:`rlzoo.agents.goal_gail.goal_gail`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, Self, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import (
    GymEnv,
    MaybeCallback,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from rlzoo.agents.goal_gail.demonstrations import Demonstrations, as_goal_episodes, check_task
from rlzoo.agents.goal_gail.discriminator import (
    STATE_INPUTS,
    DiscInput,
    DiscObs,
    Discriminator,
    disc_width,
)
from rlzoo.agents.goal_gail.goal_replay import GoalReplayBuffer, demonstration_store
from rlzoo.agents.goal_gail.modes import Base, Mode
from rlzoo.agents.goal_gail.policies import GoalPolicy
from rlzoo.agents.goal_gail.relabel import EpisodeStore, GoalBatch, Success
from rlzoo.agents.goal_gail.success import (
    SuccessName,
    check_spaces,
    facts_of,
    task_success,
    termination_success,
)
from rlzoo.core.capture import Captured, adopt_loaded, make_adam, set_rate, wants_cuda_graph
from rlzoo.core.dataset_buffer import FileLike
from rlzoo.core.finite import check_finite
from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.core.model_file import ModelPath
from rlzoo.core.safe_zip import SafeSaveMixin
from rlzoo.errors import RefusedError


class GoalAlgorithm(SafeSaveMixin, OffPolicyAlgorithm):
    """An SB3 agent for goals with replay of whole episodes, demonstrations and a discriminator.

    A subclass keeps its constructor arguments as attributes and implements ``train``.
    """

    policy: GoalPolicy
    replay_buffer: GoalReplayBuffer | None
    mode: Mode
    base: Base
    horizon: int | None
    demo_batch_size: int
    n_disc_updates: int
    disc_lr: float
    disc_hidden: Sequence[int]
    disc_input: DiscInput
    disc_obs_keys: Sequence[DiscObs] | None
    gail_weight: float
    bc_coef: float
    distance_threshold: float | Literal["env", "exact"]
    success_fn: Success | SuccessName | None
    normalize: bool
    disc_normalize: bool
    random_eps: float
    ent_coef: float | Literal["auto"]
    capture: bool | Literal["auto"]
    discriminator: Discriminator | None = None
    disc_optimizer: th.optim.Adam | None = None
    demonstrations: GoalEpisodes | None = None
    _demo_store: EpisodeStore | None = None
    _task: Success | None = None
    _task_threshold: float | None = None

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        check_spaces(self.observation_space, type(self).__name__)
        self._refuse_vec_normalize(self._vec_normalize_env)
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        success = self._ask_environment()
        if self.replay_buffer is None:
            self.replay_buffer = self._make_buffer(success)
        self.policy = cast(Any, self.policy_class)(
            self.observation_space, self.action_space, self.lr_schedule, base=self.base,
            normalize=self.normalize, **self.policy_kwargs,
        ).to(self.device)  # fmt: skip
        self.policy.set_temperature(self.ent_coef)
        if self._uses_discriminator:
            self.discriminator = Discriminator(self._disc_width(), self.disc_hidden).to(self.device)
        # Annealed weights, where a graph can read them.
        self._gail_now = th.zeros((), device=self.device)
        self._bc_now = th.zeros((), device=self.device)
        self._make_optimizers()
        self._make_train_freq()
        self._make_noise()

    def _make_buffer(self, success: Success) -> GoalReplayBuffer:
        return GoalReplayBuffer(
            self.buffer_size, cast(spaces.Dict, self.observation_space), self.action_space,
            self.device, self.n_envs, success=success,
        )  # fmt: skip

    def _make_noise(self) -> None:
        noise_or_std: Any = self.action_noise
        if isinstance(noise_or_std, int | float):
            std = np.full(self._sizes["action"], noise_or_std, np.float32)
            noise = NormalActionNoise(np.zeros_like(std), std)
            self.action_noise = noise if std[0] > 0 else None

    @property
    def _uses_discriminator(self) -> bool:
        return self.gail_weight > 0 or self.n_disc_updates > 0

    @property
    def _sizes(self) -> dict[str, int]:
        parts = cast(spaces.Dict, self.observation_space).spaces
        sizes = {key: int(np.prod(space.shape or ())) for key, space in parts.items()}
        return {**sizes, "action": int(np.prod(self.action_space.shape or ()))}

    def _disc_width(self) -> int:
        sizes = self._sizes
        return disc_width(
            self.disc_input, self.disc_obs_keys or ("observation",), sizes["observation"],
            sizes["desired_goal"], sizes["action"],
        )  # fmt: skip

    def _ask_environment(self) -> Success:
        """Take from the environment what was left open; return when success ends the sum."""
        facts = facts_of(self.env)
        self.horizon = self.horizon or facts.horizon
        self._env_id = facts.env_id
        if self._task_threshold is None:
            self._task_threshold = facts.threshold
        if not isinstance(self.distance_threshold, str):
            self._task_threshold = self.distance_threshold
        goals = cast(spaces.Dict, self.observation_space)["desired_goal"]
        self._task = task_success(self.success_fn, self._task_threshold, goals, self.env)
        gamma: float | None = self.gamma
        if gamma is None:
            self.gamma = 1 - 1 / self._require_horizon("gamma")
        try:
            return termination_success(self._task, self.distance_threshold)
        except RefusedError:
            if self.env is not None:
                raise
            return _nobody_said  # loaded to predict

    def _require_horizon(self, argument: str) -> int:
        if self.horizon is None:
            raise RefusedError(
                f"{type(self).__name__}: the environment does not say how long an episode is.",
                f"It is needed for {argument}.",
                "Pass horizon=…, or make the environment with max_episode_steps=….",
            )
        return self.horizon

    def _make_train_freq(self) -> None:
        self._convert_train_freq()
        freq = cast(TrainFreq, self.train_freq)
        if freq.unit is TrainFrequencyUnit.EPISODE and self.n_envs > 1:
            steps = freq.frequency * self._require_horizon("train_freq with several environments")
            self.train_freq = TrainFreq(steps, TrainFrequencyUnit.STEP)  # type: ignore[assignment]

    def _make_optimizers(self) -> None:
        adam = partial(make_adam, graph=wants_cuda_graph(self.capture, self.device))
        self._first_rate = self.lr_schedule(1)
        self.policy.optimizer = adam(self.policy.trained, self._first_rate)
        if self.discriminator is not None:
            self.disc_optimizer = adam(self.discriminator.parameters(), self.disc_lr)
        self._forget_graphs()

    def _set_learning_rates(self) -> None:
        """Follow the schedule; the discriminator's rate is scaled with it."""
        rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", rate)
        set_rate(self.policy.optimizer, rate)
        if self.disc_optimizer is not None:
            scale = rate / self._first_rate if self._first_rate else 1.0
            set_rate(self.disc_optimizer, scale * self.disc_lr)

    # ----------------------------------------------------------- demonstrations

    def set_demonstrations(self, demonstrations: Demonstrations) -> None:
        """Set the demonstrations to learn from; after ``load`` they have to be given again.

        Demonstrations of states only make ``demo_batch_size`` and ``bc_coef`` 0: without actions
        they can teach the discriminator, not the critic or the actor.

        Args:
            demonstrations: ``GoalEpisodes``, a list of episodes, or an object with
                ``iterate_episodes`` such as a Minari data set.

        Raises:
            RefusedError: If they are of another task, or have no actions where these are needed.
        """
        episodes = as_goal_episodes(demonstrations)
        check_task(episodes, self._sizes, self._env_id)
        if episodes.state_only:
            self._check_states_are_enough()
            self.demo_batch_size, self.bc_coef = 0, 0.0
        self.demonstrations = episodes
        success = self._replay.success
        self._demo_store = demonstration_store(
            episodes, cast(spaces.Box, self.action_space), success, self.device
        )
        self._forget_graphs()

    def _check_states_are_enough(self) -> None:
        if self.mode in ("bc", "her_bc") or (
            self._uses_discriminator and self.disc_input not in STATE_INPUTS
        ):
            raise RefusedError(
                f"{type(self).__name__}: demonstrations without actions, "
                f"mode={self.mode!r}, disc_input={self.disc_input!r}.",
                "Allowed: mode 'goalgail' or 'gail' with disc_input 's_sp' or 's'.",
                "Take demonstrations with actions, or change one of these.",
            )

    @property
    def _needs_demonstrations(self) -> bool:
        return self.demo_batch_size > 0 or self.n_disc_updates > 0

    def _require_demonstrations(self) -> None:
        if self._needs_demonstrations and self.demonstrations is None:
            raise RefusedError(
                f"{type(self).__name__} has no demonstrations to learn from (mode={self.mode!r}).",
                "Allowed: GoalEpisodes, a list of episodes, or a Minari data set.",
                "Pass demonstrations=…; after load() set_demonstrations(…); or use mode='her'.",
            )

    # ------------------------------------------------------------------ acting

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Choose actions as SB3; then some vectors are replaced by uniform ones (step 1)."""
        actions, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        if self.random_eps > 0:
            replace = np.random.random(n_envs) < self.random_eps  # noqa: NPY002
            if replace.any():
                scaled[replace] = np.random.uniform(-1, 1, scaled[replace].shape)  # noqa: NPY002
                actions = self.policy.unscale_action(scaled)
        return actions, scaled

    # ------------------------------------------------------------ for the update

    @property
    def _replay(self) -> GoalReplayBuffer:
        if self.replay_buffer is None:
            raise RuntimeError("no replay buffer")
        return self.replay_buffer

    def _normalized(self, batch: GoalBatch) -> GoalBatch:
        """Return a batch as the discriminator sees it where its inputs are normalised."""
        normalizer, n = self.policy.normalizer, self._sizes["observation"]

        def both(observations: th.Tensor, goals: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            rows: th.Tensor = normalizer(th.cat((observations, goals), dim=-1))
            return rows[:, :n], rows[:, n:]

        now, goals = both(batch.observations, batch.goals)
        achieved = both(batch.observations, batch.achieved_goals)[1]
        later, next_achieved = both(batch.next_observations, batch.next_achieved_goals)
        return batch._replace(
            observations=now, goals=goals, achieved_goals=achieved, next_observations=later,
            next_achieved_goals=next_achieved,
        )  # fmt: skip

    def _log_episodes(self, replay: GoalReplayBuffer) -> None:
        """Record whether new episodes reached their own goal, ever and in the end."""
        if self._task is None:
            return
        for achieved, goals in replay.fresh_episodes():
            reached = self._task(th.from_numpy(achieved), th.from_numpy(goals))
            self.logger.record_mean("rollout/success_any", float(reached.any()))
            self.logger.record_mean("rollout/success_final", float(reached[-1]))

    def _log(self, names: Sequence[str], means: th.Tensor) -> None:
        """Record what updates have summed up: the only wait for the device."""
        values = means.cpu()
        check_finite({names[0].split("/")[0]: values}, self.num_timesteps)
        for name, value in zip(names, values.tolist(), strict=True):
            self.logger.record_mean(name, value)

    # ------------------------------------------------------------------ graphs

    def _forget_graphs(self) -> None:
        """Forget what was captured: it does not know tensors that were made since."""
        self._graphs: dict[tuple[str, int], Captured] = {}
        self._graph_buffer = self.replay_buffer

    def _run(self, name: str, update: Callable[[int], th.Tensor], size: int) -> th.Tensor:
        """Run an update, on CUDA as a graph."""
        if not wants_cuda_graph(self.capture, self.device):
            return update(size)
        if self._graph_buffer is not self.replay_buffer:
            self._forget_graphs()
        if (name, size) not in self._graphs:
            self._graphs[name, size] = Captured(partial(update, size))
        return self._graphs[name, size]()

    # --------------------------------------------------------------- SB3 hooks

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as in SB3.

        Raises:
            RefusedError: If there are no demonstrations where the mode needs some.
            NonFiniteError: If a loss is not finite.
        """
        self._require_demonstrations()
        return super().learn(
            total_timesteps, callback, log_interval,  # type: ignore[arg-type]
            tb_log_name or type(self).__name__, reset_num_timesteps, progress_bar,
        )  # fmt: skip

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment as in SB3.

        Raises:
            RefusedError: If it normalises observations, or judges success in another way.
        """
        env = self._wrap_env(env, self.verbose)
        self._refuse_vec_normalize(unwrap_vec_normalize(env))
        super().set_env(env, force_reset)
        success = self._ask_environment()
        if self.replay_buffer is not None:
            self.replay_buffer.judge_by(success)

    def _refuse_vec_normalize(self, env: VecNormalize | None) -> None:
        if env is not None and env.norm_obs:
            raise RefusedError(
                f"{type(self).__name__}: the environment is normalised by VecNormalize.",
                "Achieved and desired goals would be scaled differently and could not be compared.",
                "Use VecNormalize(…, norm_obs=False); the agent itself has normalize=True.",
            )

    def set_parameters(
        self,
        load_path_or_dict: ModelPath | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Load parameters as in SB3; learning rates stay those of this agent."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        optimizers = [self.policy.optimizer, self.disc_optimizer]
        for optimizer in optimizers:
            if optimizer is not None:
                adopt_loaded(optimizer, wants_cuda_graph(self.capture, self.device))
        self._forget_graphs()

    def save_replay_buffer(self, path: FileLike) -> None:
        """Write the replay buffer as ``.npz`` (SB3 would pickle it), to a path or an open file."""
        self._replay.save(path)

    def load_replay_buffer(self, path: FileLike, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote; nothing is unpickled."""
        buffer = self._make_buffer(self._replay.success)
        buffer.restore(path)
        self.replay_buffer = buffer

    def _excluded_save_params(self) -> list[str]:
        left_out = ["demonstrations", "_demo_store", "_task", "_graphs", "_graph_buffer"]
        return [*super()._excluded_save_params(), *left_out, "_gail_now", "_bc_now", *_TRAINED]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.optimizer"]
        if self._uses_discriminator:
            names += _TRAINED
        return names, []


_TRAINED = ("discriminator", "disc_optimizer")  # saved as tensors


def _nobody_said(achieved: th.Tensor, desired: th.Tensor) -> th.Tensor:
    raise RefusedError(
        "GoalGAIL was loaded without an environment, which says when a goal is reached.",
        todo="Give it one: set_env(env), or load(…, env=env).",
    )
