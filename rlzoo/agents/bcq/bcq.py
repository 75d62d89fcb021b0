"""BCQ (batch-constrained deep Q-learning), arXiv 1812.02900: the closest relative of BEAR.

A behaviour model proposes actions, a small network moves each by at most ``phi``, and the critic
chooses. One update, in the order of the official code:

1. behaviour model, one Adam step on reconstruction + 0.5 KL;
2. target: ``p`` actions per next state, decoded and perturbed by the target networks, soft-clipped
   over the critics, best of ``p``;
3. critics, one Adam step on ``sum_i (Q_i - y)^2``;
4. perturbation, one Adam step on ``-Q_1(s, a + xi(s, a))``, with the critics after their step;
5. Polyak averages of critics and perturbation.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples, Schedule

from rlzoo.agents.bcq.policies import BCQPolicy
from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, UNIT
from rlzoo.core.critics import first_q, pair, soft_clipped_target
from rlzoo.core.layers import polyak_update
from rlzoo.core.offline_update import DeviceUpdates


class BCQ(DeviceUpdates):
    """BCQ as an SB3 agent. The defaults are those of the official code (sfujim/BCQ).

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``BCQPolicy``.
        env: Environment, id of one, or None when ``dataset`` is given. It is never stepped.
        dataset: Data to learn from; see :class:`~rlzoo.core.offline.OfflineAlgorithm`.
        learning_rate: Of all three optimisers.
        batch_size: Transitions per update.
        tau: Polyak rate of the targets.
        gamma: Discount factor.
        n_target_samples: Actions ``p`` per next state in the target.
        target_mix: Weight ``lam`` of the smaller critic in the target.
        capture: Replay the update as a CUDA graph: True, False, or ``"auto"`` (on CUDA only).
        policy_kwargs: ``net_arch``, ``vae_arch``, ``n_critics``, ``phi``, ``n_eval_samples``; see
            ``BCQPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BCQPolicy}
    SUMMED: ClassVar[tuple[str, ...]] = (
        *("critic_loss", "actor_loss", "vae_loss", "vae_recon", "vae_kl", "q_mean", "target_mean"),
    )

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "bcq": {},
        # The baseline in BEAR's repository chooses among 10 candidates when acting.
        "neurips2019": {"policy_kwargs": {"n_eval_samples": 10}},
    }

    policy: BCQPolicy

    def __init__(
        self,
        policy: str | type[BCQPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 1e-3,
        batch_size: Annotated[int, AT_LEAST_ONE] = 100,
        tau: Annotated[float, UNIT] = 0.005,
        gamma: Annotated[float, UNIT] = 0.99,
        n_target_samples: Annotated[int, AT_LEAST_ONE] = 10,
        target_mix: Annotated[float, UNIT] = 0.75,
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
        self.n_target_samples, self.target_mix = n_target_samples, target_mix
        self.capture = capture
        self._check_capture()
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor, self.critic = self.policy.actor, self.policy.critic
        self.actor_target, self.critic_target = self.policy.actor_target, self.policy.critic_target
        self.behavior = self.policy.behavior
        rate = self.lr_schedule(1)
        self.critic_optimizer = self._adam(self.critic.parameters(), rate)
        self.actor_optimizer = self._adam(self.actor.parameters(), rate)
        self.behavior_optimizer = self._adam(self.behavior.parameters(), rate)
        self._prepare_updates(dict.fromkeys(("critic", "actor", "behavior"), rate))

    def _next_update(self, batch_size: int) -> partial[th.Tensor]:
        return partial(self._update, batch_size)

    def _update(self, batch_size: int) -> th.Tensor:
        """Steps 1 to 5 of the module docstring; returns the values named in ``SUMMED``."""
        batch = self.replay_buffer.sample(batch_size, self._vec_normalize_env)  # type: ignore[union-attr]

        vae_loss, vae_recon, vae_kl = self.behavior.loss(batch.observations, batch.actions)
        self._differentiate(vae_loss, self.behavior)
        self.behavior_optimizer.step()

        target = self._target(batch)
        q_values = self.critic(th.cat([batch.observations, batch.actions], -1))
        critic_loss = (q_values - target).square().mean(-1).sum()
        self._differentiate(critic_loss, self.critic)
        self.critic_optimizer.step()

        actor_loss = self._actor_loss(batch.observations)
        self._differentiate(actor_loss, self.actor)
        self.actor_optimizer.step()

        polyak_update(self.critic, self.critic_target, self.tau)
        polyak_update(self.actor, self.actor_target, self.tau)
        return th.stack(
            (critic_loss, actor_loss, vae_loss, vae_recon, vae_kl, q_values.mean(), target.mean())
        ).detach()

    @th.no_grad()
    def _target(self, batch: ReplayBufferSamples) -> th.Tensor:
        """Return the soft-clipped target, ``[B]``."""
        next_obs = batch.next_observations
        proposed = th.tanh(self.behavior.sample(next_obs, self.n_target_samples))
        actions = self.actor_target(next_obs, proposed)
        target_q = self.critic_target(pair(next_obs, actions)).unflatten(-1, actions.shape[:2])
        rewards, dones = batch.rewards.squeeze(-1), batch.dones.squeeze(-1)
        return soft_clipped_target(target_q, rewards, dones, self.gamma, self.target_mix)

    def _actor_loss(self, observations: th.Tensor) -> th.Tensor:
        """Return ``-mean_B Q_1(s, a + xi(s, a))`` with one proposed action per state."""
        with th.no_grad():
            proposed = th.tanh(self.behavior.sample(observations, 1))
        return -first_q(self.critic, observations, self.actor(observations, proposed)).mean()

    def _excluded_save_params(self) -> list[str]:
        aliases = ["actor", "critic", "critic_target", "actor_target", "behavior"]
        return [*super()._excluded_save_params(), *aliases]
