"""Observational dropout (Freeman, Metz, Ha 2019), arXiv 1910.13038.

Policy and world model are one vector, trained on the task's return alone while the true observation
is seen with probability p only; in between both are fed the model's own prediction. No prediction
loss: a model emerges because the policy needs one. One generation (sections of the paper page):

=======  ===========================================================  ==========================
section  what                                                         where
=======  ===========================================================  ==========================
2.5 (1)  candidates around the mean, in mirrored pairs                ``Strategy.sample``
2.1      every candidate plays its episodes, mostly blind             ``recursion.run_episodes``
2.5 (2)  fitness: the mean return; a pair shares starts and peeks     ``_play``
2.4      ranks, weight decay, mean and deviations                     ``Strategy.update``
2.4 (4)  the mean ascends with Adam, or is set by CMA-ES              ``_move``
=======  ===========================================================  ==========================

Deviations from the official code are listed in the README of this package.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean

from rlzoo.agents.observational_dropout import deployment
from rlzoo.agents.observational_dropout.environments import Plan, play_in_env
from rlzoo.agents.observational_dropout.peeking import PeekingAlgorithm
from rlzoo.agents.observational_dropout.policies import ObsDropoutPolicy
from rlzoo.agents.observational_dropout.population import Scores, play
from rlzoo.agents.observational_dropout.presets import PRESETS
from rlzoo.agents.observational_dropout.recursion import Block
from rlzoo.agents.observational_dropout.strategies import (
    OptimizerName,
    Settings,
    Strategy,
    make_strategy,
)
from rlzoo.agents.observational_dropout.world_models import WorldModelName
from rlzoo.core.arguments import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Range,
    check_arguments,
)
from rlzoo.core.device import resolve_device
from rlzoo.core.finite import check_finite
from rlzoo.core.safe_zip import SafeSaveMixin
from rlzoo.core.seeding import check_seed, stream
from rlzoo.core.simulator import Simulator
from rlzoo.errors import RefusedError


class ObservationalDropout(SafeSaveMixin, PeekingAlgorithm):
    """Evolves a policy together with the world model that it acts on when it may not look.

    ``[code]`` marks values of the official cart-pole code, ``[ours]`` our own. The policy is the
    mean of the search; ``best_vector`` with ``best_score`` is the luckiest candidate so far.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``ObsDropoutPolicy``.
        env: Environment with vectors as observations and bounded continuous or discrete actions,
            or id of one.
        learning_rate: Of Adam on the mean; number or schedule. [code] 0.01; 0.05 learns faster
            where everything is seen [EvoJAX]. Without effect on ``cma``.
        peek_prob: p, the probability of seeing the true observation, in training and ``predict``;
            the first one of an episode is always seen. [code] 0.05.
        pop_size: Candidates per generation, even. [code] 384.
        n_eval_episodes: Episodes per candidate and generation. [code] 16.
        optimizer: ``"pepg"`` [code], ``"openes"``, or ``"cma"``, which needs the package.
        sigma_init: Deviation of the candidates at first. [code] 0.1.
        sigma_decay: Factor on deviations per generation, not for ``cma``. [code] 0.999.
        sigma_limit: Deviation at which the decay stops. [code] 0.02.
        sigma_lr: Step size of the deviations, ``pepg`` only. [code] 0.2.
        sigma_max_change: Most relative change of a deviation per generation, ``pepg`` only.
            [code] 0.2.
        adam_beta1: Decay of the first moment. [code] 0.99.
        weight_decay: Penalty on the mean square of the weights: of ranks from -0.5 to 0.5, or for
            ``cma`` of returns. [code] 0.005; 0.01 for its CMA-ES.
        gamma: Discount of the returns that are maximised. [paper] 1.
        n_steps: Steps per candidate and episode, after which the environment goes on with the next
            candidate, for tasks without an end; None for whole episodes [code].
        world_model: Kind of world model; ``"auto"`` takes ``"cartpole"`` for the swing-up,
            ``"grid_conv"`` for apples and fires, ``"residual"`` elsewhere; ``"carracing"`` is for
            latents, ``"none"`` for no model.
        lagged_action: Tell the world model the action of the step before, as the code of the grid
            does by mistake, for comparisons with it. [paper] False.
        zero_policy: Begin with zeros [code], or with random weights.
        backend: ``"simulator"``: all episodes in one tensor program, for tasks that have one
            (:mod:`rlzoo.core.simulator`); ``"env"``: steps of the environment; ``"auto"``: the
            first where possible. In the simulator callbacks are called every 50 steps.
        policy_kwargs: ``net_arch`` and ``model_arch``; see ``ObsDropoutPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, spaces that cannot be used, or ``cma`` without
            its package.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": ObsDropoutPolicy}

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    policy: ObsDropoutPolicy

    def __init__(
        self,
        policy: str | type[ObsDropoutPolicy],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 0.01,
        peek_prob: Annotated[float, UNIT] = 0.05,
        pop_size: Annotated[int, Range(2)] = 384,
        n_eval_episodes: Annotated[int, AT_LEAST_ONE] = 16,
        optimizer: OptimizerName = "pepg",
        sigma_init: Annotated[float, POSITIVE] = 0.1,
        sigma_decay: Annotated[float, Range(0, 1, low_open=True)] = 0.999,
        sigma_limit: Annotated[float, NON_NEGATIVE] = 0.02,
        sigma_lr: Annotated[float, NON_NEGATIVE] = 0.2,
        sigma_max_change: Annotated[float, Range(0, 1, high_open=True)] = 0.2,
        adam_beta1: Annotated[float, Range(0, 1, high_open=True)] = 0.99,
        weight_decay: Annotated[float, NON_NEGATIVE] = 0.005,
        gamma: Annotated[float, UNIT] = 1.0,
        n_steps: Annotated[int, AT_LEAST_ONE] | None = None,
        world_model: WorldModelName = "auto",
        lagged_action: bool = False,
        zero_policy: bool = True,
        backend: Literal["auto", "simulator", "env"] = "auto",
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: Annotated[int, AT_LEAST_ONE] = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(ObservationalDropout.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, policy_kwargs, stats_window_size, tensorboard_log,
                verbose, resolve_device(device), support_multi_env=True,
                seed=None if seed is None else check_seed(seed),
                supported_action_spaces=(spaces.Box, spaces.Discrete),
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.peek_prob, self.pop_size, self.n_eval_episodes = peek_prob, pop_size, n_eval_episodes
        self.optimizer, self.adam_beta1, self.weight_decay = optimizer, adam_beta1, weight_decay
        self.sigma_init, self.sigma_decay, self.sigma_limit = sigma_init, sigma_decay, sigma_limit
        self.sigma_lr, self.sigma_max_change = sigma_lr, sigma_max_change
        self.gamma, self.n_steps, self.world_model = gamma, n_steps, world_model
        self.zero_policy, self.backend, self.lagged_action = zero_policy, backend, lagged_action
        self.best_score: float | None = None
        self.rollout_buffer = None  # evolution keeps no transitions
        # What a generation draws follows from these two alone.
        self._base_seed: int | None = None
        self._generation = 0
        # The kind that "auto" stood for, so that a file can be loaded without an environment.
        self._model_kind: str | None = None if world_model == "auto" else world_model
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        if self.pop_size % 2:
            raise RefusedError(
                f"{type(self).__name__}: pop_size={self.pop_size} is odd.",
                "Allowed: an even number, since candidates come in mirrored pairs.",
            )
        self._setup_lr_schedule()
        base = self._base_seed
        self.set_random_seed(self.seed)
        if base is not None:
            self._base_seed = base
        elif self._base_seed is None:
            self._base_seed = int(np.random.SeedSequence().generate_state(1)[0])
        if self._model_kind is None:
            task = self._simulator()
            self._model_kind = "residual" if task is None else task.world_model
        self.policy = self.policy_class(  # type: ignore[assignment]
            self.observation_space, self.action_space, self.lr_schedule,
            world_model=self._model_kind, peek_prob=self.peek_prob, zero_policy=self.zero_policy,
            lagged_action=self.lagged_action, **self.policy_kwargs,
        ).to(self.device)  # fmt: skip
        self.policy.seed_peeks(stream(self._base_seed, "peeks"))
        mean = self.policy.vector
        self.strategy: Strategy = make_strategy(
            self.optimizer,
            Settings(
                len(mean), self.pop_size, self.sigma_init, self.sigma_decay, self.sigma_limit,
                self.sigma_lr, self.sigma_max_change, self.weight_decay,
            ),
            self.device,
        )  # fmt: skip
        self.search_state, self.best_vector = self.strategy.state, mean.clone()
        if self.strategy.gives_gradient:
            self.policy.optimizer = th.optim.Adam(
                self.policy.parameters(), self.lr_schedule(1), (self.adam_beta1, 0.999),
                eps=1e-8, maximize=True,
            )  # fmt: skip

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything, the peeks of ``predict`` and of training included."""
        super().set_random_seed(seed)
        if seed is not None:
            self._base_seed = seed
            if hasattr(self, "policy"):
                self.policy.seed_peeks(stream(seed, "peeks"))

    def _simulator(self) -> Simulator | None:
        """Return the tensor program of the environment, if it has one that may be used.

        Raises:
            RefusedError: If one is demanded and there is none.
        """
        found = None
        if self.backend != "env" and self.n_steps is None:
            found = super()._simulator()
        if found is None and self.backend == "simulator" and self.env is not None:
            raise RefusedError(
                f"{type(self).__name__}: backend='simulator', but the environment has none.",
                "Allowed for rlzoo/CartPoleSwingUp-v0 and rlzoo/AppleFireGrid-v0, without n_steps.",
                "Set backend=auto.",
            )
        return found

    # ---------------------------------------------------------------- training

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "ObservationalDropout",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Evolve until so many environment steps are taken; the last generation is finished.

        Args:
            total_timesteps: Environment steps of all candidates together.
            callback: As in SB3.
            log_interval: Generations between two lines of the log.
            tb_log_name: As in SB3.
            reset_num_timesteps: As in SB3.
            progress_bar: As in SB3.
        """
        if self.env is None:
            raise RefusedError(
                f"{type(self).__name__} has no environment to learn in.",
                todo="Give one: load(path, env=...) or set_env(env).",
            )
        total, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total:
            self.policy.set_training_mode(True)
            callback.on_rollout_start()
            rng = np.random.default_rng(self._seed_of("candidates"))
            mean = self.policy.vector

            # 2.5 (1). Candidates, theta_i = mu + eps_i and theta_{i + N/2} = mu - eps_i.
            candidates = self.strategy.sample(mean, rng)

            # 2.5 (2). Fitness, from new seeds in every generation.
            scores = self._play(candidates, callback)
            if scores is None:
                break
            callback.on_rollout_end()
            self._update_current_progress_remaining(self.num_timesteps, total)

            # 2.4. Mean and deviations learn from the ranks.
            check_finite({"candidates": candidates}, self.num_timesteps)
            self._keep_best(candidates, scores)
            self._move(self.strategy.update(mean, candidates, scores.fitness.to(self.device)))
            self._generation += 1
            self._n_updates += 1
            self._log(scores)
            if log_interval is not None and self._generation % log_interval == 0:
                self.dump_logs()
        callback.on_training_end()
        return self

    def _seed_of(self, what: str) -> int:
        return stream(self._base_seed or 0, what, self._generation)

    def _play(self, candidates: th.Tensor, callback: BaseCallback) -> Scores | None:
        """Return the scores of the candidates; None if a callback ended the training."""
        task, networks, seed = self._simulator(), self.policy.networks, self._seed_of("episodes")
        if task is not None:
            return play(
                task, networks, candidates, self.n_eval_episodes, self.peek_prob,
                np.random.default_rng(seed), self.gamma, lambda block: self._tell(block, callback),
            )  # fmt: skip
        env: Any = self.env

        def on_step(scope: dict[str, Any]) -> bool:
            self.num_timesteps += env.num_envs
            self._last_obs, self._last_episode_starts = scope["new_obs"], scope["dones"]
            self._update_info_buffer(scope["infos"], scope["dones"])
            callback.update_locals(scope)
            return callback.on_step()

        plan = Plan(
            networks, candidates, self.n_eval_episodes, self.peek_prob, seed, self.gamma,
            self.n_steps,
        )  # fmt: skip
        first = self._last_obs if isinstance(self._last_obs, np.ndarray) else None
        return play_in_env(env, first, plan, on_step)

    def _tell(self, block: Block, callback: BaseCallback) -> bool:
        """Count a block of simulated steps, and tell callbacks about it."""
        self.num_timesteps += block.steps
        returns, lengths, ended = block.returns.ravel(), block.lengths.ravel(), block.ended.ravel()
        infos: list[dict[str, Any]] = [{}] * len(ended)
        elapsed = (time.time_ns() - self.start_time) / 1e9
        for index in np.flatnonzero(ended).tolist():
            episode = {"r": float(returns[index]), "l": int(lengths[index]), "t": elapsed}
            infos[index] = {"episode": episode}
        self._update_info_buffer(infos, ended)
        observations = block.observations.reshape(len(ended), -1)
        callback.update_locals(
            {
                "new_obs": observations, "rewards": block.rewards.ravel(), "dones": ended,
                "infos": infos,
            }
        )  # fmt: skip
        return callback.on_step()

    def _move(self, found: th.Tensor) -> None:
        """Move the mean: up the gradient with Adam, or to where CMA-ES wants it."""
        if not self.strategy.gives_gradient:
            self.policy.load_vector(found)
            return
        optimizer = self.policy.optimizer
        self._update_learning_rate(optimizer)
        parameters = list(self.policy.parameters())
        parts = th.split(found, [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        optimizer.step()
        optimizer.zero_grad()

    def _keep_best(self, candidates: th.Tensor, scores: Scores) -> None:
        best = int(scores.fitness.argmax())
        score = float(scores.fitness[best])
        if math.isfinite(score) and (self.best_score is None or score > self.best_score):
            self.best_score = score
            self.best_vector.copy_(candidates[best])

    # ----------------------------------------------------------------- logging

    def _log(self, scores: Scores) -> None:
        mean, record = float(scores.fitness.mean()), self.logger.record
        record("rollout/pop_mean", mean)
        record("rollout/pop_max", float(scores.fitness.max()))
        record("rollout/pop_std", float(scores.fitness.std()))
        record("rollout/peek_fraction", scores.peeks)
        if math.isfinite(scores.error):
            record("rollout/prediction_mse", scores.error)
        record("train/policy_loss", -mean)
        record("train/sigma", self.strategy.spread)
        record("train/mu_norm", float(self.policy.vector.norm()))
        record("train/generation", self._generation)
        record("train/n_updates", self._n_updates, exclude="tensorboard")

    def dump_logs(self) -> None:
        """Write a line of the log, with means over the latest episodes."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        steps = self.num_timesteps - self._num_timesteps_at_start
        if self.ep_info_buffer:
            for name, key in (("rollout/ep_rew_mean", "r"), ("rollout/ep_len_mean", "l")):
                self.logger.record(name, safe_mean([e[key] for e in self.ep_info_buffer]))
        self.logger.record("time/fps", int(steps / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    # ------------------------------------------------------------------ dreams

    def train_in_dream(self, **options: Any) -> deployment.DreamResult:
        """Train a fresh policy in the dream and deploy it; see ``deployment.train_in_dream``."""
        return deployment.train_in_dream(self, **options)

    # --------------------------------------------------------------- SB3 hooks

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "strategy"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        states = ["policy"]
        if self.strategy.gives_gradient:
            states.append("policy.optimizer")
        return states, ["search_state", "best_vector"]
