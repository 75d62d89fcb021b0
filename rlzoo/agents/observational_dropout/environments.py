"""The general route: candidates in an SB3 ``VecEnv``, one slot per candidate and episode.

Every environment plays one (candidate, episode) at a time with weights of its own. More of them
than environments are played in rounds. An environment whose episode is over early is stepped on
without counting, since a vector steps as a whole; so it is best where episodes have one length.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.observational_dropout.population import Networks, Scores
from rlzoo.agents.observational_dropout.recursion import believe, choose
from rlzoo.core.seeding import stream
from rlzoo.core.simulator import Simulator

OnStep = Callable[[dict[str, Any]], bool]
"""Gets ``new_obs``, ``rewards``, ``dones`` and ``infos`` of every step; False breaks off."""


@dataclass(frozen=True)
class Plan:
    """What is played.

    Args:
        networks: What the vectors mean.
        candidates: ``[C, P]``.
        n_episodes: Episodes per candidate.
        peek_prob: Probability of seeing the true observation, after the first step.
        seed: Of this generation. What is drawn follows from it, pair and episode alone.
        gamma: Discount of the returns.
        n_steps: Steps per candidate and episode, after which the environment goes on with the next
            candidate; None for whole episodes, which begin with seeds that a pair shares.
    """

    networks: Networks
    candidates: th.Tensor
    n_episodes: int
    peek_prob: float
    seed: int
    gamma: float = 1.0
    n_steps: int | None = None


@dataclass
class _Tally:
    """Sums over everything that was counted."""

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    looks: int = 0
    error: float = 0.0
    predicted: int = 0


def simulator_of(env: VecEnv) -> Simulator | None:
    """Return the simulator of an environment whose spaces no wrapper has changed."""
    if not env.has_attr("simulator"):
        return None
    found: Any = env.get_attr("simulator")[0]
    if not isinstance(found, Simulator):
        return None
    same = (env.observation_space, env.action_space) == (
        found.observation_space, found.action_space,
    )  # fmt: skip
    if not same:
        return None
    spec = env.get_attr("spec")[0] if env.has_attr("spec") else None
    limit = getattr(spec, "max_episode_steps", None)
    if limit is None or limit == found.max_steps:
        return found
    other = copy.copy(found)
    other.max_steps = limit
    return other


def play_in_env(
    env: VecEnv, first: NDArray[Any] | None, plan: Plan, on_step: OnStep
) -> Scores | None:
    """Play the candidates.

    Args:
        env: Environments, any number.
        first: Observations to go on from, with ``plan.n_steps``.
        plan: What is played.
        on_step: Told about every step.

    Returns:
        Their scores, or None if ``on_step`` broke the episodes off.
    """
    count = len(plan.candidates)
    slots = np.arange(count * plan.n_episodes)
    shape = (count, plan.n_episodes)
    tally = _Tally(np.zeros(shape), np.zeros(shape, np.int64))
    observations = first
    for begin in range(0, len(slots), env.num_envs):
        players = slots[begin : begin + env.num_envs]
        if plan.n_steps is None or observations is None:
            env.unwrapped._seeds = list[int | None](_seeds(plan, players, env.num_envs, "start"))
            observations = env.reset()  # type: ignore[assignment]
        found = _round(env, np.asarray(observations), plan, players, tally, on_step)
        if found is None:
            return None
        observations = found
    returns = th.from_numpy(tally.returns)
    steps = max(int(tally.lengths.sum()), 1)
    return Scores(
        returns.mean(1).float(), returns, th.from_numpy(tally.lengths), tally.looks / steps,
        tally.error / tally.predicted if tally.predicted else float("nan"),
    )  # fmt: skip


def _round(
    env: VecEnv,
    observations: NDArray[Any],
    plan: Plan,
    players: NDArray[np.int64],
    tally: _Tally,
    on_step: OnStep,
) -> NDArray[Any] | None:
    """Play one (candidate, episode) in every environment; return the last observations."""
    n, device = env.num_envs, plan.candidates.device
    count = len(plan.candidates)
    # Environments for which nobody is left play the first candidate, without counting.
    alive = np.arange(n) < len(players)
    slot = np.zeros(n, np.int64)
    slot[: len(players)] = players
    who, episode = slot % count, slot // count
    act, predict = plan.networks.bind(plan.candidates[th.from_numpy(who).to(device)])
    drawing = [np.random.default_rng(seed) for seed in _seeds(plan, players, n, "peeks")]
    acting = [np.random.default_rng(seed) for seed in _seeds(plan, players, n, "actions")]
    peek, prediction = np.ones(n, bool), plan.candidates.new_zeros(n, 1, 0)
    step, discount = 0, 1.0
    told = idle = plan.networks.idle(prediction)
    while alive.any() and step != plan.n_steps:
        seen = th.as_tensor(observations, device=device).float().reshape(n, 1, -1)
        x = seen
        if step:
            x = believe(seen, prediction, th.from_numpy(peek).to(device).unsqueeze(1))
        with th.no_grad():
            action = act(x)
            # A belief that has run away gives no action: the return so far is kept.
            alive &= action.isfinite().all(-1).squeeze(1).cpu().numpy()
            action = action.nan_to_num(0.0)
            if plan.networks.discrete:
                luck = th.tensor([[rng.random()] for rng in acting], device=device)
                action = choose(action, luck)
            prediction = predict(x, action if told is None else told)
        tally.looks += int((peek & alive).sum())
        observations, rewards, dones, infos = env.step(_scaled(env, action))  # type: ignore[assignment]
        tally.returns[who[alive], episode[alive]] += discount * rewards[alive]
        tally.lengths[who[alive], episode[alive]] += 1
        going = alive & ~dones
        if plan.peek_prob < 1 and going.any():
            true = th.as_tensor(observations, device=device).float().reshape(n, 1, -1)
            miss = (prediction - true).square().mean((1, 2)).cpu().numpy()[going]
            tally.error += float(miss[np.isfinite(miss)].sum())
            tally.predicted += int(going.sum())
        scope = {"new_obs": observations, "rewards": rewards, "dones": dones, "infos": infos}
        if not on_step(scope):
            return None
        peek = np.array([rng.random() for rng in drawing]) < plan.peek_prob
        if plan.n_steps is None:
            alive = going
        else:
            peek |= dones  # the next episode begins within the turn of the candidate
        if idle is not None:
            begun = th.from_numpy(dones).to(device)[:, None, None]
            told = th.where(begun, idle, action)
        step, discount = step + 1, discount * plan.gamma
    return observations


def _seeds(plan: Plan, players: NDArray[np.int64], n: int, what: str) -> list[int]:
    """Return a seed per environment; mirror images play from the same ones."""
    count = len(plan.candidates)
    pairs, episodes = players % count % (count // 2), players // count
    found = [
        stream(plan.seed, what, int(pair), int(episode))
        for pair, episode in zip(pairs, episodes, strict=True)
    ]
    return found + [stream(plan.seed, "idle", what, index) for index in range(n - len(found))]


def _scaled(env: VecEnv, action: th.Tensor) -> NDArray[Any]:
    """Return actions of the environment from those in [-1, 1] or one-hot, ``[n, 1, A]``."""
    space = env.action_space
    if isinstance(space, spaces.Discrete):
        return indices(action.squeeze(1), space)
    if not isinstance(space, spaces.Box):
        raise TypeError(f"Actions of {space}.")
    values = action.squeeze(1).cpu().numpy().reshape(-1, *space.shape)
    scaled: NDArray[Any] = space.low + 0.5 * (values + 1) * (space.high - space.low)
    scaled = np.clip(scaled, space.low, space.high).astype(space.dtype)
    return scaled


def indices(action: th.Tensor, space: spaces.Discrete) -> NDArray[np.int64]:
    """Return actions of a Discrete space from one-hot ones, ``[*N, A]`` to ``[*N]``."""
    found: NDArray[np.int64] = action.argmax(-1).cpu().numpy() + int(space.start)
    return found
