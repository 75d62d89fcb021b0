"""BEAR (bootstrapping error accumulation reduction), arXiv 1906.00949.

Twin critics, a stochastic actor whose samples are held close to those of a behaviour model by a
sampled MMD, and a multiplier for that constraint tuned by dual ascent. One update:

====  =============================================  ==========================================
step  what                                           where
====  =============================================  ==========================================
1     behaviour model, one Adam step                 ``behavior.loss``
2     target y, soft-clipped over K critics, max     ``critics.soft_clipped_target``
      over p actions of the actor
3     critics, one Adam step on sum_i (Q_i - y)^2    ``BEAR._critic_loss``
4     actor, one Adam step on                        ``BEAR._actor_loss``, ``mmd.mmd``
      -1{t >= T_warm} Q + alpha (MMD - eps)
5     log alpha, one Adam step, then clamp           ``losses.dual_gradient``
6     Polyak averages                                ``layers.polyak_update``
====  =============================================  ==========================================

Deviations from the official code are listed in the README of this package.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule

from rlzoo.agents.bear.diagnostics import LastUpdate, describe, describe_alpha, to_floats
from rlzoo.agents.bear.losses import dual_gradient
from rlzoo.agents.bear.mmd import mmd, mmd_floor
from rlzoo.agents.bear.policies import BEARActor, BEARPolicy
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT, Range
from rlzoo.core.behavior import tanh_log_prob
from rlzoo.core.critics import pair, soft_clipped_target
from rlzoo.core.layers import polyak_update
from rlzoo.core.offline_update import DeviceUpdates
from rlzoo.errors import RefusedError


class _ActorStep(NamedTuple):
    """What one evaluation of the actor loss leaves behind."""

    loss: th.Tensor
    distance: th.Tensor  # [B]
    mean: th.Tensor  # [B, d], pre-tanh
    std: th.Tensor  # [B, d]
    behavior: th.Tensor  # [B, N, d], pre-tanh


class BEAR(DeviceUpdates):
    """BEAR as an SB3 agent. The defaults are those of the D4RL code, which the authors recommend.

    ``[D4RL]`` marks values read in the code of rail-berkeley/d4rl_evaluations, ``[2019]`` those of
    aviralkumar2907/BEAR (``PRESETS["neurips2019"]`` has them all), ``[ours]`` our own options.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``BEARPolicy``.
        env: Environment, id of one, or None when ``dataset`` is given. It is never stepped.
        dataset: Data to learn from; see :class:`~rlzoo.core.offline.OfflineAlgorithm`.
        learning_rate: Of the critics; a schedule scales the other three rates as well. [D4RL] 3e-4,
            [2019] 1e-3.
        actor_learning_rate: Of the actor. [D4RL] 1e-4, [2019] 1e-3.
        behavior_learning_rate: Of the behaviour model. [D4RL] 3e-4, [2019] 1e-3.
        alpha_learning_rate: Of log alpha. [D4RL, 2019] 1e-3.
        batch_size: Transitions per update. [D4RL] 256, [2019] 100.
        tau: Polyak rate of the targets. [D4RL, 2019] 0.005.
        gamma: Discount factor. [D4RL, 2019] 0.99.
        distance: ``"mmd"`` (paper) or ``"kl"``, the forward KL to the behaviour model (ablation).
        kernel: ``"laplacian"`` [D4RL: Hopper, Walker2d] or ``"gaussian"`` [D4RL: HalfCheetah].
        sigma: Width of the kernel, not squared; ``"median"`` takes it from the batch [ours].
        threshold: ``eps`` of the constraint. None means 0.05 for the MMD, -2 for the KL [2019].
        n_mmd_samples: Samples ``N`` per state and distribution. [D4RL] 4, [2019] 5.
        mmd_estimator: ``"v"`` [D4RL, 2019], or ``"u"``: unbiased, no square root, compared with
            the square of the threshold [ours].
        alpha: ``"auto"`` tunes the multiplier; a number fixes it.
        log_alpha_init: First value of log alpha, or ``"normal"`` for a standard normal draw [2019].
        log_alpha_bounds: Clamp of log alpha. [D4RL, 2019] (-5, 10).
        dual: ``"exp"`` [D4RL, 2019]: the gradient carries alpha; ``"linear"``: it does not [ours].
        warmup_steps: Updates without the Q term of the actor loss. [D4RL] 40,000, [2019] 20,000.
        n_target_samples: Actions ``p`` per next state in the target. [D4RL, 2019] 10.
        target_mix: Weight ``lam`` of the smaller critic in the target. [D4RL, 2019] 0.75.
        n_q_samples: Of the N actor samples, how many are averaged in the Q term. [D4RL] 1,
            [2019] all N.
        sequential_updates: The actor sees the critics after their step [2019] instead of before.
        use_target_actor: Draw target actions from a Polyak copy of the actor [2019].
        actor_noise_clip: Clip of the standard normal noise of the actor's samples in training;
            [2019] 0.5, [D4RL] none.
        bf16: Evaluate what needs no gradient (targets, behaviour samples) in bf16 [ours].
        capture: Replay the update as a CUDA graph: True, False, or ``"auto"`` (on CUDA only).
        policy_kwargs: ``net_arch``, ``vae_arch``, ``n_critics``, ``behavior``, ``log_std_bounds``,
            ``n_eval_samples`` (m: [D4RL] 100, [2019] 10), ``acting``; see ``BEARPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BEARPolicy}
    SUMMED: ClassVar[tuple[str, ...]] = (
        *("critic_loss", "actor_loss", "vae_loss", "vae_recon", "vae_kl", "mmd_mean"),
    )

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "d4rl": {},
        "neurips2019": {
            "learning_rate": 1e-3,
            "actor_learning_rate": 1e-3,
            "behavior_learning_rate": 1e-3,
            "batch_size": 100,
            "sigma": 10.0,
            "n_mmd_samples": 5,
            "log_alpha_init": "normal",
            "warmup_steps": 20_000,
            "n_q_samples": 5,
            "sequential_updates": True,
            "use_target_actor": True,
            "actor_noise_clip": 0.5,
            "policy_kwargs": {"net_arch": [400, 300], "n_eval_samples": 10, "log_std_bounds": None},
        },
        # What the paper argues with; each differs from `d4rl` in one thing.
        "kl": {"distance": "kl"},
        "gaussian-kernel": {"kernel": "gaussian"},
        "laplacian-10": {"sigma": 10.0},
        "2-samples": {"n_mmd_samples": 2},
        "10-samples": {"n_mmd_samples": 10},
        "loose": {"threshold": 0.2},
        "no-constraint": {"alpha": 0.0, "warmup_steps": 0},
    }

    policy: BEARPolicy
    actor: BEARActor
    log_alpha_bounds: tuple[float, float]

    def __init__(
        self,
        policy: str | type[BEARPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 3e-4,
        actor_learning_rate: Annotated[float, POSITIVE] = 1e-4,
        behavior_learning_rate: Annotated[float, POSITIVE] = 3e-4,
        alpha_learning_rate: Annotated[float, POSITIVE] = 1e-3,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        tau: Annotated[float, UNIT] = 0.005,
        gamma: Annotated[float, UNIT] = 0.99,
        distance: Literal["mmd", "kl"] = "mmd",
        kernel: Literal["laplacian", "gaussian"] = "laplacian",
        sigma: Annotated[float, POSITIVE] | Literal["median"] = 20.0,
        threshold: Annotated[float, Range()] | None = None,
        n_mmd_samples: Annotated[int, Range(2)] = 4,
        mmd_estimator: Literal["v", "u"] = "v",
        alpha: Annotated[float, NON_NEGATIVE] | Literal["auto"] = "auto",
        log_alpha_init: Annotated[float, Range()] | Literal["normal"] = 0.0,
        log_alpha_bounds: tuple[float, float] = (-5.0, 10.0),
        dual: Literal["exp", "linear"] = "exp",
        warmup_steps: Annotated[int, NON_NEGATIVE] = 40_000,
        n_target_samples: Annotated[int, AT_LEAST_ONE] = 10,
        target_mix: Annotated[float, UNIT] = 0.75,
        n_q_samples: Annotated[int, AT_LEAST_ONE] = 1,
        sequential_updates: bool = False,
        use_target_actor: bool = False,
        actor_noise_clip: Annotated[float, POSITIVE] | None = None,
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
        super().__init__(
            policy, env, dataset, learning_rate, arguments, batch_size=batch_size, tau=tau,
            gamma=gamma, policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device,
        )  # fmt: skip
        self.actor_learning_rate = actor_learning_rate
        self.behavior_learning_rate = behavior_learning_rate
        self.alpha_learning_rate = alpha_learning_rate
        self.distance, self.kernel, self.sigma = distance, kernel, sigma
        self.threshold = threshold
        self.n_mmd_samples, self.mmd_estimator = n_mmd_samples, mmd_estimator
        self.alpha, self.dual = alpha, dual
        low, high = log_alpha_bounds
        self.log_alpha_init, self.log_alpha_bounds = log_alpha_init, (low, high)
        self.warmup_steps = warmup_steps
        self.n_target_samples, self.target_mix = n_target_samples, target_mix
        self.n_q_samples, self.sequential_updates = n_q_samples, sequential_updates
        self.use_target_actor, self.actor_noise_clip = use_target_actor, actor_noise_clip
        self.bf16, self.capture = bf16, capture
        self._check_combinations()
        if _init_setup_model:
            self._setup_model()

    def _check_combinations(self) -> None:
        self._check_capture()
        low, high = self.log_alpha_bounds
        if not low < high:
            raise RefusedError(
                f"BEAR: log_alpha_bounds=({low}, {high}) is empty.",
                "Allowed: the lower bound first, then a larger upper bound.",
            )
        if self.n_q_samples > self.n_mmd_samples:
            raise RefusedError(
                f"BEAR: n_q_samples={self.n_q_samples} is more than n_mmd_samples.",
                f"Allowed: 1 to {self.n_mmd_samples}; the Q term averages over the MMD's samples.",
            )

    # ------------------------------------------------------------------ set-up

    def _policy_arguments(self) -> dict[str, Any]:
        return {**super()._policy_arguments(), "target_actor": self.use_target_actor}

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.critic_target, self.actor_target = self.policy.critic_target, self.policy.actor_target
        self.behavior = self.policy.behavior
        initial = np.random.randn() if self.log_alpha_init == "normal" else self.log_alpha_init  # noqa: NPY002
        if self.alpha != "auto":
            initial = float(np.log(max(float(self.alpha), 1e-30)))
        self.log_alpha = th.tensor(float(initial), device=self.device, requires_grad=True)
        self._last: LastUpdate | None = None
        rates = {
            "critic": self.lr_schedule(1),
            "actor": self.actor_learning_rate,
            "behavior": self.behavior_learning_rate,
            "alpha": self.alpha_learning_rate,
        }
        self.critic_optimizer = self._adam(self.critic.parameters(), rates["critic"])
        self.actor_optimizer = self._adam(self.actor.parameters(), rates["actor"])
        self.behavior_optimizer = self._adam(self.behavior.parameters(), rates["behavior"])
        self.alpha_optimizer = self._adam([self.log_alpha], rates["alpha"])
        self._prepare_updates(rates)

    # ------------------------------------------------------------------ update

    def _next_update(self, batch_size: int) -> partial[th.Tensor]:
        """Return steps 1 to 6 of the module docstring; one graph without the Q term, one with."""
        return partial(self._update, self._n_updates < self.warmup_steps, batch_size)

    def _update(self, warm: bool, batch_size: int) -> th.Tensor:
        """One update, without any synchronisation; returns the values named in ``SUMMED``."""
        batch = self.replay_buffer.sample(batch_size, self._vec_normalize_env)  # type: ignore[union-attr]

        # 1. Behaviour model.
        vae_loss, vae_recon, vae_kl = self.behavior.loss(batch.observations, batch.actions)
        self._differentiate(vae_loss, self.behavior)
        self.behavior_optimizer.step()

        # 2. Target, 3. critics, 4. actor: all with the weights before the step ("joint", D4RL
        # code), or the actor with the critics after theirs ("sequential", 2019 code). The joint
        # order differentiates both before it steps either: a fused Adam step changes weights that
        # a pending backward pass needs, and autograd does not notice.
        target = self._target(batch)
        critic_loss, q_values = self._critic_loss(batch, target)
        self._differentiate(critic_loss, self.critic)
        if self.sequential_updates:
            self.critic_optimizer.step()
        step = self._actor_loss(batch.observations, warm)
        self._differentiate(step.loss, self.actor)
        if not self.sequential_updates:
            self.critic_optimizer.step()
        self.actor_optimizer.step()

        # 5. Multiplier.
        distance = step.distance.detach()
        if self.alpha == "auto":
            self._dual_step(distance.mean())

        # 6. Targets.
        polyak_update(self.critic, self.critic_target, self.tau)
        if self.actor_target is not None:
            polyak_update(self.actor, self.actor_target, self.tau)

        self._last = LastUpdate(
            q_values.detach(), target, distance, step.mean.detach(), step.std.detach(),
            step.behavior, batch.actions,
        )  # fmt: skip
        return th.stack(
            (critic_loss, step.loss, vae_loss, vae_recon, vae_kl, distance.mean())
        ).detach()

    @th.no_grad()
    def _target(self, batch: ReplayBufferSamples) -> th.Tensor:
        """Return the soft-clipped target, ``[B]``."""
        actor = self.actor if self.actor_target is None else self.actor_target
        next_obs = batch.next_observations
        u, _, _ = actor.sample(next_obs, self.n_target_samples, self.actor_noise_clip)
        pairs = pair(next_obs, th.tanh(u))
        evaluate = self.critic_target.forward_bfloat16 if self.bf16 else self.critic_target
        target_q = evaluate(pairs).unflatten(-1, u.shape[:2])
        rewards, dones = batch.rewards.squeeze(-1), batch.dones.squeeze(-1)
        return soft_clipped_target(target_q, rewards, dones, self.gamma, self.target_mix)

    def _critic_loss(
        self, batch: ReplayBufferSamples, target: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return ``sum_i mean_B (Q_i - y)^2`` and the Q values ``[K, B]``."""
        q_values = self.critic(th.cat([batch.observations, batch.actions], -1))
        return (q_values - target).square().mean(-1).sum(), q_values

    def _actor_loss(self, observations: th.Tensor, warm: bool) -> _ActorStep:
        """Evaluate ``mean_b [-1{not warm} Qhat + alpha (distance - eps)]``, alpha held constant."""
        with th.no_grad():
            behavior = self.behavior.sample(observations, self.n_mmd_samples, self.bf16)
        u, mean, std = self.actor.sample(observations, self.n_mmd_samples, self.actor_noise_clip)
        distance = self._distance(behavior, u, mean, std)
        loss = self.log_alpha.detach().exp() * (distance.mean() - self._epsilon())
        if not warm:
            loss = loss - self._q_of_actor(observations, u).mean()
        return _ActorStep(loss, distance, mean, std, behavior)

    def _q_of_actor(self, observations: th.Tensor, u: th.Tensor) -> th.Tensor:
        """Return ``min_i`` of the mean of Q_i over the first samples, ``[B]``."""
        actions = th.tanh(u[:, : self.n_q_samples])
        q_values = self.critic(pair(observations, actions)).unflatten(-1, actions.shape[:2])
        lowest: th.Tensor = q_values.mean(-1).amin(0)
        return lowest

    def _distance(
        self, behavior: th.Tensor, u: th.Tensor, mean: th.Tensor, std: th.Tensor
    ) -> th.Tensor:
        """Return the constrained distance per state, ``[B]``."""
        if self.distance == "mmd":
            return mmd(behavior, u, self.sigma, self.kernel, self.mmd_estimator)
        log_prob = tanh_log_prob(behavior, mean.unsqueeze(1), std.log().unsqueeze(1))
        return -log_prob.mean(-1)

    def _epsilon(self) -> float:
        if self.threshold is None:
            epsilon = 0.05 if self.distance == "mmd" else -2.0
        else:
            epsilon = float(self.threshold)
        squared = self.distance == "mmd" and self.mmd_estimator == "u"
        return epsilon**2 if squared else epsilon

    def _dual_step(self, mean_distance: th.Tensor) -> None:
        violation = mean_distance - self._epsilon()
        self.log_alpha.grad = dual_gradient(self.log_alpha.detach(), violation, self.dual)
        self.alpha_optimizer.step()
        with th.no_grad():
            self.log_alpha.clamp_(*self.log_alpha_bounds)

    # ----------------------------------------------------------------- logging

    def _finite_candidates(self) -> dict[str, th.Tensor]:
        return {**super()._finite_candidates(), "log_alpha": self.log_alpha.detach()}

    def _log_training(self) -> None:
        """Record means over the updates since the last line, and the state of the last batch."""
        super()._log_training()
        if self._last is not None:
            for name, value in self._diagnostics(self._last).items():
                self.logger.record(f"train/{name}", value)

    def _diagnostics(self, last: LastUpdate) -> dict[str, float]:
        values = describe(last) | describe_alpha(self.log_alpha, self.log_alpha_bounds)
        if self.distance == "mmd" and self.mmd_estimator == "v":
            floor = mmd_floor(last.behavior, self.sigma, self.kernel)
            values["mmd_floor"] = floor
            values["mmd_floor_above_threshold"] = floor > self._epsilon()
        return to_floats(values)

    # --------------------------------------------------------------- SB3 hooks

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "critic", "critic_target", "actor_target", "behavior"]
        return [*super()._excluded_save_params(), *aliases, "_last"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return modules, [*variables, "log_alpha"]
