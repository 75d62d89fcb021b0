"""The baseline of the paper: a world model of the same kind that is trained to predict.

Its data come from training a model-free agent: in every generation the mean plays some episodes in
the task as it is dreamt. The loss is the squared error of what changes in a step, in units of its
standard deviation, of a share of the data; nothing of the return goes into the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.agents.observational_dropout.deployment import Dream, task_of
from rlzoo.agents.observational_dropout.presets import PRESETS
from rlzoo.agents.observational_dropout.recursion import Act
from rlzoo.agents.observational_dropout.stacked import size_of, split
from rlzoo.agents.observational_dropout.world_models import WORLD_MODELS, WorldModel
from rlzoo.core.seeding import stream
from rlzoo.core.simulator import Simulator
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.errors import RefusedError

if TYPE_CHECKING:
    from rlzoo.agents.observational_dropout.observational_dropout import ObservationalDropout

Transitions = tuple[th.Tensor, th.Tensor, th.Tensor]
"""Observations ``[N, O]``, actions ``[N, A]`` and next observations ``[N, O]``."""

GENERATIONS, EPISODES, KEPT = 100, 8, 2_000
"""Generations of the model-free agent; episodes and transitions of each that are data."""
UPDATES, BATCH, LEARNING_RATE = 10_000, 256, 1e-3


def predicted_dream(
    agent: ObservationalDropout,
    generations: int = GENERATIONS,
    updates: int = UPDATES,
    seed: int = 0,
    task: Simulator | None = None,
) -> Dream:
    """Return a dream whose model was trained by prediction.

    Args:
        agent: Whose task and ``policy_kwargs["model_arch"]`` are taken; nothing that it learnt.
        generations: Of the model-free agent that gives the data.
        updates: Of the model, 256 transitions each.
        seed: Of everything random.
        task: The real task; None for that of the agent's environment as it is dreamt.

    Raises:
        RefusedError: If no task is known, or its actions are no Box.
    """
    real = task_of(agent).dream_task if task is None else task
    if not isinstance(real.action_space, spaces.Box):
        raise RefusedError(f"Only tasks with a Box of actions, not {real.action_space}.")
    model = WORLD_MODELS[real.world_model](
        spaces.flatdim(real.observation_space), spaces.flatdim(real.action_space),
        agent.policy.model_arch,
    )  # fmt: skip
    data = collect(agent, real, generations, seed)
    vector, _ = fit(model, data, updates, stream(seed, "prediction"))
    return Dream(model, vector.to(agent.device), real)


def collect(
    agent: ObservationalDropout, task: Simulator, generations: int, seed: int
) -> Transitions:
    """Train a model-free agent from nothing; return what its means did on the way."""
    settings: dict[str, Any] = {**PRESETS["model-free"], "seed": seed, "device": agent.device}
    free = type(agent)("MlpPolicy", SimulatorVecEnv(task), **settings)
    rng = np.random.default_rng(stream(seed, "data"))
    parts = []
    for _ in range(generations):
        free.learn(1, log_interval=None, reset_num_timesteps=False)
        act, _ = free.policy.bind()
        states = th.from_numpy(task.start(rng, (1, EPISODES))).to(agent.device, th.float32)
        parts.append(_thin(_play(task, states, act), KEPT, rng))
    before, actions, after = (th.cat(column) for column in zip(*parts, strict=True))
    return before, actions, after


def _play(task: Simulator, state: th.Tensor, act: Act) -> Transitions:
    """Return the transitions of one episode from each of ``[1, E, S]``."""
    found: list[Transitions] = []
    observation = task.observe(state)
    alive = th.ones(state.shape[:2], dtype=th.bool, device=state.device)
    for _ in range(task.max_steps):
        action = act(observation)
        state, after, reward, ended = task.step(state, action)
        alive = alive & reward.isfinite()
        found.append((observation[alive], action[alive], after[alive]))
        observation, alive = after, alive & ~ended
        if not alive.any():
            break
    before, actions, later = (th.cat(column) for column in zip(*found, strict=True))
    return before, actions, later


def _thin(data: Transitions, most: int, rng: np.random.Generator) -> Transitions:
    rows: NDArray[np.int64] = rng.permutation(len(data[0]))[:most]
    before, actions, after = (part[th.from_numpy(rows).to(part.device)] for part in data)
    return before, actions, after


def fit(
    model: WorldModel, data: Transitions, updates: int, seed: int, held_out: float = 0.05
) -> tuple[th.Tensor, float]:
    """Train a model by prediction.

    Args:
        model: Its kind.
        data: Transitions.
        updates: Steps of Adam.
        seed: Of first weights and batches.
        held_out: Share of the data that is only tested with.

    Returns:
        Its parameters ``[P]``, and its error on what was held out: mean square in units of the
        variance of the changes, so that 1 is the error of whoever predicts their mean.
    """
    rng = np.random.default_rng(seed)
    order = th.from_numpy(rng.permutation(len(data[0])))
    cut = max(1, int(held_out * len(order)))
    tested, learnt = (tuple(part[rows] for part in data) for rows in (order[:cut], order[cut:]))
    scale = (data[2] - data[0]).std(0).clamp(min=1e-6)

    def error(vector: th.Tensor, batch: tuple[th.Tensor, ...]) -> th.Tensor:
        before, actions, after = (part.unsqueeze(0) for part in batch)
        layers = split(vector.unsqueeze(0), model.shapes)
        return ((model.predict(layers, before, actions) - after) / scale).square().mean()

    vector = th.zeros(size_of(model.shapes))
    for weight, _ in split(vector.unsqueeze(0), model.shapes):  # views of the vector
        spread = float(weight.shape[1]) ** -0.5
        weight.copy_(th.from_numpy(rng.normal(0, spread, weight.shape).astype(np.float32)))
    vector = vector.to(data[0].device).requires_grad_()
    optimizer = th.optim.Adam([vector], LEARNING_RATE)
    schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(updates, 1))
    with th.enable_grad():
        for _ in range(updates):
            rows = th.from_numpy(rng.integers(len(learnt[0]), size=BATCH))
            loss = error(vector, tuple(part[rows] for part in learnt))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    found = vector.detach()
    with th.no_grad():
        return found, float(error(found, tested))
