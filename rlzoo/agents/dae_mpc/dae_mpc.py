"""DAE-MPC (Boney et al. 2019), arXiv 1903.11981: planning that stays on familiar ground.

A planner finds action sequences whose imagined return is high because the model is wrong. Here the
squared error of a denoising autoencoder along the plan is subtracted. Sections of the paper page:

=======  =====================================================  ================================
section  what                                                   where
=======  =====================================================  ================================
2.6 (1)  an episode at random                                   ``MpcAlgorithm._sample_action``
2.6 (2)  statistics of all that is stored                       ``fitting.prepare``
2.6 (3)  fit model and denoiser, from the weights of before     ``fitting.fit``
2.6 (4)  an episode by plans, made anew in every step           ``MpcPolicy.decide``
2.4      what a plan is worth, ``R(U) - alpha P(U)``            ``objective.Objective``
2.5      CEM, Adam                                              ``planners``
2.6      batch mode: one fit, then plans                        ``DAEMPC.fit_offline``, ``batch``
=======  =====================================================  ================================

Deviations are listed in the README of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from rlzoo.agents.dae_mpc import batch
from rlzoo.agents.dae_mpc.algorithm import MpcAlgorithm
from rlzoo.agents.dae_mpc.denoiser import Penalty
from rlzoo.agents.dae_mpc.fitting import (
    Fit,
    FitSettings,
    Prepared,
    error_quantile,
    fit,
    prediction_error,
    prepare,
)
from rlzoo.agents.dae_mpc.memory import Stored, from_buffer
from rlzoo.agents.dae_mpc.planners import PlannerName, PlannerSettings
from rlzoo.agents.dae_mpc.policies import MpcPolicy, PlanSpec
from rlzoo.agents.dae_mpc.presets import PRESETS
from rlzoo.core.arguments import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Range,
    check_arguments,
    check_range,
)
from rlzoo.core.dataset_buffer import TransitionsLike
from rlzoo.core.device import resolve_device
from rlzoo.core.finite import check_finite
from rlzoo.core.seeding import check_seed
from rlzoo.errors import RefusedError

QUANTILE = 0.95  # of the denoiser's training errors; logged, and where a hinge begins


class DAEMPC(MpcAlgorithm):
    """Model-predictive control with a learnt model and a denoising autoencoder.

    ``[paper]`` marks values of the paper, ``[HoT]`` those of kchua/handful-of-trials, which it
    names as its reference, ``[ours]`` our own. The defaults are the paper's HalfCheetah row with
    CEM, but for alpha; ``PRESETS`` has the other rows.

    Args:
        policy: ``"MlpPolicy"``, which is ``MpcPolicy``, or a subclass of it.
        env: Environment with vectors as observations and bounded continuous actions, or id of one.
        learning_rate: Of model and denoiser; a number or a schedule. [HoT] 1e-3.
        buffer_size: Transitions, all of which are learned from.
        batch_size: Rows per gradient step. [HoT] 32, [ours] 256.
        gamma: Discount within a plan. [paper] 1.
        planner: ``"cem"``, ``"adam"``, or ``"random"``: the best of random plans.
        horizon: Steps ``H`` of a plan. [paper] 30.
        n_candidates: Plans per iteration of CEM. [HoT] 500.
        n_elites: Best plans that CEM goes on from. [HoT] 50.
        n_iters: Iterations of a planner. [paper] 5.
        n_restarts: Plans that Adam improves side by side. [ours] 64.
        plan_lr: Step size of Adam in units of half the range of an action. [paper] 0.1.
        smoothing: Share of its old mean and variance that CEM keeps. [HoT] 0.1.
        replan_every: Steps of a plan that are taken before the next one is made. [paper] 1.
        alpha: Weight of the penalty; 0: none. In units of the reward. [ours] 0.01.
        sigma: Deviation of the denoiser's noise, in deviations of the data. [paper] 0.1. Keep
            ``alpha * sigma ** 4`` when you change it.
        window: Pairs of observation and action that the denoiser sees at once. [paper] 1.
        dae: Train a denoiser; with ``alpha=0`` it only tells how familiar plans are.
        dae_stop_gradient: Hold its output constant in the gradient of the penalty. [paper] False.
        dae_hinge: Quantile of the training errors up to which there is no penalty; None: none.
        dae_target: Penalise ``(error - target)^2`` instead, to explore; None: the error itself.
        dae_residual: It predicts the noise instead of what is clean. [ours] False.
        n_ensemble: Networks of the model. [paper] 1, [HoT] 5.
        propagation: ``"mean"`` [paper], or ``"tsinf"``: particles that keep one member [HoT].
        n_particles: Particles per plan of ``"tsinf"``. [HoT] 20.
        model_epochs: Passes over everything that is stored, per fit. [paper] 100.
        max_grad_steps: Most gradient steps per fit. [ours] 20,000.
        model_interval: Steps of each environment between two fits; None: one after each episode.
        n_random_episodes: Episodes at random before the first fit. [HoT] 1.
        reset_nets: Draw all weights again before every fit. [HoT] False.
        weight_decay: Of the model by layer, of which the last is that of the last layer. [HoT].
        normalize_targets: Targets with mean 0 and deviation 1. [ours] True.
        reward: ``"known"``: that of the task; ``"learned"``: predicted by the model; ``"auto"``:
            the first where there is one.
        task: Name of what is known of the environment; None: its id.
        action_noise: Added to actions that are taken while training. [paper] none; noise raised
            the plateau of HalfCheetah.
        bf16: Plan with the inner layers of the networks in bf16, where no gradient is needed.
            [ours] False.
        capture: On CUDA, plan with CEM in one graph.
        policy_kwargs: ``net_arch`` and ``dae_arch``; see ``MpcPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, spaces that cannot be used, or a reward that is
            not known.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MpcPolicy,
        "MpcPolicy": MpcPolicy,
    }

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    offline_fit: batch.OfflineFit | None = None

    def __init__(
        self,
        policy: str | type[MpcPolicy],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 1e-3,
        buffer_size: Annotated[int, AT_LEAST_ONE] = 100_000,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        gamma: Annotated[float, UNIT] = 1.0,
        planner: PlannerName = "cem",
        horizon: Annotated[int, AT_LEAST_ONE] = 30,
        n_candidates: Annotated[int, AT_LEAST_ONE] = 500,
        n_elites: Annotated[int, AT_LEAST_ONE] = 50,
        n_iters: Annotated[int, AT_LEAST_ONE] = 5,
        n_restarts: Annotated[int, AT_LEAST_ONE] = 64,
        plan_lr: Annotated[float, POSITIVE] = 0.1,
        smoothing: Annotated[float, Range(0, 1, high_open=True)] = 0.1,
        replan_every: Annotated[int, AT_LEAST_ONE] = 1,
        alpha: Annotated[float, NON_NEGATIVE] = 0.01,
        sigma: Annotated[float, POSITIVE] = 0.1,
        window: Annotated[int, AT_LEAST_ONE] = 1,
        dae: bool = True,
        dae_stop_gradient: bool = False,
        dae_hinge: Annotated[float, UNIT] | None = None,
        dae_target: Annotated[float, NON_NEGATIVE] | None = None,
        dae_residual: bool = False,
        n_ensemble: Annotated[int, AT_LEAST_ONE] = 1,
        propagation: Literal["mean", "tsinf"] = "mean",
        n_particles: Annotated[int, AT_LEAST_ONE] = 20,
        model_epochs: Annotated[int, AT_LEAST_ONE] = 100,
        max_grad_steps: Annotated[int, AT_LEAST_ONE] = 20_000,
        model_interval: Annotated[int, AT_LEAST_ONE] | None = None,
        n_random_episodes: Annotated[int, AT_LEAST_ONE] = 1,
        reset_nets: bool = False,
        weight_decay: Sequence[Annotated[float, NON_NEGATIVE]] = (2.5e-5, 5e-5, 7.5e-5, 1e-4),
        normalize_targets: bool = True,
        reward: Literal["auto", "known", "learned"] = "auto",
        task: str | None = None,
        action_noise: ActionNoise | None = None,
        bf16: bool = False,
        capture: bool | Literal["auto"] = "auto",
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: Annotated[int, AT_LEAST_ONE] = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(DAEMPC.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, buffer_size,  # type: ignore[arg-type]
                learning_starts=0, batch_size=batch_size,
                gamma=gamma, train_freq=1, gradient_steps=1, action_noise=action_noise,
                policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log, verbose=verbose, device=resolve_device(device),
                support_multi_env=True, seed=None if seed is None else check_seed(seed),
                sde_support=False, supported_action_spaces=(spaces.Box,),
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.planner, self.horizon, self.n_candidates = planner, horizon, n_candidates
        self.n_elites, self.n_iters, self.n_restarts = n_elites, n_iters, n_restarts
        self.plan_lr, self.smoothing, self.replan_every = plan_lr, smoothing, replan_every
        self.alpha, self.sigma, self.window, self.dae = alpha, sigma, window, dae
        self.dae_stop_gradient, self.dae_hinge = dae_stop_gradient, dae_hinge
        self.dae_target, self.dae_residual = dae_target, dae_residual
        self.n_ensemble, self.propagation = n_ensemble, propagation
        self.n_particles, self.model_epochs = n_particles, model_epochs
        self.max_grad_steps, self.model_interval = max_grad_steps, model_interval
        self.n_random_episodes, self.reset_nets = n_random_episodes, reset_nets
        self.weight_decay, self.normalize_targets = list(weight_decay), normalize_targets
        self.reward, self.task = reward, task
        self.bf16, self.capture = bf16, capture
        # What was there at the last fit: steps of each environment, and episodes.
        self._n_steps_seen = self._fitted_steps = self._fitted_episodes = 0
        if _init_setup_model:
            self._setup_model()

    def _spec(self) -> PlanSpec:
        settings = PlannerSettings(
            self.planner, self.n_candidates, self.n_elites, self.n_iters, self.smoothing,
            lr=self.plan_lr, n_restarts=self.n_restarts,
        )  # fmt: skip
        return PlanSpec(
            self._task_name, self._learns_reward, self.horizon, settings, self.replan_every,
            self.alpha, self.gamma, self.dae, self.window,
            Penalty(self.dae_stop_gradient, self.dae_target), self.dae_hinge, self.dae_residual,
            self.n_ensemble, self.propagation, self.n_particles, self.normalize_targets,
            self.bf16, self.capture,
        )  # fmt: skip

    def set_alpha(self, alpha: float) -> None:
        """Change the weight of the penalty, from the next plan on.

        Raises:
            RefusedError: If it is negative, or there is no denoiser.
        """
        check_range("alpha", alpha, NON_NEGATIVE, type(self).__name__)
        self.alpha = alpha
        self._check_settings()
        self.policy.spec = replace(self.policy.spec, alpha=alpha)

    # -------------------------------------------------------------------- fits

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Fit when it is due. Called after every step of the environments (page, 2.6)."""
        self.policy.set_training_mode(True)
        self._n_steps_seen += gradient_steps
        self._update_learning_rate(self.policy.optimizers())
        if self.replay_buffer is not None and self._fit_is_due():
            self._fit_buffer(self.replay_buffer)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _fit_is_due(self) -> bool:
        if self.model_interval is not None:
            return self._n_steps_seen - self._fitted_steps >= self.model_interval
        if not self.policy.is_fitted and self._n_episodes < self.n_random_episodes:
            return False
        return self._n_episodes > self._fitted_episodes

    def _fit_buffer(self, buffer: ReplayBuffer) -> None:
        policy = self.policy
        new = self._n_steps_seen - self._fitted_steps
        self._fitted_steps, self._fitted_episodes = self._n_steps_seen, self._n_episodes
        if policy.is_fitted:  # how well what has come since was foreseen
            fresh = self._prepare(from_buffer(buffer, new), measure=False)
            error = float(prediction_error(policy.dynamics, fresh))
            self.logger.record("model/val_mse", error)
        if self.reset_nets:
            self._draw_weights()
        data = self._prepare(from_buffer(buffer), measure=True)
        self._log_fit(self._fit(data, self.model_epochs, self.max_grad_steps))

    def _prepare(self, data: Stored, measure: bool) -> Prepared:
        policy = self.policy
        return prepare(policy.dynamics, data, policy.columns, self.window, measure)

    def _fit(self, data: Prepared, epochs: int, max_steps: int, **options: Any) -> Fit:
        policy = self.policy
        settings = FitSettings(
            self.batch_size, epochs, max_steps, self.weight_decay, self.sigma, self.window
        )
        done = fit(policy.dynamics, policy.denoiser, policy.optimizers(), data, settings, **options)
        losses = {"model loss": done.model_loss, "denoiser loss": done.dae_loss or 0.0}
        check_finite({k: th.tensor(v) for k, v in losses.items()}, self.num_timesteps)
        if policy.denoiser is not None:
            quantile = QUANTILE if self.dae_hinge is None else self.dae_hinge
            policy.threshold.copy_(error_quantile(policy.denoiser, data.windows, quantile))
        policy.fitted.fill_(True)
        self._n_updates += done.steps
        return done

    def _log_fit(self, done: Fit) -> None:
        record = self.logger.record
        record("train/model_loss", done.model_loss)
        record("model/nll", done.nll)
        record("model/grad_steps", done.steps)
        record("model/capped", float(done.capped))
        if done.dae_loss is not None:
            record("dae/loss", done.dae_loss)
            record("dae/train_error_q95", float(self.policy.threshold))

    def _draw_weights(self) -> None:
        self.policy.dynamics.network.reset()
        if self.policy.denoiser is not None:
            self.policy.denoiser.net.reset()
        for optimizer in self.policy.optimizers():
            optimizer.state.clear()

    # -------------------------------------------------------------- batch mode

    def fit_offline(
        self,
        dataset: TransitionsLike | ReplayBuffer,
        gradient_steps: int = 100_000,
        alpha: float | Literal["rule"] | None = None,
        held_out: float = 0.05,
        progress_bar: bool = False,
    ) -> Self:
        """Fit once to a fixed data set; then ``predict`` plans without an environment to learn in.

        Args:
            dataset: Transitions in the units of the environment, or a replay buffer.
            gradient_steps: Gradient steps of model and denoiser.
            alpha: Weight of the penalty from now on; ``"rule"`` chooses it without an environment,
                see ``batch.choose_alpha``; None: as it is.
            held_out: Share of the data that is not learned from: for ``"rule"``, and for the
                errors in ``offline_fit``.
            progress_bar: Show one.

        Returns:
            The agent itself; ``batch.OfflineFit`` is kept as ``offline_fit``.

        Raises:
            RefusedError: If the data are of another task.
            NonFiniteError: If a loss is not finite.
        """
        self.offline_fit = batch.fit_offline(
            self, dataset, gradient_steps, alpha, held_out, progress_bar
        )
        return self

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "offline_fit"]
