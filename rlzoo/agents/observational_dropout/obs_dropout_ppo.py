"""Observational dropout by gradients: PPO through the chain of predictions.

Our own variant, not in the paper (page, 2.7). Policy and world model are a recurrent policy whose
state is the belief: it acts on what it sees or, with probability 1 - p, on what its model predicted
from the step before. Still nothing asks the model to predict: it learns from the loss of the policy
alone. One iteration:

====  =================================================================  ========================
step  what                                                               where
====  =================================================================  ========================
1     a rollout; peeks, actions and beliefs are kept                     ``collect_rollouts``
2     advantages from a critic that sees the true observations           SB3's ``RolloutBuffer``
3     chunks of K steps replayed with the weights of now: peeks and      ``chain.replay``
      actions as they were, beliefs computed again, first one given
4     PPO's losses of the actions that were taken; gradients run         SB3's ``PPO.train``,
      through all predictions since the last peek; norm clipped          ``evaluate_actions``
====  =================================================================  ========================
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.observational_dropout.actor_critic import ObsDropoutActorCritic
from rlzoo.agents.observational_dropout.chain import ChunkBuffer
from rlzoo.agents.observational_dropout.peeking import PeekingAlgorithm
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT, check_arguments
from rlzoo.core.device import resolve_device
from rlzoo.core.finite import check_finite
from rlzoo.core.safe_zip import SafeSaveMixin
from rlzoo.core.seeding import check_seed, stream
from rlzoo.errors import RefusedError


class ObsDropoutPPO(SafeSaveMixin, PeekingAlgorithm, PPO):
    """PPO whose policy sees the observation now and then, and its own prediction otherwise.

    All defaults are ours: the paper has no such variant. Arguments without a line here are those of
    SB3's ``PPO``.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``ObsDropoutActorCritic``.
        env: Environment with vectors as observations and bounded continuous or discrete actions,
            or id of one. Those with a simulator are stepped in a batch.
        learning_rate: Of Adam; number or schedule.
        peek_prob: p, the probability of seeing the true observation, in training and ``predict``;
            the first one of an episode is always seen.
        chunk_length: K, steps of a chunk, within which gradients run from step to step as long as
            nothing is seen; ``n_steps`` is a multiple.
        n_steps: Steps per environment and rollout.
        batch_size: Steps per minibatch, at least ``chunk_length``; rounded down to whole chunks.
        n_epochs: Passes through a rollout.
        gamma: Discount factor.
        gae_lambda: ``lambda`` of GAE.
        clip_range: ``epsilon`` of PPO; number or schedule.
        clip_range_vf: The same for values, None for no clipping.
        normalize_advantage: In every minibatch.
        ent_coef: Coefficient of the entropy.
        vf_coef: Coefficient of the value loss.
        max_grad_norm: Clip of the gradient norm. Around an upright pole the chain of k predictions
            grows like exp(0.06 k).
        target_kl: End an update beyond this divergence; None for no limit.
        world_model: Kind of world model; ``"auto"`` takes ``"cartpole"`` for the swing-up,
            ``"residual"`` elsewhere; ``"none"`` for no model.
        policy_kwargs: ``net_arch``, ``model_arch``, ``critic_arch``, ``log_std_init``; see
            ``ObsDropoutActorCritic``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, or spaces that cannot be used.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": ObsDropoutActorCritic}

    policy: ObsDropoutActorCritic  # type: ignore[assignment]
    rollout_buffer: ChunkBuffer

    def __init__(
        self,
        policy: str | type[ObsDropoutActorCritic],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 3e-4,
        peek_prob: Annotated[float, UNIT] = 0.1,
        chunk_length: Annotated[int, AT_LEAST_ONE] = 64,
        n_steps: Annotated[int, AT_LEAST_ONE] = 256,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        n_epochs: Annotated[int, AT_LEAST_ONE] = 10,
        gamma: Annotated[float, UNIT] = 0.99,
        gae_lambda: Annotated[float, UNIT] = 0.95,
        clip_range: Annotated[float, POSITIVE] | Schedule = 0.2,
        clip_range_vf: Annotated[float, POSITIVE] | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: Annotated[float, NON_NEGATIVE] = 0.0,
        vf_coef: Annotated[float, NON_NEGATIVE] = 0.5,
        max_grad_norm: Annotated[float, POSITIVE] = 0.5,
        target_kl: Annotated[float, POSITIVE] | None = None,
        world_model: Literal["auto", "cartpole", "residual", "carracing", "none"] = "auto",
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: Annotated[int, AT_LEAST_ONE] = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(ObsDropoutPPO.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, n_steps, max(batch_size, 2), n_epochs, gamma,  # type: ignore[arg-type]
                gae_lambda, clip_range, clip_range_vf, normalize_advantage, ent_coef, vf_coef,
                max_grad_norm, target_kl=target_kl, stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log, policy_kwargs=policy_kwargs, verbose=verbose,
                seed=None if seed is None else check_seed(seed), device=resolve_device(device),
                _init_setup_model=False,
            )  # fmt: skip
        except AssertionError as error:  # SB3's checks of spaces and sizes
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.batch_size, self.peek_prob, self.chunk_length = batch_size, peek_prob, chunk_length
        self.world_model = world_model
        self._base_seed: int | None = None  # the peeks of a rollout follow from it and its step
        # The kind that "auto" stood for, so that a file can be loaded without an environment.
        self._model_kind: str | None = None if world_model == "auto" else world_model
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        self._check()
        self._setup_lr_schedule()
        base = self._base_seed
        self.set_random_seed(self.seed)
        if base is not None:
            self._base_seed = base
        elif self._base_seed is None:
            self._base_seed = int(np.random.SeedSequence().generate_state(1)[0])
        if self._model_kind is None:
            task = self._simulator()
            # A threshold has no gradient.
            fits = task is not None and not task.world_model.startswith("grid_")
            self._model_kind = task.world_model if task is not None and fits else "residual"
        self.policy = cast(Any, self.policy_class)(
            self.observation_space, self.action_space, self.lr_schedule,
            world_model=self._model_kind, peek_prob=self.peek_prob, **self.policy_kwargs,
        ).to(self.device)  # fmt: skip
        self.policy.seed_peeks(stream(self._base_seed, "peeks"))
        self.rollout_buffer = ChunkBuffer(
            self.n_steps, self.observation_space, self.action_space, self.device, self.gae_lambda,
            self.gamma, self.n_envs, self.chunk_length,
        )  # fmt: skip
        self.clip_range = FloatSchedule(cast(Any, self.clip_range))
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(cast(Any, self.clip_range_vf))
        self._believed = th.zeros(self.n_envs, self.policy.n_observations, device=self.device)

    def _check(self) -> None:
        name = type(self).__name__
        if not isinstance(self.action_space, spaces.Box | spaces.Discrete):
            raise RefusedError(
                f"{name}: The algorithm only supports Box and Discrete as action spaces, but "
                f"{self.action_space} was provided."
            )
        if self.n_steps % self.chunk_length:
            raise RefusedError(
                f"{name}: n_steps={self.n_steps} with chunk_length={self.chunk_length}.",
                "Allowed: a multiple of chunk_length.",
            )
        if self.batch_size < self.chunk_length:
            raise RefusedError(
                f"{name}: batch_size={self.batch_size} with chunk_length={self.chunk_length}.",
                "Allowed: at least one chunk.",
            )

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything, the peeks of ``predict`` and of training included."""
        super().set_random_seed(seed)
        if seed is not None:
            self._base_seed = seed
            if hasattr(self, "policy"):
                self.policy.seed_peeks(stream(seed, "peeks"))

    # ---------------------------------------------------------------- training

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "ObsDropoutPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as SB3 does; an agent without an environment is refused."""
        if self.env is None:
            raise RefusedError(
                f"{type(self).__name__} has no environment to learn in.",
                todo="Give one: load(path, env=...) or set_env(env).",
            )
        return super().learn(
            total_timesteps, callback, cast(int, log_interval), tb_log_name, reset_num_timesteps,
            progress_bar,
        )  # fmt: skip

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer as SB3 does, mostly blind.

        Returns:
            False if a callback ended the training.
        """
        buffer = cast(ChunkBuffer, rollout_buffer)
        self.policy.set_training_mode(False)
        buffer.reset()
        callback.on_rollout_start()
        rng = np.random.default_rng(stream(self._base_seed or 0, "peeks", self.num_timesteps))
        drawn = rng.random((n_rollout_steps, env.num_envs)) < self.peek_prob
        misses: list[th.Tensor] = []
        for luck in drawn:
            seen = self._flat(self._last_obs)
            # What begins is seen, and so is what a model that ran away lost from view.
            lost = ~self._believed.isfinite().all(-1).cpu().numpy()
            peek = luck | np.asarray(self._last_episode_starts, bool) | lost
            flags = th.from_numpy(peek).to(self.device)
            actions, values, log_probs, prediction = self.policy.step(seen, self._believed, flags)
            told = self.policy.told(actions)
            new_obs, rewards, dones, infos = env.step(self.policy.to_env(told))
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            self._update_info_buffer(infos, dones)
            self._bootstrap(rewards, infos)
            kept = th.where(flags.unsqueeze(-1), 0, self._believed)  # never infinite
            buffer.remember(peek, kept.cpu().numpy())
            buffer.add(
                cast(Any, self._last_obs), actions.cpu().numpy().reshape(env.num_envs, -1), rewards,
                cast(Any, self._last_episode_starts), values, log_probs,
            )  # fmt: skip
            self._last_obs, self._last_episode_starts = cast(Any, new_obs), dones
            self._believed = prediction
            miss = (prediction - self._flat(new_obs)).square().mean(-1)
            misses.append(miss[th.from_numpy(~dones).to(self.device)])
        with th.no_grad():
            last = self.policy.predict_values(self._flat(self._last_obs))
        buffer.compute_returns_and_advantage(last, cast(Any, self._last_episode_starts))
        self.logger.record("rollout/peek_fraction", float(buffer.peeks.mean()))
        error = th.cat(misses)
        self.logger.record("rollout/prediction_mse", float(error[error.isfinite()].mean()))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _flat(self, observations: Any) -> th.Tensor:
        """Return observations as vectors, ``[n, O]`` float32 on the device."""
        found = th.as_tensor(observations, device=self.device).float()
        return found.reshape(len(found), -1)

    def _bootstrap(self, rewards: NDArray[Any], infos: list[dict[str, Any]]) -> None:
        """Add the discounted value of the last observation where a time limit cut an episode."""
        for index, info in enumerate(infos):
            if info.get("TimeLimit.truncated", False) and "terminal_observation" in info:
                last = self._flat(np.asarray(info["terminal_observation"])[None])
                with th.no_grad():
                    rewards[index] += self.gamma * float(self.policy.predict_values(last))

    def train(self) -> None:
        """Learn from the rollout as SB3's PPO does, chunk by chunk."""
        super().train()
        check_finite({"parameters": self.policy.vector}, self.num_timesteps)

    # --------------------------------------------------------------- SB3 hooks

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_believed"]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the beliefs and the generator of the peeks in ``predict``, for checkpoints."""
        return {**super().get_extra_state(), "believed": self._believed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned."""
        super().set_extra_state(state)
        self._believed = state["believed"].to(self.device)
