"""goalGAIL: goal-conditioned imitation learning (Ding, Florensa, Phielipp, Abbeel 2019).

DDPG with hindsight, trained on a discriminator that sees the goal. One cycle, after an episode:

====  =============================================================  ============================
step  what                                                           where
====  =============================================================  ============================
1     an episode of T steps with noise and random actions            ``_sample_action``
2     store it; running mean and deviation of observations, goals    ``goal_replay``, ``normalizer``
3a    B rows of the agent, B_E of demonstrations; hindsight goals;   ``relabel.sample``
      success, the terminal flag, judged for the goals they now have
3b    r = w_g s + delta clip(r_G), r_G = log sigma(D)                ``rewards``
3c    y = clip(r + gamma (1 - s) Q'(o', g, pi'(o', g)), y_max)       ``GoalGAIL._target``
3d    one Adam step on (y - Q)^2 and -Q(pi) + c_2 |pi|^2 + L_BC,     ``GoalGAIL._update_policy``
      both gradients taken at the same parameters
4     targets <- (1 - tau) targets + tau networks, once per cycle    ``GoalGAIL.train``
5     one Adam step of D on cross-entropy + lambda (|grad D| - 1)^2  ``discriminator.disc_loss``
====  =============================================================  ============================

The policy trains on the discriminator of the cycle before; only then does that train.
Deviations from the official code are listed in the README of this package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from rlzoo.agents.goal_gail.algorithm import GoalAlgorithm
from rlzoo.agents.goal_gail.cloning import annealed, cloning_loss, q_filter
from rlzoo.agents.goal_gail.demonstrations import Demonstrations
from rlzoo.agents.goal_gail.discriminator import DiscInput, DiscObs, disc_inputs, disc_loss
from rlzoo.agents.goal_gail.modes import MODES, Base, Mode, check_batches, resolve
from rlzoo.agents.goal_gail.policies import GoalPolicy
from rlzoo.agents.goal_gail.presets import PRESETS
from rlzoo.agents.goal_gail.relabel import GoalBatch, Success, join, sample
from rlzoo.agents.goal_gail.rewards import (
    GailReward,
    check_rewards,
    gail_reward,
    largest_value,
    reward,
)
from rlzoo.agents.goal_gail.success import SuccessName
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT, check_arguments
from rlzoo.core.device import resolve_device
from rlzoo.core.layers import polyak_update
from rlzoo.core.seeding import check_seed
from rlzoo.errors import RefusedError

_POLICY_LOGS = (
    "train/critic_loss", "train/actor_loss", "train/bc_loss", "train/r_gail_mean",
    "train/target_q_mean", "train/frac_terminal",
)  # fmt: skip
_DISC_LOGS = (
    "disc/loss", "disc/gp", "disc/acc_expert", "disc/acc_agent", "disc/d_expert_mean",
    "disc/d_agent_mean",
)  # fmt: skip


class GoalGAIL(GoalAlgorithm):
    """goalGAIL as an SB3 agent; its baselines are other modes.

    The defaults are those of the official code (dingyiming0427/goalgail), which made the published
    curves. Where None is the default and nothing else is said, the mode decides (``modes.MODES``).

    Args:
        policy: ``"MultiInputPolicy"`` or a subclass of ``GoalPolicy``.
        env: Environment with goals (a Dict with ``observation``, ``achieved_goal`` and
            ``desired_goal``) and Box actions, or id of one.
        demonstrations: ``GoalEpisodes``, a list of episodes, or a Minari data set. Not saved with
            the agent: ``load(...).set_demonstrations(...)``.
        mode: ``"goalgail"``; ``"gail"``: without hindsight; ``"her"``: without demonstrations;
            ``"her_bc"``: HER and cloning; ``"bc"``: goal-conditioned cloning alone.
        base: Actor-critic: ``"ddpg"``; ``"td3"``, the smaller of two critics; ``"sac"``, which has
            a stochastic actor and an entropy bonus besides.
        learning_rate: Of actor and critics; a schedule scales ``disc_lr`` as well.
        buffer_size: Transitions.
        learning_starts: Steps of uniformly random actions without updates.
        batch_size: Rows ``B`` of the agent per update; in mode ``bc`` 0, else 256.
        demo_batch_size: Rows ``B_E`` of demonstrations; 0 without actions.
        gamma: Discount factor; None: ``1 - 1/T``.
        tau: Share of the networks in the targets, once per cycle.
        train_freq: Steps, or ``(n, "episode")`` or ``(n, "step")``, between two calls of ``train``.
            With several environments an episode means T steps of all. A call has as many cycles as
            there are environments.
        gradient_steps: Updates of actor and critics per cycle.
        n_disc_updates: Updates of the discriminator per cycle.
        disc_batch_size: Rows of either kind in such an update.
        disc_lr: Learning rate of the discriminator.
        disc_hidden: Widths of its hidden layers.
        gp_coef: ``lambda`` of the gradient penalty.
        disc_input: ``"s_sp"``: ``[o, g, o']``; ``"sa"``: ``[o, g, a]``; ``"s"``: ``[o, g]``.
        disc_obs_keys: Which of ``"observation"`` and ``"achieved_goal"`` is ``o`` there; None: the
            first.
        disc_normalize: Show the discriminator normalised observations and goals.
        disc_relabel_agent: Relabel the discriminator's agent rows with ``hindsight_p``.
        gail_reward: ``"log_d"``, or ``"logit"``, ``"neg_log_one_minus_d"``, ``"prob"``.
        gail_weight: ``delta``.
        gail_anneal: Factor of ``delta`` per 250 episodes.
        gail_clip: ``b``; None: no clipping.
        goal_weight: ``w_g``.
        terminate_on_success: Whether success ends the sum of rewards.
        distance_threshold: Below it a goal is reached: a number, ``"exact"`` (1e-6), or ``"env"``,
            as the environment says.
        success_fn: ``(achieved, desired) -> bool`` in torch, ``"l2"`` or ``"blocks"`` (the farthest
            of positions of three numbers); None: what agrees with ``compute_reward``.
        horizon: Steps ``T`` of an episode; None: as the environment says.
        hindsight_p: Probability that a row of the agent gets a goal reached later.
        expert_relabel_p: The same for demonstrations.
        bc_coef: ``beta`` of the cloning loss.
        bc_anneal: Factor of ``beta`` per 250 episodes.
        q_filter: Clone only actions that the critic prefers.
        normalize: Normalise observations and goals by running statistics.
        action_noise: Standard deviation of noise on actions in [-1, 1]; None: 0.15, in SAC 0.
        random_eps: Probability of a uniformly random action instead.
        action_l2: ``c_2``.
        ent_coef: Entropy coefficient of SAC, ``"auto"`` tunes it.
        capture: Replay updates as CUDA graphs: True, False, or ``"auto"`` (on CUDA only).
        policy_kwargs: ``net_arch``; see ``GoalPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.

    Raises:
        RefusedError: For an argument out of range, arguments that contradict each other, an
            environment without goals, or demonstrations of another task.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiInputPolicy": GoalPolicy}

    # Constructor arguments that differ from the defaults. `policy_kwargs` are merged by the CLI.
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    def __init__(
        self,
        policy: str | type[GoalPolicy],
        env: GymEnv | str | None,
        demonstrations: Demonstrations | None = None,
        mode: Mode = "goalgail",
        base: Base = "ddpg",
        learning_rate: Annotated[float, POSITIVE] | Schedule = 1e-4,
        buffer_size: Annotated[int, AT_LEAST_ONE] = 1_000_000,
        learning_starts: Annotated[int, NON_NEGATIVE] = 0,
        batch_size: Annotated[int, NON_NEGATIVE] | None = None,
        demo_batch_size: Annotated[int, NON_NEGATIVE] | None = None,
        gamma: Annotated[float, UNIT] | None = None,
        tau: Annotated[float, UNIT] = 0.05,
        train_freq: Annotated[int, AT_LEAST_ONE] | tuple[int, str] = (1, "episode"),
        gradient_steps: Annotated[int, AT_LEAST_ONE] = 40,
        n_disc_updates: Annotated[int, NON_NEGATIVE] | None = None,
        disc_batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        disc_lr: Annotated[float, POSITIVE] = 1e-3,
        disc_hidden: Annotated[Sequence[int], AT_LEAST_ONE] = (256, 256),
        gp_coef: Annotated[float, NON_NEGATIVE] = 10.0,
        disc_input: DiscInput = "s_sp",
        disc_obs_keys: Sequence[DiscObs] | None = None,
        disc_normalize: bool = False,
        disc_relabel_agent: bool = False,
        gail_reward: GailReward = "log_d",
        gail_weight: Annotated[float, NON_NEGATIVE] | None = None,
        gail_anneal: Annotated[float, UNIT] = 1.0,
        gail_clip: Annotated[float, POSITIVE] | None = None,
        goal_weight: Annotated[float, NON_NEGATIVE] | None = None,
        terminate_on_success: bool = True,
        distance_threshold: Annotated[float, POSITIVE] | Literal["env", "exact"] | None = None,
        success_fn: Success | SuccessName | None = None,
        horizon: Annotated[int, AT_LEAST_ONE] | None = None,
        hindsight_p: Annotated[float, UNIT] | None = None,
        expert_relabel_p: Annotated[float, UNIT] = 0.8,
        bc_coef: Annotated[float, NON_NEGATIVE] | None = None,
        bc_anneal: Annotated[float, UNIT] = 0.9,
        q_filter: bool = False,
        normalize: bool = True,
        action_noise: Annotated[float, NON_NEGATIVE] | None = None,
        random_eps: Annotated[float, UNIT] = 0.3,
        action_l2: Annotated[float, NON_NEGATIVE] = 0.0,
        ent_coef: Annotated[float, NON_NEGATIVE] | Literal["auto"] = "auto",
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
        check_arguments(GoalGAIL.__init__, arguments, owner=type(self).__name__)
        try:
            super().__init__(
                policy, env, learning_rate, buffer_size, learning_starts,  # type: ignore[arg-type]
                tau=tau, train_freq=train_freq, gradient_steps=gradient_steps,
                policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log, verbose=verbose, device=resolve_device(device),
                support_multi_env=True, seed=None if seed is None else check_seed(seed),
                sde_support=False, supported_action_spaces=(spaces.Box,),
            )  # fmt: skip
        except AssertionError as error:  # SB3's check of the action space
            raise RefusedError(f"{type(self).__name__}: {error}.") from error
        chosen = resolve(mode, arguments)
        self.mode, self.base = mode, base
        self.batch_size, self.demo_batch_size = chosen["batch_size"], chosen["demo_batch_size"]
        self.gamma = gamma  # type: ignore[assignment]  # None until the horizon is known
        self.n_disc_updates, self.disc_batch_size = chosen["n_disc_updates"], disc_batch_size
        self.disc_lr, self.disc_hidden, self.gp_coef = disc_lr, disc_hidden, gp_coef
        self.disc_input, self.disc_obs_keys = disc_input, disc_obs_keys
        self.disc_normalize, self.disc_relabel_agent = disc_normalize, disc_relabel_agent
        self.gail_reward, self.gail_weight = gail_reward, chosen["gail_weight"]
        self.gail_anneal, self.gail_clip = gail_anneal, gail_clip
        self.goal_weight = chosen["goal_weight"]
        self.terminate_on_success = terminate_on_success
        self.distance_threshold = chosen["distance_threshold"]
        self.success_fn, self.horizon = success_fn, horizon
        self.hindsight_p, self.expert_relabel_p = chosen["hindsight_p"], expert_relabel_p
        self.bc_coef, self.bc_anneal, self.q_filter = chosen["bc_coef"], bc_anneal, q_filter
        self.normalize, self.random_eps, self.action_l2 = normalize, random_eps, action_l2
        default_noise = 0.0 if base == "sac" else 0.15
        self.action_noise = default_noise if action_noise is None else action_noise  # type: ignore[assignment]
        self.ent_coef, self.capture = ent_coef, capture
        self._check_combinations()
        if _init_setup_model:
            self._setup_model()
            if demonstrations is not None:
                self.set_demonstrations(demonstrations)

    @classmethod
    def uses_demonstrations(cls, arguments: Mapping[str, Any]) -> bool:
        """Return whether an agent with these constructor arguments learns from demonstrations."""
        given = {name: arguments.get(name) for name in MODES["goalgail"]}
        chosen = resolve(arguments.get("mode", "goalgail"), given)
        return bool(chosen["demo_batch_size"] > 0 or chosen["n_disc_updates"] > 0)

    def _check_combinations(self) -> None:
        if self.capture is True and self.device.type != "cuda":
            raise RefusedError(
                f"{type(self).__name__}: capture=True on device {self.device}.",
                "Allowed on CUDA only; leave it at 'auto'.",
            )
        check_rewards(
            self.gail_reward, self.goal_weight, self.gail_weight, self.gail_anneal,
            self.terminate_on_success,
        )  # fmt: skip
        check_batches(self.mode, self.batch_size, self.demo_batch_size, self.bc_coef, self.q_filter)

    # ------------------------------------------------------------------ update

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take one cycle per environment (module docstring, steps 2 to 5).

        Args:
            gradient_steps: Updates of actor and critics per cycle.
            batch_size: Rows of the agent in each.
        """
        self.policy.set_training_mode(True)
        self._set_learning_rates()
        replay = self._replay
        self._log_episodes(replay)
        can_sample = replay.prepare()
        self.policy.normalizer.update(th.cat(replay.take_fresh(), dim=-1))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if not can_sample and (batch_size > 0 or self.n_disc_updates > 0):
            return  # the first episode is not complete yet
        self._gail_now.fill_(annealed(self.gail_weight, self.gail_anneal, self._episode_num))
        self._bc_now.fill_(annealed(self.bc_coef, self.bc_anneal, self._episode_num))
        sums = [th.zeros(len(names), device=self.device) for names in (_POLICY_LOGS, _DISC_LOGS)]
        for _ in range(self.n_envs):
            for _ in range(gradient_steps):
                sums[0] += self._run("policy", self._update_policy, batch_size)
            polyak_update(self.policy.critic, self.policy.critic_target, self.tau)
            polyak_update(self.policy.actor, self.policy.actor_target, self.tau)
            for _ in range(self.n_disc_updates):
                sums[1] += self._run("disc", self._update_disc, self.disc_batch_size)
        self._n_updates += gradient_steps * self.n_envs
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._log(_POLICY_LOGS, sums[0] / (gradient_steps * self.n_envs))
        if self.n_disc_updates > 0:
            self._log(_DISC_LOGS, sums[1] / (self.n_disc_updates * self.n_envs))

    def _update_policy(self, batch_size: int) -> th.Tensor:
        """Take one step of actor and critics; return what is logged, ``[6]`` (step 3)."""
        policy, batch = self.policy, self._sample_rows(batch_size)
        r_gail = self._gail_reward(batch)
        now = policy.features(batch.observations, batch.goals)
        actions, log_prob = policy.actor.sample(now)
        zero = now.new_zeros(())
        critic_loss = actor_loss = bc_loss = target_mean = zero
        q = q_pi = None
        if self.mode != "bc":
            target = self._target(batch, r_gail)
            q = policy.critic(now, batch.actions)
            critic_loss = (q - target).square().mean(-1).sum()
            # The critics' weights get no gradient from the actor's loss.
            q_pi = policy.critic(now, actions, frozen=True).amin(0)
            actor_loss = self._actor_loss(q_pi, actions, log_prob)
            target_mean = target.mean()
        if self.bc_coef > 0:
            expert = slice(batch_size, None)
            keep = None
            if self.q_filter and q is not None and q_pi is not None:
                keep = q_filter(q.amin(0)[expert], q_pi[expert])
            rows = len(batch.actions)
            bc_loss = cloning_loss(actions[expert], batch.actions[expert], rows, keep)
        loss = critic_loss + actor_loss + self._bc_now * bc_loss
        policy.optimizer.zero_grad()
        loss = loss + self._temperature_loss(log_prob)
        loss.backward()  # type: ignore[no-untyped-call]
        policy.optimizer.step()
        r_mean = zero if r_gail is None else r_gail.mean()
        terminal = batch.success.float().mean()
        logged = (critic_loss, actor_loss, bc_loss, r_mean, target_mean, terminal)
        return th.stack(logged).detach()

    def _sample_rows(self, batch_size: int) -> GoalBatch:
        """Return ``B`` rows of the agent and behind them ``B_E`` of demonstrations (3a)."""
        batches = []
        success = self._replay.success
        if batch_size > 0:
            batches.append(sample(self._replay.store, batch_size, self.hindsight_p, success))
        if self.demo_batch_size > 0 and self._demo_store is not None:
            n, p = self.demo_batch_size, self.expert_relabel_p
            batches.append(sample(self._demo_store, n, p, success))
        return batches[0] if len(batches) == 1 else join(*batches)

    @th.no_grad()
    def _gail_reward(self, batch: GoalBatch) -> th.Tensor | None:
        """Return ``r_G``, ``[M]``, or None where it has no weight (3b)."""
        if self.gail_weight == 0 or self.discriminator is None:
            return None
        return gail_reward(self.gail_reward, self.discriminator(self._disc_inputs(batch)))

    @th.no_grad()
    def _target(self, batch: GoalBatch, r_gail: th.Tensor | None) -> th.Tensor:
        """Return ``y``, ``[M]`` (3c)."""
        policy = self.policy
        r = reward(batch.success, r_gail, self.goal_weight, self._gail_now, self.gail_clip)
        goes_on = (~batch.success).float() if self.terminate_on_success else 1.0
        later = policy.features(batch.next_observations, batch.goals)
        actor = policy.actor if self.base == "sac" else policy.actor_target
        actions, log_prob = actor.sample(later)
        y: th.Tensor = r + self.gamma * goes_on * policy.critic_target(later, actions).amin(0)
        largest = largest_value(
            self.gail_reward, self.goal_weight, self.gamma, self.terminate_on_success
        )
        if math.isfinite(largest):
            y = y.clamp(max=largest)
        if log_prob is not None:  # the bound is one of rewards, not of entropies
            y = y - self.gamma * goes_on * policy.temperature * log_prob
        return y

    def _actor_loss(
        self, q_pi: th.Tensor, actions: th.Tensor, log_prob: th.Tensor | None
    ) -> th.Tensor:
        loss = -q_pi.mean()
        if self.action_l2 > 0:
            loss = loss + self.action_l2 * actions.square().sum(-1).mean()
        if log_prob is not None:
            loss = loss + (self.policy.temperature * log_prob).mean()
        return loss

    def _temperature_loss(self, log_prob: th.Tensor | None) -> th.Tensor | float:
        """Return SB3's loss of the entropy coefficient, for a target of one nat per dimension."""
        if log_prob is None or self.ent_coef != "auto" or self.mode == "bc":
            return 0.0
        target = -float(np.prod(self.action_space.shape or ()))
        return -(self.policy.log_ent_coef * (log_prob + target).detach()).mean()

    def _update_disc(self, size: int) -> th.Tensor:
        """Take one step of the discriminator; return what is logged, ``[6]`` (step 5)."""
        disc, optimizer, demos = self.discriminator, self.disc_optimizer, self._demo_store
        if disc is None or optimizer is None or demos is None:
            raise RuntimeError("no discriminator or no demonstrations")
        success = self._replay.success
        agent_p = self.hindsight_p if self.disc_relabel_agent else 0.0
        expert = self._disc_inputs(sample(demos, size, self.expert_relabel_p, success), 0.15)
        agent = self._disc_inputs(sample(self._replay.store, size, agent_p, success), 0.15)
        result = disc_loss(disc, expert, agent, self.gp_coef)
        optimizer.zero_grad()
        result.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return th.stack(result).detach()

    @th.no_grad()
    def _disc_inputs(self, batch: GoalBatch, action_noise: float = 0.0) -> th.Tensor:
        if self.disc_normalize:
            batch = self._normalized(batch)
        keys = self.disc_obs_keys or ("observation",)
        return disc_inputs(self.disc_input, keys, batch, action_noise)
