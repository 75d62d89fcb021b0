"""Several DER agents, seeds or games, that learn in lock-step: one batched update for all.

An update of one agent on a GPU is a few hundred small kernels; an update of ``S`` stacked agents is
as many kernels, each ``S`` times as large. See the README of this package.

====================  ===============================================
what                  where
====================  ===============================================
networks and Adam     :class:`~rlzoo.agents.der.lockstep_stack.Stack`
replay                ``lockstep_replay.StackedReplay``
random numbers        ``lockstep_random.Drawn``
the update            ``LockStep._step``, as in ``der.py``
====================  ===============================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import randbits
from typing import Any, Self, cast

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.der.augment import random_shift
from rlzoo.agents.der.c51 import cross_entropy, project
from rlzoo.agents.der.captured import DeviceUpdates
from rlzoo.agents.der.der import DER
from rlzoo.agents.der.lockstep_checks import check_agents
from rlzoo.agents.der.lockstep_random import Drawn, noise, uniform
from rlzoo.agents.der.lockstep_replay import StackedReplay
from rlzoo.agents.der.lockstep_stack import NoiseLayout, Stack
from rlzoo.agents.der.prioritized import PrioritizedReplayBuffer, PrioritizedSamples
from rlzoo.core.capture import Captured, set_rate, wants_cuda_graph
from rlzoo.core.finite import check_finite
from rlzoo.core.seeding import stream
from rlzoo.errors import RefusedError


class LockStep:
    """Trains agents of equal settings together; each is an ordinary DER before and after.

    While they learn, their parameters are views of stacked tensors: agents can be evaluated and
    saved in callbacks. They must not be trained one by one, or given other parameters, meanwhile.

    Each agent has its environment, replay and random numbers: its results depend on its own seed
    (an agent without one gets a random one), not on the others. They are not those of
    ``agent.learn``, which draws from the global generators.

    Args:
        agents: Made as always, with an environment each. They may differ in environment, seed and
            number of actions.

    Raises:
        RefusedError: If they differ in anything else, or are not plain DER agents.
    """

    def __init__(self, agents: Sequence[DER]) -> None:
        check_agents(agents)
        self.agents = list(agents)
        first, n = agents[0], len(agents)
        self._graph = wants_cuda_graph(first.capture, first.device)
        seeds = [randbits(32) if agent.seed is None else agent.seed for agent in agents]
        self._layout = NoiseLayout([agent.q_net for agent in agents])

        def drawn(name: str, draw: Callable[..., th.Tensor], width: int) -> Drawn:
            places = self._layout.places if draw is noise else [th.arange(width)] * n
            return Drawn(seeds, name, draw, places, width, first.device)

        self._online_noise = drawn("online", noise, self._layout.width)
        self._target_noise = drawn("target", noise, self._layout.width)
        self._uniform = drawn("replay", uniform, first.batch_size)
        # Rows and columns of observations and next observations.
        self._shifts = drawn("shift", uniform, 4 * first.batch_size if first.image_shift else 0)
        self._explore = [np.random.default_rng(stream(s, "lock-step", "explore")) for s in seeds]
        self._stack: Stack | None = None

    # ----------------------------------------------------------------- learning

    def learn(
        self,
        total_timesteps: int,
        callback: Sequence[MaybeCallback] | None = None,
        log_interval: int | None = 4,
        reset_num_timesteps: bool = True,
    ) -> Self:
        """Train all agents, each for so many steps.

        Args:
            total_timesteps: Of each agent.
            callback: One for each agent, as SB3 takes them, or None. If one ends the training, it
                ends for all after the same step.
            log_interval: As in SB3, in episodes of each agent.
            reset_num_timesteps: As in SB3.

        Raises:
            RefusedError: If the agents differ by now, or callbacks do not fit.
            NonFiniteError: If a loss of an agent is not finite.
        """
        given = self._checked(callback)
        with self.stacked():
            started = [
                agent._setup_learn(total_timesteps, own, reset_num_timesteps, "DER")
                for agent, own in zip(self.agents, given, strict=True)
            ]
            total, callbacks = started[0][0], [own for _, own in started]
            for own in callbacks:
                own.on_training_start(locals(), globals())
            first = self.agents[0]
            while first.num_timesteps < total and self._collect(callbacks, log_interval):
                if first.num_timesteps > first.learning_starts:
                    collected = cast(TrainFreq, first.train_freq).frequency * first.n_envs
                    self.train(collected if first.gradient_steps < 0 else first.gradient_steps)
            for own in callbacks:
                own.on_training_end()
        return self

    def _checked(self, callback: Sequence[MaybeCallback] | None) -> Sequence[MaybeCallback]:
        n = len(self.agents)
        if callback is None:
            return [None] * n
        several: Any = callback  # what is typed may still be a single one
        if not isinstance(several, Sequence) or len(several) != n:
            shown = len(several) if isinstance(several, Sequence) else type(several).__name__
            raise RefusedError(
                f"callback is {shown} for {n} agents.",
                f"Allowed: a sequence of {n}, one (or a list of them, or None) for each agent.",
            )
        return callback

    @contextmanager
    def stacked(self) -> Iterator[Self]:
        """Stack the agents; :meth:`train` needs it. In the end they have their own tensors."""
        if self._stack is not None:
            raise RefusedError("The agents are stacked already.", todo="Call train, or leave.")
        check_agents(self.agents)
        for agent in self.agents:
            agent._leave_device()
        replay = StackedReplay(self._buffers, self.agents[0].device, lambda: self._uniform.value)
        try:
            self._stack = Stack(self.agents, self._layout, self._graph)
            self._updates = DeviceUpdates(replay, self._step, self._read, self._graph)
            self._envs = [_Begun(cast(VecEnv, agent.env)) for agent in self.agents]
            self._observations: th.Tensor | None = None
            best = self._best
            self._greedy: Callable[[], th.Tensor] = Captured(best) if self._graph else best
            for agent in self.agents:
                agent._on_device = self._updates  # whoever saves an agent, brings it up to date
            yield self
            self._updates.read()
        finally:
            replay.pull()
            replay.close()
            if self._stack is not None:
                self._stack.release()
                self._stack = None
            for agent in self.agents:
                agent._on_device = agent._given_actions = None

    @property
    def _buffers(self) -> list[PrioritizedReplayBuffer]:
        return [cast(PrioritizedReplayBuffer, agent.replay_buffer) for agent in self.agents]

    # ------------------------------------------------------------------- acting

    def _collect(self, callbacks: Sequence[BaseCallback], log_interval: int | None) -> bool:
        """Take the steps of all agents between two updates; return whether to go on."""
        going_on, once = True, TrainFreq(1, TrainFrequencyUnit.STEP)
        for _ in range(cast(TrainFreq, self.agents[0].train_freq).frequency):
            chosen = self._choose()
            for agent, env, actions in zip(self.agents, self._envs, chosen, strict=True):
                agent._given_actions = actions
                env.begin(actions)
            for i, (agent, own) in enumerate(zip(self.agents, callbacks, strict=True)):
                result = agent.collect_rollouts(
                    self._envs[i], own, once, self._buffers[i], log_interval=log_interval
                )
                agent._given_actions = None
                going_on = going_on and result.continue_training
            if not going_on:
                break
        return going_on

    def _choose(self) -> list[NDArray[Any]]:
        """Return the next actions of every agent, ``[n_envs]`` each."""
        first = self.agents[0]
        counts = [int(spaces.flatdim(agent.action_space)) for agent in self.agents]
        draws = list(zip(self._explore, counts, strict=True))
        if first.warmup == "uniform" and first.num_timesteps < first.learning_starts:
            return [rng.integers(0, n, first.n_envs) for rng, n in draws]
        self._online_noise.advance()
        newest = th.from_numpy(np.stack([np.asarray(agent._last_obs) for agent in self.agents]))
        if self._observations is None:
            self._observations = newest.to(first.device, copy=True)
        self._observations.copy_(newest)
        actions: list[NDArray[Any]] = list(self._greedy().cpu().numpy())
        rate = first.exploration_rate
        if rate > 0:
            explore = [rng.random(first.n_envs) < rate for rng in self._explore]
            random = [rng.integers(0, n, first.n_envs) for rng, n in draws]
            actions = [np.where(*three) for three in zip(explore, random, actions, strict=True)]
        return actions

    @th.no_grad()
    def _best(self) -> th.Tensor:
        stack, seen = cast(Stack, self._stack), cast(th.Tensor, self._observations)
        inputs = self._inputs(seen.flatten(0, 1))
        noisy = stack.with_noise(self._online_noise.value)
        return stack.best(stack.evaluate(noisy, inputs, noisy=True))

    def _inputs(self, observations: th.Tensor, offset: th.Tensor | None = None) -> th.Tensor:
        """Map observations of all agents, ``[S * B, ...]``, to inputs ``[S, B, ...]``."""
        first = self.agents[0]
        if offset is None:
            inputs = first.policy.inputs(observations)
        else:
            inputs = random_shift(observations.float().div_(255), first.image_shift, offset)
        return inputs.view(len(self.agents), -1, *inputs.shape[1:])

    # ------------------------------------------------------------------- update

    def train(self, gradient_steps: int) -> None:
        """Take updates of all agents, as ``DER.train``; within :meth:`stacked`."""
        if self._stack is None:
            raise RefusedError(
                "The agents are not stacked.", todo="Use `with lock_step.stacked():`."
            )
        first = self.agents[0]
        self._set_rate(self._stack)
        if not all([buffer.can_sample for buffer in self._buffers]):
            # Every buffer is asked, because that ripens entries. `learning_starts` is a window at
            # least, so this happens only where buffers were emptied.
            return
        for step in range(gradient_steps):
            if step > 0:
                self._online_noise.advance()
            for drawn in (self._target_noise, self._uniform, self._shifts):
                drawn.advance()
            self._updates.run(first.batch_size, first.beta)
            for agent in self.agents:
                agent._n_updates += 1
            if first._n_updates % first.target_update_interval == 0:
                self._stack.copy_target()
        for agent in self.agents:
            agent.logger.record("train/n_updates", agent._n_updates, exclude="tensorboard")
            agent.logger.record("train/beta", agent.beta)
            agent.logger.record("rollout/exploration_rate", agent.exploration_rate)

    def _set_rate(self, stack: Stack) -> None:
        rate = self.agents[0].lr_schedule(self.agents[0]._current_progress_remaining)
        set_rate(stack.optimizer, rate)
        for agent in self.agents:
            agent.logger.record("train/learning_rate", rate)
            if not self._graph:  # else they share the tensor
                set_rate(agent.policy.optimizer, rate)

    def _step(self, batch: PrioritizedSamples, beta: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Take a gradient step; return losses ``[S, B]``, and what is logged ``[S, 3]``."""
        stack, first = cast(Stack, self._stack), self.agents[0]
        losses, q_values = self._losses(stack, batch)
        weights = batch.probabilities**-beta
        weights = (weights / weights.amax(1, keepdim=True)).float()
        loss = (weights * losses).mean(1)
        stack.optimizer.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]  # no agent has a part in another's
        norms = stack.clip(first.max_grad_norm)
        stack.optimizer.step()
        results = th.stack((loss.detach(), norms, q_values.mean(1)), 1)
        return losses.detach(), results

    def _losses(self, stack: Stack, batch: PrioritizedSamples) -> tuple[th.Tensor, th.Tensor]:
        """Return losses and Q values of the actions taken, without weights: ``[S, B]`` each."""
        first, shape = self.agents[0], batch.indices.shape
        now, following = self._offsets()
        inputs = self._inputs(batch.observations, now)
        next_inputs = self._inputs(batch.next_observations, following)
        online = stack.summed(stack.online, self._online_noise.value)
        outputs = _taken(stack.evaluate(online, inputs), batch.actions.long().view(shape))
        target = self._target(stack, batch, next_inputs, online)
        if not first.distributional:
            q_values = outputs.squeeze(-1)
            return F.smooth_l1_loss(q_values, target, reduction="none"), q_values.detach()
        with th.no_grad():
            q_values = first.policy.values(outputs)
        return cross_entropy(target, outputs), q_values

    @th.no_grad()
    def _target(
        self,
        stack: Stack,
        batch: PrioritizedSamples,
        next_inputs: th.Tensor,
        online: dict[str, th.Tensor],
    ) -> th.Tensor:
        """Return the target distributions ``[S, B, N]``, or values ``[S, B]`` without C51."""
        first, shape = self.agents[0], batch.indices.shape
        noisy = stack.summed(stack.target, self._target_noise.value)
        outputs = stack.evaluate(noisy, next_inputs)
        choosing = stack.evaluate(online, next_inputs) if first.double else outputs
        chosen = _taken(outputs, stack.best(choosing)).flatten(0, 1)
        rewards = batch.rewards.squeeze(-1)
        discounts = (batch.discounts * (1 - batch.dones)).squeeze(-1)
        if not first.distributional:
            return th.addcmul(rewards, discounts, chosen.squeeze(-1)).view(shape)
        target = project(chosen.softmax(-1), rewards, discounts, first.policy.support)
        return target.view(*shape, -1)

    def _offsets(self) -> tuple[th.Tensor | None, th.Tensor | None]:
        """Return the shifts of observations and next observations, ``[2, S * B, 1]`` each."""
        shift = self.agents[0].image_shift
        if not shift:
            return None, None
        whole = (self._shifts.value * (2 * shift + 1)).long()
        now, following = (
            whole.view(len(whole), 2, 2, -1).permute(1, 2, 0, 3).flatten(2).unsqueeze(-1)
        )
        return now, following

    def _read(self, sums: th.Tensor, n: int) -> None:
        """Log what was summed over ``n`` updates, ``[S, 3]``."""
        losses = {f"losses of agent {i}": row for i, row in enumerate(sums)}
        check_finite(losses, self.agents[0].num_timesteps)
        for agent, row in zip(self.agents, sums, strict=True):
            agent._record(row, n)


def _taken(outputs: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """Return the outputs of actions: ``[S, B, A, N]`` and ``[S, B]`` to ``[S, B, N]``."""
    at = actions[..., None, None].expand(-1, -1, 1, outputs.shape[-1])
    return outputs.gather(2, at).squeeze(2)


class _Begun(VecEnvWrapper):
    """An environment whose step has begun already: those of all agents run side by side.

    With one ``SubprocVecEnv`` for each agent; a ``DummyVecEnv`` steps when it is waited for.
    """

    def begin(self, actions: NDArray[Any]) -> None:
        """Send the actions."""
        self.venv.step_async(actions)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Do nothing: they are sent."""

    def step_wait(self) -> Any:
        """Wait for the step."""
        return self.venv.step_wait()

    def reset(self) -> Any:
        """Reset as always."""
        return self.venv.reset()
