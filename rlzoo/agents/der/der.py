"""DER: data-efficient Rainbow (van Hasselt, Hessel, Aslanides 2019), arXiv 1906.05243.

Rainbow retuned for 100,000 agent steps. One update:

====  ===============================================  ==========================================
step  what                                             where
====  ===============================================  ==========================================
a, b  stratified proportional sample, n-step returns   ``prioritized.PrioritizedReplayBuffer``
c     double-Q bootstrap distribution, no gradient     ``DER._target``
d     projection onto the support                      ``c51.project``
e     cross-entropy with importance weights            ``DER._losses``
f     gradient norm clipped, one Adam step             ``DER._update``
g     priorities: the losses to the power omega        ``PrioritizedReplayBuffer``
-     target network copied every so many updates      ``DER._update``
====  ===============================================  ==========================================

Deviations from the published configurations are listed in the README of this package.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.der.c51 import cross_entropy, project
from rlzoo.agents.der.captured import CapturedAlgorithm
from rlzoo.agents.der.frames import FrameReplayBuffer, default_stack
from rlzoo.agents.der.policies import CnnPolicy, DERNetwork, DERPolicy, Head, MlpPolicy
from rlzoo.agents.der.presets import PRESETS
from rlzoo.agents.der.prioritized import (
    PrioritizedReplayBuffer,
    PrioritizedSamples,
    importance_weights,
)
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


class DER(CapturedAlgorithm):
    """Data-efficient Rainbow as an SB3 agent. The defaults are the preset ``der``.

    ``[DER]`` marks values of the paper as its public reimplementations have them (Kaixhin/Rainbow
    ``--architecture data-efficient``), ``[ours]`` our own options. ``PRESETS`` has relatives.
    Rewards are taken as they are: clipping, and life loss as an end, belong to the environment.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or a subclass of ``DERPolicy``.
        env: Environment with a Discrete action space, or id of one.
        learning_rate: Of Adam; a number or a schedule. [DER] 1e-4.
        buffer_size: Transitions. [DER] as many as steps: 100,000.
        learning_starts: Steps before the first update. [DER] 1,600.
        batch_size: Transitions per update. [DER] 32.
        gamma: Discount factor. [DER] 0.99.
        train_freq: Steps (of all environments at once) between two calls of ``train``. [DER] 1.
        gradient_steps: Updates per call; -1: as many as transitions were collected. [DER] 1.
        n_steps: Length of the returns. [DER] 20.
        target_update_interval: *Updates* between two copies to the target network. [DER] 2,000.
        priority_exponent: ``omega``; 0 is uniform replay. [DER] 0.5.
        beta_initial: Exponent of the importance weights when learning starts. [DER] 0.4.
        beta_final: The same at the end of the training, linear between. [DER] 1.
        distributional: C51 [DER], or plain Q values with the Huber loss.
        n_atoms: Atoms of the distribution. [DER] 51.
        v_min: Smallest atom. [DER] -10, for rewards clipped to [-1, 1].
        v_max: Largest atom. [DER] 10.
        double: The online network chooses the bootstrap action [DER]; else the target network.
        dueling: Value and advantage streams [DER].
        sigma: ``sigma_0`` of the noisy layers, None for none. [DER] 0.1.
        warmup: Actions before learning starts: of the ``"policy"`` [DER], or ``"uniform"``.
        exploration_initial_eps: Share of random actions at ``learning_starts``. [DER] 0.
        exploration_final_eps: Share of random actions in the end. [DER] 0.
        exploration_steps: Steps from the one to the other, linear.
        image_shift: Random shifts of training images by up to so many pixels. [DrQ] 4, [DER] 0.
        frame_stack: Frames in an image observation, each of which is stored once; ``"auto"``: 4
            where the channels are a multiple of four, else 1.
        max_grad_norm: Clip of the gradient norm, None for none. [DER] 10.
        capture: Keep a copy of the replay buffer on the device and replay whole updates, sampling
            included, as a CUDA graph: True, False, or ``"auto"`` (on CUDA). Not with VecNormalize.
        policy_kwargs: ``net_arch``, ``encoder``, ``shared_hidden``, ``bias_fan``, ``adam_eps``; see
            ``DERPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, or spaces that DER cannot use.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
    }

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    policy: DERPolicy
    q_net: DERNetwork
    q_net_target: DERNetwork
    replay_buffer: PrioritizedReplayBuffer | None

    def __init__(
        self,
        policy: str | type[DERPolicy],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 1e-4,
        buffer_size: Annotated[int, AT_LEAST_ONE] = 100_000,
        learning_starts: Annotated[int, NON_NEGATIVE] = 1_600,
        batch_size: Annotated[int, AT_LEAST_ONE] = 32,
        gamma: Annotated[float, UNIT] = 0.99,
        train_freq: Annotated[int, AT_LEAST_ONE] = 1,
        gradient_steps: Annotated[int, Range(-1)] = 1,
        n_steps: Annotated[int, AT_LEAST_ONE] = 20,
        target_update_interval: Annotated[int, AT_LEAST_ONE] = 2_000,
        priority_exponent: Annotated[float, NON_NEGATIVE] = 0.5,
        beta_initial: Annotated[float, UNIT] = 0.4,
        beta_final: Annotated[float, UNIT] = 1.0,
        distributional: bool = True,
        n_atoms: Annotated[int, Range(2)] = 51,
        v_min: Annotated[float, Range()] = -10.0,
        v_max: Annotated[float, Range()] = 10.0,
        double: bool = True,
        dueling: bool = True,
        sigma: Annotated[float, POSITIVE] | None = 0.1,
        warmup: Literal["policy", "uniform"] = "policy",
        exploration_initial_eps: Annotated[float, UNIT] = 0.0,
        exploration_final_eps: Annotated[float, UNIT] = 0.0,
        exploration_steps: Annotated[int, AT_LEAST_ONE] = 1,
        image_shift: Annotated[int, NON_NEGATIVE] = 0,
        frame_stack: Annotated[int, AT_LEAST_ONE] | Literal["auto"] = "auto",
        max_grad_norm: Annotated[float, POSITIVE] | None = 10.0,
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
        check_arguments(DER.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, buffer_size, learning_starts, batch_size, tau=1.0,  # type: ignore[arg-type]
                gamma=gamma, train_freq=train_freq, gradient_steps=gradient_steps,
                n_steps=n_steps, policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log, verbose=verbose, device=resolve_device(device),
                support_multi_env=True, seed=None if seed is None else check_seed(seed),
                sde_support=False, supported_action_spaces=(spaces.Discrete,),
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.target_update_interval = target_update_interval
        self.priority_exponent = priority_exponent
        self.beta_initial, self.beta_final = beta_initial, beta_final
        self.distributional, self.n_atoms = distributional, n_atoms
        self.v_min, self.v_max = v_min, v_max
        self.double, self.dueling, self.sigma = double, dueling, sigma
        self.warmup = warmup
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_steps = exploration_steps
        self.image_shift, self.frame_stack = image_shift, frame_stack
        self.max_grad_norm = max_grad_norm
        self.capture = capture
        if capture is True and self.device.type != "cuda":
            raise RefusedError(
                f"{type(self).__name__}: capture=True on device {self.device}.",
                "Allowed on CUDA only; leave it at 'auto'.",
            )
        if not v_min < v_max:
            raise RefusedError(
                f"{type(self).__name__}: the support from v_min={v_min} to v_max={v_max} is empty.",
                "Allowed: v_min below v_max.",
            )
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _setup_model(self) -> None:
        # Not SB3's: it would take its own n-step buffer, which stores whole observations.
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        if self.replay_buffer is None:
            self.replay_buffer = self._make_buffer()
        head = Head(
            self.n_atoms if self.distributional else 1, self.v_min, self.v_max, self.dueling,
            self.sigma,
        )  # fmt: skip
        self.policy = cast(Any, self.policy_class)(
            self.observation_space, self.action_space, self.lr_schedule, head=head,
            **self.policy_kwargs,
        ).to(self.device)  # fmt: skip
        self.q_net, self.q_net_target = self.policy.q_net, self.policy.q_net_target
        self._adopt_optimizer()
        self._convert_train_freq()

    def _make_buffer(self) -> PrioritizedReplayBuffer:
        space = self.observation_space
        images = is_image_space(space, check_channels=False)
        if self.image_shift and not images:
            raise RefusedError(
                f"{type(self).__name__}: image_shift={self.image_shift} with observations {space}.",
                "Allowed for images only.",
            )
        kwargs: dict[str, Any] = {
            "n_steps": self.n_steps,
            "gamma": self.gamma,
            "exponent": self.priority_exponent,
        }
        if images:
            auto = self.frame_stack == "auto"
            kwargs["stack"] = default_stack(space) if auto else self.frame_stack
        kind = FrameReplayBuffer if images else PrioritizedReplayBuffer
        return kind(self.buffer_size, space, self.action_space, self.device, self.n_envs, **kwargs)

    # ------------------------------------------------------------------ acting

    @property
    def exploration_rate(self) -> float:
        """Share of uniformly random actions at this step, on top of the noise."""
        done = (self.num_timesteps - self.learning_starts) / self.exploration_steps
        return _between(self.exploration_initial_eps, self.exploration_final_eps, done)

    @property
    def beta(self) -> float:
        """Exponent of the importance weights at this step."""
        steps = max(self._total_timesteps - self.learning_starts, 1)
        done = (self.num_timesteps - self.learning_starts) / steps
        return _between(self.beta_initial, self.beta_final, done)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self._given_actions is not None:
            return self._given_actions, self._given_actions
        uniform = learning_starts if self.warmup == "uniform" else 0
        return super()._sample_action(uniform, action_noise, n_envs)

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """Choose actions as in SB3: noise and epsilon are off when ``deterministic``."""
        actions, state = self.policy.predict(observation, state, episode_start, deterministic)
        rate = 0.0 if deterministic else self.exploration_rate
        if rate > 0:
            explore = np.random.random(actions.shape) < rate  # noqa: NPY002
            random = np.random.randint(0, int(spaces.flatdim(self.action_space)), actions.shape)  # noqa: NPY002
            actions = np.where(explore, random, actions)
        return actions, state

    # ------------------------------------------------------------------ update

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take ``gradient_steps`` updates (module docstring, steps a to g)."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        if self.replay_buffer is None or not self.replay_buffer.can_sample:
            return  # the first window is not complete yet
        on_device = self._updates_on_device(self.replay_buffer)
        for step in range(gradient_steps):
            if step > 0:  # the first update has the noise of the last action
                self.q_net.reset_noise()
            if on_device is None:
                self._update(self.replay_buffer, batch_size)
            else:
                on_device.run(batch_size, self.beta)
            self._n_updates += 1
            if self._n_updates % self.target_update_interval == 0:
                self._copy_target()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/beta", self.beta)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def _update(self, buffer: PrioritizedReplayBuffer, batch_size: int) -> None:
        batch = buffer.sample(batch_size, self._vec_normalize_env)
        losses, results = self._differentiate(batch, buffer.size() * buffer.n_envs, self.beta)
        # The only wait for the device in an update: priorities and what is logged, in one copy.
        host = th.cat((losses, results)).cpu()
        check_finite({"losses": host}, self.num_timesteps)  # before it reaches the weights
        if self.max_grad_norm is not None and host[-2] > self.max_grad_norm:
            self._clip(results[1])
        self.policy.optimizer.step()
        buffer.update_priorities(batch.indices, host[:-3])
        self._record(host[-3:], 1)

    def _differentiate(
        self, batch: PrioritizedSamples, stored: int, beta: float | th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Set the gradients; return losses ``[B]``, and loss, gradient norm and mean Q value."""
        losses, q_values = self._losses(batch)
        weights = importance_weights(batch.probabilities, stored, beta)
        loss = (weights * losses).mean()
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = th.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        return losses.detach(), th.stack((loss.detach(), norm, q_values.mean()))

    def _clip(self, norm: th.Tensor) -> None:
        if self.max_grad_norm is not None:
            th.nn.utils.clip_grads_with_norm_(self._parameters, self.max_grad_norm, norm)

    def _record(self, sums: th.Tensor, n: int) -> None:
        for name, total in zip(("q_loss", "grad_norm", "q_mean"), sums.tolist(), strict=True):
            for _ in range(n):
                self.logger.record_mean(f"train/{name}", total / n)

    def _losses(self, batch: PrioritizedSamples) -> tuple[th.Tensor, th.Tensor]:
        """Return losses and Q values of the actions taken, without weights: ``[B]`` each."""
        inputs = self.policy.inputs(batch.observations, self.image_shift)
        next_inputs = self.policy.inputs(batch.next_observations, self.image_shift)
        rows = th.arange(len(inputs), device=self.device)
        actions = batch.actions.long().squeeze(-1)
        with self.q_net.summed_noise():
            outputs = self.q_net(inputs, True)[rows, actions]
            target = self._target(batch, next_inputs)
        if not self.distributional:
            q_values = outputs.squeeze(-1)
            return F.smooth_l1_loss(q_values, target, reduction="none"), q_values.detach()
        with th.no_grad():
            q_values = self.policy.values(outputs)
        return cross_entropy(target, outputs), q_values

    @th.no_grad()
    def _target(self, batch: PrioritizedSamples, next_inputs: th.Tensor) -> th.Tensor:
        """Return the target distributions ``[B, N]``, or values ``[B]`` without C51."""
        self.q_net_target.reset_noise()
        outputs = self.q_net_target(next_inputs, True)
        # Double Q: the online network chooses, with the noise it acts with.
        choosing = self.q_net(next_inputs, True) if self.double else outputs
        best = self.policy.values(choosing).argmax(-1)
        chosen = outputs[th.arange(len(best), device=best.device), best]
        rewards = batch.rewards.squeeze(-1)
        discounts = (batch.discounts * (1 - batch.dones)).squeeze(-1)
        if not self.distributional:
            return th.addcmul(rewards, discounts, chosen.squeeze(-1))
        return project(chosen.softmax(-1), rewards, discounts, self.policy.support)

    @th.no_grad()
    def _copy_target(self) -> None:
        th._foreach_copy_(list(self.q_net_target.parameters()), list(self.q_net.parameters()))

    # --------------------------------------------------------------- SB3 hooks

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "DER",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as in SB3; ``beta_final`` is reached after ``total_timesteps``."""
        super().learn(
            total_timesteps, callback, log_interval, tb_log_name,  # type: ignore[arg-type]
            reset_num_timesteps, progress_bar,
        )  # fmt: skip
        self._synchronize()
        return self

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "q_net", "q_net_target"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _between(first: float, last: float, done: float) -> float:
    """Return the point between two numbers at a share that is clipped to [0, 1]."""
    return first + (last - first) * min(max(done, 0.0), 1.0)
