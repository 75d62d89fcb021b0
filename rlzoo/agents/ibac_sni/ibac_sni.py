"""IBAC-SNI (Igl, Ciosek, Li, Tschiatschek, Zhang, Devlin, Hofmann 2019), arXiv 1910.12911.

PPO whose policy gradient is a mixture of two branches: of the policy without noise, which acts, and
of the same policy with noise, which regularises. The noise is that of a variational information
bottleneck, dropout, or batch normalisation. One update (numbers of the steps are used below):

====  ===================================================================  =====================
step  what                                                                 where
====  ===================================================================  =====================
1     advantages of the minibatch normalised                               ``sni.normalized``
2     both branches, log pibar(a|x) and log pi(a|x) = log 1/K sum_k pi_k   ``evaluate_branches``
3     lambda L(pibar / pi_r) + (1 - lambda) L(pi / pi_r), each clipped     ``sni.policy_term``
4     lambda H(pibar) + (1 - lambda) mean_k H(pi_k)                        ``sni.mixed``
5     squared error of the value, of the branch that acts                  ``sni.value_loss``
6     beta KL(q(z|x) || N(0, I)), in bits or nats                          ``bottleneck``
7     w/2 sum ||W||^2, biases left out; in the loss, so it is clipped      ``IBACSNI._losses``
8     gradient norm clipped, one Adam step                                 ``IBACSNI._update``
====  ===================================================================  =====================

Which quantity uses which noise is in :class:`~rlzoo.agents.ibac_sni.noise.NoiseSettings`.
Deviations from the official code are listed in the README of this package.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance

from rlzoo.agents.ibac_sni import diagnostics, sni
from rlzoo.agents.ibac_sni.bottleneck import KLUnit, kl_to_prior
from rlzoo.agents.ibac_sni.noise import NoiseSettings, Regulariser, Suspend
from rlzoo.agents.ibac_sni.on_policy import DeviceOnPolicyAlgorithm
from rlzoo.agents.ibac_sni.policies import Branch, CnnPolicy, IBACPolicy, MlpPolicy
from rlzoo.agents.ibac_sni.presets import PRESETS
from rlzoo.agents.ibac_sni.rollout import DeviceRolloutBuffer
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT, Range, check_arguments
from rlzoo.core.capture import make_adam, set_rate, wants_cuda_graph
from rlzoo.core.device import has_bf16, resolve_device
from rlzoo.core.finite import check_finite
from rlzoo.core.seeding import check_seed
from rlzoo.errors import RefusedError

DEFAULT_L2 = 1e-4


class IBACSNI(DeviceOnPolicyAlgorithm):
    """IBAC-SNI as an SB3 agent. The defaults are the preset ``procgen-easy``.

    ``[CoinRun]`` marks values of the authors' CoinRun code, ``[grid]`` those of their MultiRoom
    code, ``[Procgen]`` those of openai/train-procgen, ``[ours]`` our own options. ``PRESETS`` has
    whole sets. ``predict`` never uses noise: ``deterministic`` only chooses between the likeliest
    action and a drawn one.

    Args:
        policy: ``"CnnPolicy"``, ``"MlpPolicy"`` or a subclass of ``IBACPolicy``.
        env: Environment with a Discrete action space, or id of one.
        learning_rate: Of Adam; a number or a schedule. [CoinRun, Procgen] 5e-4, [grid] 7e-4.
        n_steps: Steps per environment and rollout. [CoinRun, Procgen] 256, [grid] 128.
        batch_size: Samples per minibatch. [Procgen] 2,048: 8 minibatches of 64 environments;
            [CoinRun] 3,072, [grid] 256.
        n_epochs: Passes through a rollout. [CoinRun, Procgen] 3, [grid] 4.
        gamma: Discount factor. [CoinRun, Procgen] 0.999, [grid] 0.99.
        gae_lambda: ``lambda`` of GAE. [all] 0.95.
        clip_range: ``epsilon`` of PPO; a number or a schedule. [all] 0.2.
        clip_range_vf: The same for values, None for no clipping. [all] 0.2.
        anneal: Multiply learning rate and clip ranges by the remaining progress. [CoinRun] True.
        normalize_advantage: In every minibatch. [CoinRun, Procgen] True, [grid] False.
        advantage_std: Divide by the ``"population"`` deviation [CoinRun] or the ``"sample"`` one,
            as SB3 does.
        ent_coef: Coefficient of the entropy. [all] 0.01.
        vf_coef: Coefficient of the value loss. [all] 0.5.
        value_loss_scale: Factor inside of the value loss. [CoinRun, Procgen] 0.5, [grid, SB3] 1.
        max_grad_norm: Clip of the gradient norm. [all] 0.5.
        adam_eps: ``epsilon`` of Adam. [all] 1e-5.
        normalize_reward: Divide rewards by the running deviation of the discounted return and clip
            them to [-10, 10], as SB3's ``VecNormalize`` does; where that wrapper does it already,
            this does nothing. [Procgen] True, [CoinRun, grid] False.
        cutout: Draw up to five coloured rectangles into every frame of a rollout, as the renderer
            of [CoinRun] does; acting, update and bootstrap see the same ones. ``predict`` sees
            frames as they are. [CoinRun] True, [Procgen, grid] False.
        bootstrap_timeouts: Add the discounted value of the last observation at a time limit, as
            SB3 does. [all] False: a time limit is an end.
        regulariser: ``"ib"``: information bottleneck; ``"dropout"`` on the latent; ``"batchnorm"``
            behind every convolution; ``"weight_decay"``: L2 only; ``"none"``.
        sni_lambda: Weight of the branch without noise; None: no selective noise injection, noise
            is everywhere. [paper] 0.5. Without effect where the regulariser is no noise.
        suspend: What a branch without noise is. ``"identity"``: no noise; ``"frozen"``, for dropout
            only: a mask that stays for the rollout and its update, shared by the batch [CoinRun].
        n_noise_samples: ``K``, samples of the bottleneck per observation. [CoinRun] 12, [grid] 1.
        latent_dim: Width of the layer in front of the heads. [CoinRun] 256, [grid] 64.
        sigma_offset: ``c`` in ``sigma = softplus(rho + c)``. [CoinRun] -5, [grid] 0.
        beta: Coefficient of the KL. [CoinRun] 1e-4, [grid] 1e-6.
        kl_unit: Unit of the KL in the loss. [CoinRun] ``"bits"``, [grid] ``"nats"``.
        dropout_p: Share of the latent that dropout sets to zero. [CoinRun, grid] 0.2.
        l2_coef: ``w``; None: 1e-4 [CoinRun, grid] with every regulariser but ``"none"``.
        critic_noise: The value loss uses noise although the policy that acts does not, as the
            dropout code of [CoinRun] does.
        objective: ``"ppo"``, or ``"a2c"``: log-probability times advantage, noisy branch with the
            importance weight ``pi / pi_r``. Meant for ``n_epochs=1`` and one minibatch.
        bf16: Trunk and latent layer in bf16 (autocast); heads and losses stay in fp32 [ours].
            ``"auto"``: where the processor has instructions for it; without them it is ten times
            slower than fp32.
        capture: Replay acting and update as CUDA graphs: True, False, or ``"auto"`` (on CUDA only).
        policy_kwargs: ``encoder``, ``net_arch``, ``initial_gain``, ``channels_last``; see
            ``IBACPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, or spaces that cannot be used.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
    }

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    policy: IBACPolicy
    rollout_buffer: DeviceRolloutBuffer

    def __init__(
        self,
        policy: str | type[IBACPolicy],
        env: GymEnv | str | None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 5e-4,
        n_steps: Annotated[int, AT_LEAST_ONE] = 256,
        batch_size: Annotated[int, AT_LEAST_ONE] = 2_048,
        n_epochs: Annotated[int, AT_LEAST_ONE] = 3,
        gamma: Annotated[float, UNIT] = 0.999,
        gae_lambda: Annotated[float, UNIT] = 0.95,
        clip_range: Annotated[float, POSITIVE] | Schedule = 0.2,
        clip_range_vf: Annotated[float, POSITIVE] | Schedule | None = 0.2,
        anneal: bool = False,
        normalize_advantage: bool = True,
        advantage_std: Literal["population", "sample"] = "population",
        ent_coef: Annotated[float, NON_NEGATIVE] = 0.01,
        vf_coef: Annotated[float, NON_NEGATIVE] = 0.5,
        value_loss_scale: Annotated[float, POSITIVE] = 0.5,
        max_grad_norm: Annotated[float, POSITIVE] = 0.5,
        adam_eps: Annotated[float, POSITIVE] = 1e-5,
        normalize_reward: bool = True,
        cutout: bool = False,
        bootstrap_timeouts: bool = False,
        regulariser: Regulariser = "ib",
        sni_lambda: Annotated[float, UNIT] | None = 0.5,
        suspend: Suspend = "identity",
        n_noise_samples: Annotated[int, AT_LEAST_ONE] = 12,
        latent_dim: Annotated[int, AT_LEAST_ONE] = 256,
        sigma_offset: Annotated[float, Range()] = -5.0,
        beta: Annotated[float, NON_NEGATIVE] = 1e-4,
        kl_unit: KLUnit = "bits",
        dropout_p: Annotated[float, Range(0, 1, high_open=True)] = 0.2,
        l2_coef: Annotated[float, NON_NEGATIVE] | None = None,
        critic_noise: bool = False,
        objective: sni.Objective = "ppo",
        bf16: bool | Literal["auto"] = False,
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
        check_arguments(IBACSNI.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, n_steps, gamma, gae_lambda, ent_coef, vf_coef,  # type: ignore[arg-type]
                max_grad_norm, use_sde=False, sde_sample_freq=-1, policy_kwargs=policy_kwargs,
                stats_window_size=stats_window_size, tensorboard_log=tensorboard_log,
                verbose=verbose, seed=None if seed is None else check_seed(seed),
                device=resolve_device(device), supported_action_spaces=(spaces.Discrete,),
                _init_setup_model=False,
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        self.batch_size, self.n_epochs = batch_size, n_epochs
        self.clip_range, self.clip_range_vf, self.anneal = clip_range, clip_range_vf, anneal
        self.normalize_advantage, self.advantage_std = normalize_advantage, advantage_std
        self.value_loss_scale, self.adam_eps = value_loss_scale, adam_eps
        self.normalize_reward, self.bootstrap_timeouts = normalize_reward, bootstrap_timeouts
        self.cutout = cutout
        self.regulariser, self.sni_lambda, self.suspend = regulariser, sni_lambda, suspend
        self.n_noise_samples, self.latent_dim = n_noise_samples, latent_dim
        self.sigma_offset, self.beta, self.kl_unit = sigma_offset, beta, kl_unit
        self.dropout_p, self.l2_coef, self.critic_noise = dropout_p, l2_coef, critic_noise
        self.objective, self.bf16, self.capture = objective, bf16, capture
        if _init_setup_model:
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _check_combinations(self) -> None:
        name = type(self).__name__
        if self.suspend == "frozen" and self.regulariser != "dropout":
            raise RefusedError(
                f"{name}: suspend='frozen' with regulariser={self.regulariser!r}.",
                "Allowed with regulariser='dropout': only dropout has a mask to freeze.",
            )
        if self.regulariser == "none" and self.l2_coef:
            raise RefusedError(
                f"{name}: l2_coef={self.l2_coef} with regulariser='none'.",
                "Allowed with every other regulariser.",
                "Set regulariser=weight_decay.",
            )
        if self.regulariser == "weight_decay" and self.l2_coef == 0:
            raise RefusedError(
                f"{name}: l2_coef=0 with regulariser='weight_decay'.", "Set regulariser=none."
            )
        if self.capture is True and self.device.type != "cuda":
            raise RefusedError(
                f"{name}: capture=True on device {self.device}.",
                "Allowed on CUDA only; leave it at 'auto'.",
            )

    def _setup_model(self) -> None:
        self._check_combinations()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self._graph = wants_cuda_graph(self.capture, self.device)
        self.policy = cast(Any, self.policy_class)(
            self.observation_space, self.action_space, self.lr_schedule,
            noise=self._noise_settings(), **self.policy_kwargs,
        ).to(self.device)  # fmt: skip
        optimizer = make_adam(self.policy.parameters(), self.lr_schedule(1), self._graph)
        for group in optimizer.param_groups:
            group["eps"] = self.adam_eps
        self.policy.optimizer = optimizer
        self.rollout_buffer = DeviceRolloutBuffer(
            self.n_steps, self.observation_space, self.action_space, self.device, self.gae_lambda,
            self.gamma, self.n_envs, self.policy.is_image and self.policy.channels_last,
        )  # fmt: skip
        self._check_batch_statistics()
        self._check_cutout()
        self._clip = FloatSchedule(cast(Any, self.clip_range))
        self._clip_vf = None
        if self.clip_range_vf is not None:
            self._clip_vf = FloatSchedule(cast(Any, self.clip_range_vf))
        # On the device, where a CUDA graph reads the values of the day.
        self._clip_now = th.zeros(2, device=self.device)
        self._names: tuple[str, ...] = ()
        self._setup_acting()

    def _noise_settings(self) -> NoiseSettings:
        return NoiseSettings(
            self.regulariser, self.sni_lambda, self.suspend, self.n_noise_samples, self.latent_dim,
            self.sigma_offset, self.dropout_p, self.critic_noise,
            has_bf16(self.device) if self.bf16 == "auto" else self.bf16,
        )  # fmt: skip

    def _check_batch_statistics(self) -> None:
        alone = self.n_envs == 1 and not self.policy.is_image and self.env is not None
        if alone and self.regulariser == "batchnorm" and self.sni_lambda is None:
            raise RefusedError(
                f"{type(self).__name__}: batch norm acts on the statistics of one vector.",
                "Allowed: several environments, or sni_lambda from 0 to 1.",
            )

    def _check_cutout(self) -> None:
        if self.cutout and (not self.policy.is_image or self.policy.encoder == "grid"):
            raise RefusedError(
                f"{type(self).__name__}: cutout=True with observations of "
                f"{self.observation_space} and encoder={self.policy.encoder!r}.",
                "Allowed for frames; grids and vectors have no colours.",
            )

    # ------------------------------------------------------------------ update

    def train(self) -> None:
        """Learn from the rollout: ``n_epochs`` passes in minibatches (module docstring)."""
        self.policy.set_training_mode(True)
        self._follow_schedules()
        total, first, count = None, None, 0
        for _ in range(self.n_epochs):
            for rows in self.rollout_buffer.minibatches(self.batch_size):
                values = self._run(self._update, rows)
                first = values.clone() if first is None else first
                total = values.clone() if total is None else total.add_(values)
                count += 1
            self._n_updates += 1
        self.policy.redraw("slow")
        if total is not None and first is not None:
            self._log_training(total / count, first)

    def _follow_schedules(self) -> None:
        progress = self._current_progress_remaining
        factor = progress if self.anneal else 1.0
        rate = factor * self.lr_schedule(progress)
        set_rate(self.policy.optimizer, rate)
        clip = factor * self._clip(progress)
        clip_vf = None if self._clip_vf is None else factor * self._clip_vf(progress)
        self._clip_now.copy_(th.tensor([clip, clip_vf or 0.0]))
        self.logger.record("train/learning_rate", rate)
        self.logger.record("train/clip_range", clip)
        if clip_vf is not None:
            self.logger.record("train/clip_range_vf", clip_vf)

    def _update(self, rows: th.Tensor) -> th.Tensor:
        """Take one step on a minibatch, without any synchronisation; returns what is logged.

        Args:
            rows: Rows of the rollout buffer, ``[B]``.
        """
        self.policy.redraw("fast")
        loss, values = self._losses(rows)
        optimizer = self.policy.optimizer
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # 8. Everything is clipped together, the L2 term included.
        norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
        optimizer.step()
        values |= {"loss": loss.detach(), "grad_norm": norm}
        self._names = tuple(values)
        return th.stack(list(values.values()))

    def _losses(self, rows: th.Tensor) -> tuple[th.Tensor, dict[str, th.Tensor]]:
        """Return the loss of a minibatch (steps 1 to 7), and what is logged about it."""
        take = partial(self.rollout_buffer.rows, index=rows)
        clip, clip_vf = self._clip_now

        # 1. Advantages: data, as everything that the rollout left.
        advantages = take("advantages")
        if self.normalize_advantage:
            advantages = sni.normalized(advantages, self.advantage_std)

        # 2. Both branches, from the same observations and actions.
        branches = self.policy.evaluate_branches(take("observations"), take("actions"))
        quiet, noisy = branches.quiet, branches.noisy
        settings = self.policy.noise

        # 3. Policy: each branch has its own ratio to the policy that acted, and its own clipping.
        term = partial(
            sni.policy_term, old_log_prob=take("log_probs"), advantages=advantages,
            clip_range=clip, objective=self.objective,
        )  # fmt: skip
        quiet_term = None if quiet is None else term(quiet.log_prob, weighted=False)
        noisy_term = None if noisy is None else term(noisy.log_prob)
        policy_loss = sni.mixed(settings.weights, (_loss(quiet_term), _loss(noisy_term)))

        # 4. Entropy: of the noisy branch the mean over the samples, not that of the mixture.
        entropy = sni.mixed(settings.weights, (_mean_entropy(quiet), _mean_entropy(noisy)))

        # 5. Value.
        critic = cast(Branch, noisy if settings.critic == "noisy" else quiet)
        error = sni.value_loss(
            critic.values, take("values"), take("returns"),
            None if self.clip_range_vf is None else clip_vf,
        )  # fmt: skip
        value_loss = self.value_loss_scale * error
        loss = policy_loss - self.ent_coef * entropy + self.vf_coef * value_loss

        # 6. Information bottleneck.
        if branches.latent is not None:
            loss = loss + self.beta * kl_to_prior(branches.latent, self.kl_unit).mean()

        # 7. L2.
        if self.l2 > 0:
            squares = th.stack([weight.square().sum() for weight in self.policy.weights()])
            loss = loss + self.l2 * 0.5 * squares.sum()

        values = {
            "policy_gradient_loss": policy_loss, "entropy_loss": -entropy, "value_loss": value_loss,
        }  # fmt: skip
        terms = [found for found in (quiet_term, noisy_term) if found is not None]
        return loss, diagnostics.collect(values, terms, branches.latent)

    @property
    def l2(self) -> float:
        """Coefficient of the L2 term, ``l2_coef`` with its default filled in."""
        if self.l2_coef is not None:
            return float(self.l2_coef)
        return 0.0 if self.regulariser == "none" else DEFAULT_L2

    # ----------------------------------------------------------------- logging

    def _log_training(self, means: th.Tensor, first: th.Tensor) -> None:
        """Record means over the minibatches, with the only wait for the device of an update."""
        buffer = self.rollout_buffer
        check_finite({"losses": means}, self.num_timesteps)
        named = dict(zip(self._names, means.tolist(), strict=True))
        named["approx_kl_first"] = float(first[self._names.index("approx_kl")])
        for name, value in named.items():
            self.logger.record(f"train/{name}", value)
        values, returns = (cast(th.Tensor, x).flatten().cpu().numpy()
                           for x in (buffer.values, buffer.returns))  # fmt: skip
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    # --------------------------------------------------------------- SB3 hooks

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "IBACSNI",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as in SB3; ``log_interval`` counts rollouts."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name,  # type: ignore[arg-type]
            reset_num_timesteps, progress_bar,
        )  # fmt: skip

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_names", "_clip", "_clip_vf", "_clip_now"]


def _loss(term: sni.PolicyTerm | None) -> th.Tensor | None:
    return None if term is None else term.loss


def _mean_entropy(branch: Branch | None) -> th.Tensor | None:
    return None if branch is None else branch.entropy.mean()
