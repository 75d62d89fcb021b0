"""What surrounds the fits: spaces and task, acting by plans, diagnostics, files.

The fits are in :mod:`rlzoo.agents.dae_mpc.dae_mpc`.
"""

from __future__ import annotations

import time
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_normalize

from rlzoo.agents.dae_mpc.denoiser import n_windows
from rlzoo.agents.dae_mpc.diagnostics import GapTracker
from rlzoo.agents.dae_mpc.planners import PlannerName
from rlzoo.agents.dae_mpc.policies import MpcPolicy, PlanSpec, State, check_observations
from rlzoo.core.mpc_tasks import find_task, get_task, known_tasks
from rlzoo.core.safe_zip import SafeSaveMixin
from rlzoo.errors import RefusedError


class MpcAlgorithm(SafeSaveMixin, OffPolicyAlgorithm):
    """An SB3 agent that plans. A subclass keeps its arguments as attributes and implements fits."""

    policy: MpcPolicy
    planner: PlannerName
    horizon: int
    n_candidates: int
    n_elites: int
    n_ensemble: int
    n_particles: int
    propagation: Literal["mean", "tsinf"]
    window: int
    dae: bool
    alpha: float
    reward: Literal["auto", "known", "learned"]
    task: str | None
    n_random_episodes: int
    _task_name: str | None = None
    _plans: State | None = None
    _gaps: GapTracker
    _n_episodes: int = 0

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        self._check_settings()
        check_observations(self.observation_space, type(self).__name__)
        self._refuse_vec_normalize(self._vec_normalize_env)
        if self.env is not None or self._task_name is None:
            self._task_name = self._find_task()
        given = self.policy_kwargs
        self.policy_kwargs = {**given, "spec": self._spec()}
        try:
            super()._setup_model()
        finally:
            self.policy_kwargs = given
        self._gaps = GapTracker(self.horizon, self.n_envs, self.gamma)

    def _spec(self) -> PlanSpec:
        raise NotImplementedError

    def _check_settings(self) -> None:
        name = type(self).__name__
        if self.n_elites > self.n_candidates:
            raise RefusedError(
                f"{name}: n_elites={self.n_elites} of n_candidates={self.n_candidates}.",
                "Allowed: at most as many elites as candidates.",
            )
        if n_windows(self.horizon, self.window) < 1:
            raise RefusedError(
                f"{name}: window={self.window} with horizon={self.horizon}.",
                "Allowed: a window that fits into the plan.",
            )
        if self.alpha > 0 and not self.dae:
            raise RefusedError(
                f"{name}: alpha={self.alpha} without a denoiser.",
                "Allowed: dae=True, or alpha=0.",
            )
        if self.propagation == "tsinf" and self.n_particles % self.n_ensemble:
            raise RefusedError(
                f"{name}: n_particles={self.n_particles} with n_ensemble={self.n_ensemble}.",
                "Allowed: a multiple of the ensemble, since every particle keeps one member.",
            )

    def _find_task(self) -> str | None:
        """Return the name of what is known about the environment; None: nothing is.

        Raises:
            RefusedError: If a known reward is demanded and there is none.
        """
        env_id = _env_id(self.env)
        name = self.task or env_id
        task = get_task(self.task) if self.task else find_task(env_id)
        if self.reward == "known" and (task is None or task.reward is None):
            raise RefusedError(
                f"{type(self).__name__}: reward='known', but none is known for {name!r}.",
                f"Known: {', '.join(known_tasks())}.",
                "Register a task (rlzoo.core.mpc_tasks), or set reward=learned.",
            )
        return None if task is None else task.name

    @property
    def _learns_reward(self) -> bool:
        task = None if self._task_name is None else find_task(self._task_name)
        return self.reward == "learned" or task is None or task.reward is None

    def _refuse_vec_normalize(self, env: VecNormalize | None) -> None:
        if env is not None and env.norm_obs:
            raise RefusedError(
                f"{type(self).__name__}: the environment is normalised by VecNormalize.",
                "Reward functions expect observations as they are; the model normalises its own.",
                "Use VecNormalize(…, norm_obs=False).",
            )

    # ------------------------------------------------------------------ acting

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Act at random until the first fit, then by plans, with noise where asked.

        SB3 counts steps instead, and would have the second episode planned with an untrained model.

        Returns:
            Actions in the units of the environment, and as they are stored, in [-1, 1].
        """
        if self.policy.is_fitted:
            scaled = self._plan()
        else:
            drawn = np.array([self.action_space.sample() for _ in range(n_envs)])
            scaled = self.policy.scale_action(drawn)
            self._note(None)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _plan(self) -> NDArray[Any]:
        """Plan from the last observations; returns actions in [-1, 1]."""
        began = time.perf_counter()
        obs, _ = self.policy.obs_to_tensor(self._last_obs)  # type: ignore[arg-type]
        flat = self.policy.flat(obs)
        found, self._plans = self.policy.decide(
            flat, self._plans, self._last_episode_starts, deterministic=False
        )
        actions = found.plans[0].cpu().numpy()
        # Not `plan/ms`: what measures time is kept apart, so that two equal runs log the same.
        elapsed = 1e3 * (time.perf_counter() - began)
        self.logger.record_mean("time/plan_ms", elapsed, exclude="csv")
        self.logger.record_mean("plan/nan_count", float(found.n_bad))
        score = self.policy.imagine(flat, found.plans)
        self.logger.record_mean("plan/imagined_return", float(score.returns.mean()))
        if self.policy.denoiser is not None:
            self.logger.record_mean("plan/penalty", float(score.penalties.mean()))
        self._note(score.returns.squeeze(1).cpu().numpy())
        return actions.reshape(-1, *(self.action_space.shape or ()))

    def _note(self, imagined: NDArray[Any] | None) -> None:
        gap = self._gaps.begin(imagined)
        if gap is not None:
            self.logger.record_mean("plan/realised_return_H", gap.realised)
            self.logger.record_mean("plan/gap", gap.gap)

    def _store_transition(self, replay_buffer: ReplayBuffer, *args: Any, **kwargs: Any) -> None:
        super()._store_transition(replay_buffer, *args, **kwargs)
        _, _, rewards, dones, _ = args
        if self._vec_normalize_env is not None:
            rewards = self._vec_normalize_env.get_original_reward()
        self._gaps.reward(rewards, dones)
        self._last_episode_starts = dones
        self._n_episodes += int(np.sum(dones))

    # --------------------------------------------------------------- SB3 hooks

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as in SB3; a log line after every episode unless said otherwise.

        Raises:
            NonFiniteError: If a loss is not finite.
        """
        return super().learn(
            total_timesteps, callback, log_interval,  # type: ignore[arg-type]
            tb_log_name or type(self).__name__, reset_num_timesteps, progress_bar,
        )  # fmt: skip

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment as in SB3.

        Raises:
            RefusedError: If it normalises observations.
        """
        env = self._wrap_env(env, self.verbose)
        self._refuse_vec_normalize(unwrap_vec_normalize(env))
        super().set_env(env, force_reset)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside attributes: open plans and promises."""
        plans = None if self._plans is None else [np.array(part) for part in self._plans]
        return {"plans": plans, "gaps": self._gaps.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take what :meth:`get_extra_state` returned."""
        plans = state["plans"]
        self._plans = None if plans is None else tuple(np.array(part) for part in plans)
        self._gaps.set_state(state["gaps"])

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_gaps", "_plans"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        names = ["policy", "policy.optimizer"]
        return [*names, "policy.dae_optimizer"] if self.dae else names, []


def _env_id(env: Any) -> str:
    """Return the id of an environment, or an empty string."""
    try:
        return str(getattr(env.get_attr("spec", [0])[0], "id", "") or "")
    except Exception:  # vectors of environments fail in many ways
        return ""
