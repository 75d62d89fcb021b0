"""DynaDQN: replay, forward, backward or rollout planning with one Q network.

Our model-based counterpart of DER, for the question of van Hasselt, Hessel, Aslanides 2019 (arXiv
1906.05243): when does a learnt model beat the replay of what was stored? One iteration of their
Algorithm 1, K of which are taken:

====  ============================================  ============================================
step  what                                          where
====  ============================================  ============================================
2     M real steps; the model sees them             ``_store_transition``, ``_update_model``
3     P times: search control, model, update        ``sources.Planner``, ``DynaDQN._update``
-     the update: double Q, Huber loss              ``DynaDQN._targets``, ``DynaDQN._update``
-     target network copied every so many updates   ``DynaDQN._update``
====  ============================================  ============================================

Only the source of the transitions differs between the modes, see :mod:`.sources`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.dyna_dqn.fitting import FitSettings, fit
from rlzoo.agents.dyna_dqn.memory import BufferControl, held_out
from rlzoo.agents.dyna_dqn.neural_model import NeuralModel
from rlzoo.agents.dyna_dqn.policies import DynamicsSpec, DynaPolicy, MlpPolicy, greedy
from rlzoo.agents.dyna_dqn.presets import PRESETS
from rlzoo.agents.dyna_dqn.sources import (
    Backward,
    Forward,
    Planner,
    Return,
    Rollout,
    Source,
    Stored,
)
from rlzoo.agents.dyna_dqn.tabular_model import TableModel
from rlzoo.agents.dyna_dqn.transitions import Batch
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
from rlzoo.core.seeding import check_seed
from rlzoo.errors import RefusedError


class DynaDQN(OffPolicyAlgorithm):
    """Q-learning from replay or from a model, as an SB3 agent.

    The values of the learner are ours (paper page, section 3); those of the model follow mbrl-lib's
    ``gaussian_mlp_ensemble`` with MBPO's overrides.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``DynaPolicy``.
        env: Environment with Discrete actions and vector observations or numbered states.
        learning_rate: Of the Q network; a number or a schedule.
        buffer_size: Transitions.
        learning_starts: Steps with random actions before the first iteration. Ours: 500.
        batch_size: Planned transitions per update.
        gamma: Discount factor.
        train_freq: Real steps (of all environments at once) per iteration, ``M``.
        planning_steps: Planned transitions per iteration, ``P``; a multiple of ``batch_size``.
        source: Of the planned transitions: ``"replay"``, the buffer; ``"forward"``, a predicted
            outcome of stored pairs; ``"backward"``, a predicted past of stored states;
            ``"rollout"``, predicted trajectories; ``"act"``, the buffer, while the model looks one
            step ahead for every action that is taken.
        model: ``"neural"`` for vectors, ``"tabular"`` for numbered states; ``"auto"`` takes which
            fits.
        actions: Of planned steps forward from stored states: those in the ``"buffer"``, or of the
            present ``"policy"`` (epsilon-greedy).
        rollout_length: Predicted steps in a row, ``k``.
        rollout_target: ``"steps"``, every state of a rollout is the start of an update; or
            ``"return"``, one update toward a return of ``k`` steps.
        learn_from_real: One more update per iteration, on the real steps that were just taken.
        double: The online network chooses the bootstrap action; else the target network.
        target_update_interval: *Updates* between two copies to the target network.
        exploration_fraction: Part of the training in which epsilon falls, linearly.
        exploration_initial_eps: Share of random actions at first.
        exploration_final_eps: Share of random actions afterwards.
        max_grad_norm: Clip of the gradient norm, None for none. As SB3's DQN.
        max_disagreement: Predictions about which the ensemble is further apart are not learned
            from; in standard deviations of the observations. None: all are.
        model_interval: Real steps between two fits of a neural model.
        n_models: Members of the ensemble.
        model_arch: Hidden widths of the model.
        model_learning_rate: Of the model.
        model_weight_decay: Of the model.
        model_batch_size: Rows per step of a fit, for each member.
        model_validation: Share of the stored transitions that is held out.
        model_patience: Epochs without improvement after which a fit ends.
        model_epochs: Most epochs of a fit. Ours, to bound its time.
        policy_kwargs: ``net_arch``, ``optimizer``, ``adam_eps``; see ``DynaPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, or spaces that DynaDQN cannot use.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    policy: DynaPolicy
    q_net: nn.Module
    q_net_target: nn.Module

    def __init__(
        self,
        policy: str | type[DynaPolicy],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 5e-4,
        buffer_size: Annotated[int, AT_LEAST_ONE] = 100_000,
        learning_starts: Annotated[int, NON_NEGATIVE] = 500,
        batch_size: Annotated[int, AT_LEAST_ONE] = 64,
        gamma: Annotated[float, UNIT] = 0.99,
        train_freq: Annotated[int, AT_LEAST_ONE] = 1,
        planning_steps: Annotated[int, AT_LEAST_ONE] = 64,
        source: Literal["replay", "forward", "backward", "rollout", "act"] = "replay",
        model: Literal["auto", "neural", "tabular"] = "auto",
        actions: Literal["buffer", "policy"] = "buffer",
        rollout_length: Annotated[int, AT_LEAST_ONE] = 5,
        rollout_target: Literal["steps", "return"] = "steps",
        learn_from_real: bool = False,
        double: bool = True,
        target_update_interval: Annotated[int, AT_LEAST_ONE] = 500,
        exploration_fraction: Annotated[float, UNIT] = 0.1,
        exploration_initial_eps: Annotated[float, UNIT] = 1.0,
        exploration_final_eps: Annotated[float, UNIT] = 0.05,
        max_grad_norm: Annotated[float, POSITIVE] | None = 10.0,
        max_disagreement: Annotated[float, NON_NEGATIVE] | None = None,
        model_interval: Annotated[int, AT_LEAST_ONE] = 250,
        n_models: Annotated[int, AT_LEAST_ONE] = 5,
        model_arch: Sequence[Annotated[int, AT_LEAST_ONE]] = (200, 200, 200),
        model_learning_rate: Annotated[float, POSITIVE] = 1e-3,
        model_weight_decay: Annotated[float, NON_NEGATIVE] = 1e-5,
        model_batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        model_validation: Annotated[float, Range(0, 1, high_open=True)] = 0.2,
        model_patience: Annotated[int, AT_LEAST_ONE] = 5,
        model_epochs: Annotated[int, AT_LEAST_ONE] = 20,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: Annotated[int, AT_LEAST_ONE] = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(DynaDQN.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau=1.0,  # type: ignore[arg-type]
                gamma=gamma, train_freq=train_freq, policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
                verbose=verbose, device=resolve_device(device), support_multi_env=True,
                seed=None if seed is None else check_seed(seed), sde_support=False,
                supported_action_spaces=(spaces.Discrete,),
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.planning_steps, self.source, self.model, self.actions = (
            planning_steps, source, model, actions,
        )  # fmt: skip
        self.rollout_length, self.rollout_target = rollout_length, rollout_target
        self.learn_from_real, self.double = learn_from_real, double
        self.target_update_interval = target_update_interval
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.max_grad_norm, self.max_disagreement = max_grad_norm, max_disagreement
        self.model_interval, self.n_models = model_interval, n_models
        self.model_arch = list(model_arch)
        self.model_learning_rate = model_learning_rate
        self.model_weight_decay = model_weight_decay
        self.model_batch_size, self.model_validation = model_batch_size, model_validation
        self.model_patience, self.model_epochs = model_patience, model_epochs
        # The counters of the paper's Algorithm 1; K is the number of iterations.
        self._iterations = self._real_steps = self._planned = 0
        self._fitted_at: int | None = None
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        self._check_settings()
        self.gradient_steps = self.planning_steps // self.batch_size
        spec = DynamicsSpec(
            self._kind(), tuple(self.model_arch), self.n_models, self.source == "act", self.gamma
        )
        given = self.policy_kwargs
        self.policy_kwargs = {**given, "dynamics": spec}
        try:
            super()._setup_model()
        finally:
            self.policy_kwargs = given
        self.q_net, self.q_net_target = self.policy.q_net, self.policy.q_net_target

    def _kind(self) -> Literal["none", "forward", "backward", "table"]:
        if self.source == "replay":
            return "none"
        if isinstance(self.observation_space, spaces.Discrete):
            return "table"
        return "backward" if self.source == "backward" else "forward"

    def _check_settings(self) -> None:
        name, space = type(self).__name__, self.observation_space
        image = is_image_space(space, check_channels=False)
        if image or not isinstance(space, spaces.Box | spaces.Discrete):
            raise RefusedError(
                f"{name} cannot take the observation space {space}.",
                "Allowed: a Box that is not an image, or Discrete (numbered states).",
                "Flatten it (gymnasium.wrappers.FlattenObservation), or use rlzoo train der.",
            )
        fitting = "tabular" if isinstance(space, spaces.Discrete) else "neural"
        if self.model not in ("auto", fitting):
            raise RefusedError(
                f"{name}: model={self.model} with observations {space}.",
                "Allowed: neural for a Box, tabular for Discrete.",
                f"Set model={fitting}.",
            )
        if self.planning_steps % self.batch_size:
            raise RefusedError(
                f"{name}: planning_steps={self.planning_steps} with batch_size={self.batch_size}.",
                "Allowed: a multiple of the batch size, since all planned transitions are learned.",
            )

    # ------------------------------------------------------------------ acting

    @property
    def exploration_rate(self) -> float:
        """Epsilon at this step: the share of uniformly random actions."""
        done = 1 - self._current_progress_remaining
        share = min(done / self.exploration_fraction, 1.0) if self.exploration_fraction else 1.0
        first, last = self.exploration_initial_eps, self.exploration_final_eps
        return first + (last - first) * share

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Choose actions as in SB3: epsilon is off when ``deterministic``."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        rate = 0.0 if deterministic else self.exploration_rate
        if rate > 0:
            explore = np.random.random(actions.shape) < rate  # noqa: NPY002
            random = np.random.randint(0, self.policy.n_actions, actions.shape)  # noqa: NPY002
            actions = np.where(explore, random, actions)
        return actions, state

    @th.no_grad()
    def _choose(self, features: th.Tensor) -> th.Tensor:
        """The present epsilon-greedy policy in planned states, ``[B, D]`` to ``[B]``."""
        values = self.q_net(features)
        best = greedy(values, th.rand_like(values)) if self.policy.is_table else values.argmax(-1)
        explore = th.rand(len(best), device=best.device) < self.exploration_rate
        return th.where(explore, th.randint_like(best, self.policy.n_actions), best)

    # ------------------------------------------------------------------- model

    def _store_transition(self, replay_buffer: ReplayBuffer, *args: Any, **kwargs: Any) -> None:
        super()._store_transition(replay_buffer, *args, **kwargs)
        self._real_steps += self.n_envs
        model = self.policy.dynamics
        if isinstance(model, TableModel):
            self._count(model, self._control(replay_buffer).newest(1))

    def _count(self, model: TableModel, batch: Batch) -> None:
        if self._vec_normalize_env is not None and self._vec_normalize_env.norm_reward:
            raise RefusedError(
                f"{type(self).__name__}: a table model with VecNormalize(norm_reward=True).",
                "Allowed: rewards as they are; their scale changes, the table would mix scales.",
                "Use VecNormalize(norm_reward=False).",
            )
        columns = (
            batch.observations.argmax(-1), batch.actions, batch.next_observations.argmax(-1),
            batch.rewards, batch.dones,
        )  # fmt: skip
        for row in zip(*(column.tolist() for column in columns), strict=True):
            model.observe(*row)

    def _update_model(self, buffer: ReplayBuffer) -> None:
        """Fit a neural model when its time has come."""
        model = self.policy.dynamics
        if not isinstance(model, NeuralModel):
            return
        due = self._fitted_at is None or self._real_steps - self._fitted_at >= self.model_interval
        if not due:
            return
        self._fitted_at = self._real_steps
        settings = FitSettings(
            self.model_learning_rate, self.model_weight_decay, self.model_batch_size,
            self.model_patience, self.model_epochs,
        )  # fmt: skip
        data = self._control(buffer).everything()
        done = fit(model, data, held_out(buffer, self.model_validation), settings)
        check_finite({"model loss": th.tensor(done.loss)}, self.num_timesteps)
        self.logger.record("model/validation_loss", done.loss)
        self.logger.record("model/epochs", done.epochs)

    # ---------------------------------------------------------------- planning

    def _control(self, buffer: ReplayBuffer) -> BufferControl:
        return BufferControl(buffer, self.policy.features, self.gamma, self._vec_normalize_env)

    def _source(self) -> Source:
        model = cast(Any, self.policy.dynamics)
        from_policy, limit = self.actions == "policy", self.max_disagreement
        if self.source == "forward":
            return Forward(model, self._choose if from_policy else None, limit)
        if self.source == "backward":
            return Backward(model, limit)
        if self.source == "rollout":
            kind = Rollout if self.rollout_target == "steps" else Return
            return kind(model, self._choose, self.rollout_length, from_policy, limit)
        return Stored()  # replay and act

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Do the planning half of one iteration: ``gradient_steps`` updates of ``batch_size``."""
        if self.replay_buffer is None:
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self._update_model(self.replay_buffer)
        control = self._control(self.replay_buffer)
        if self.learn_from_real:
            self._update(control.newest(cast(Any, self.train_freq).frequency))
        planner = Planner(control, self._source(), self._update)
        self._planned += planner.plan(gradient_steps, batch_size)
        self._iterations += 1
        for name, value in self.counters().items():
            self.logger.record(f"planning/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def counters(self) -> dict[str, int]:
        """Return the counters of the paper's Algorithm 1, since this agent was made.

        Returns:
            ``iterations`` (K), ``real_steps`` (K M, and those before learning started),
            ``planned_transitions`` (K P).
        """
        return {
            "iterations": self._iterations,
            "real_steps": self._real_steps,
            "planned_transitions": self._planned,
        }

    def _update(self, batch: Batch) -> None:
        """One update, the same for every source."""
        q_values = self.q_net(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
        losses = F.smooth_l1_loss(q_values, self._targets(batch), reduction="none")
        trusted = batch.weights.sum()
        loss = (batch.weights * losses).sum() / trusted.clamp(min=1)

        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # The only wait for the device in an update.
        host = th.stack((loss, q_values.mean(), trusted / batch.size)).tolist()
        if not math.isfinite(host[0]):  # before it reaches the weights
            check_finite({"losses": losses, "q_values": q_values}, self.num_timesteps)
        if self.max_grad_norm is not None:
            th.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
        optimizer.step()

        self._n_updates += 1
        if self._n_updates % self.target_update_interval == 0:
            self._copy_target()
        for name, value in zip(("q_loss", "q_mean", "trusted"), host, strict=True):
            self.logger.record_mean(f"train/{name}", value)

    @th.no_grad()
    def _targets(self, batch: Batch) -> th.Tensor:
        """Return ``r + gamma (1 - d) Q_target(s', argmax_a Q(s', a))``, ``[B]``."""
        values: th.Tensor = self.q_net_target(batch.next_observations)
        choosing = self.q_net(batch.next_observations) if self.double else values
        best = values.gather(1, choosing.argmax(1, keepdim=True)).squeeze(1)
        return batch.rewards + batch.discounts * (1 - batch.dones) * best

    @th.no_grad()
    def _copy_target(self) -> None:
        th._foreach_copy_(list(self.q_net_target.parameters()), list(self.q_net.parameters()))

    # --------------------------------------------------------------- SB3 hooks

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "DynaDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as in SB3."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name,  # type: ignore[arg-type]
            reset_num_timesteps, progress_bar,
        )  # fmt: skip

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "q_net", "q_net_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
