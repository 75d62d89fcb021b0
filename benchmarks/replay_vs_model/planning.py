"""Replay against models: one Q network, one update, the same P, five sources of transitions.

    python -m benchmarks.replay_vs_model.planning [--size smoke|small] [--jobs 2] [--seeds N]

CartPole, Catch and MiniGrid-Empty-8x8 (extra ``minigrid``). Only ``source`` differs between the
rows, see ``rlzoo/agents/dyna_dqn``. ``smoke`` shows in a minute that everything runs, and nothing
else; ``small`` takes two cores about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import rlzoo.envs  # noqa: F401 - registers Catch
from benchmarks.output import folder, new_figure, provenance, publish, table
from rlzoo import DynaDQN

SOURCES: dict[str, dict[str, Any]] = {
    "replay": {"source": "replay"},
    "forward": {"source": "forward"},
    "forward, actions of the policy": {"source": "forward", "actions": "policy"},
    "backward": {"source": "backward"},
    "rollout of 5 steps": {"source": "rollout", "rollout_length": 5},
    "act": {"source": "act"},
}

SHARED: dict[str, Any] = {
    "learning_rate": 1e-3, "batch_size": 64, "planning_steps": 64, "target_update_interval": 200,
    "learning_starts": 200, "model_arch": [64, 64], "model_epochs": 5, "device": "cpu",
}  # fmt: skip


class FlatGrid(gym.ObservationWrapper[Any, Any, Any]):
    """Where the agent stands, where the goal is, and the heading, each one-hot.

    MiniGrid's partial view needs memory, which is another question; and of its seven actions only
    the first three (left, right, forward) do anything in an empty room.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.cells = env.unwrapped.width * env.unwrapped.height  # type: ignore[attr-defined]
        self.observation_space = spaces.Box(0, 1, (2 * self.cells + 4,), np.float32)
        self.action_space = spaces.Discrete(3)

    def observation(self, observation: Any) -> NDArray[np.float32]:
        """Return the three one-hot parts in a row."""
        world: Any = self.env.unwrapped
        flat = np.zeros(self.observation_space.shape or (), np.float32)
        flat[world.agent_pos[1] * world.width + world.agent_pos[0]] = 1
        found = next(i for i, c in enumerate(world.grid.grid) if c and c.type == "goal")
        flat[self.cells + found] = 1
        flat[2 * self.cells + world.agent_dir] = 1
        return flat


def empty_room() -> gym.Env[Any, Any]:
    """Make MiniGrid-Empty-8x8."""
    import minigrid  # noqa: F401 - registers it

    return FlatGrid(gym.make("MiniGrid-Empty-8x8-v0"))


@dataclass(frozen=True)
class Task:
    """An environment and how long it is trained.

    Args:
        make: Makes it.
        steps: Real steps of the size ``small``.
        settings: Arguments of the agent that belong to the environment.
    """

    make: Callable[[], gym.Env[Any, Any]]
    steps: int
    settings: dict[str, Any]


TASKS = {
    "CartPole-v1": Task(lambda: gym.make("CartPole-v1"), 6_000, {}),
    "rlzoo/Catch-v0": Task(lambda: gym.make("rlzoo/Catch-v0"), 4_000, {}),
    # A random walk meets the goal once in 460 steps: with less exploration nothing is learned.
    "MiniGrid-Empty-8x8-v0": Task(empty_room, 8_000, {"exploration_fraction": 0.8}),
}


@dataclass(frozen=True)
class Size:
    """How much is run: share of the steps, seeds, evaluations per run, episodes of each."""

    share: float
    seeds: int
    evaluations: int
    episodes: int


SIZES = {"smoke": Size(0.06, 1, 2, 3), "small": Size(1.0, 3, 10, 20)}


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        task: Name of the environment.
        source: Name of the source.
        seed: Its seed.
        steps: Steps at the evaluations.
        returns: Mean return of the greedy policy at each.
        planned: Planned transitions.
        seconds: Processor time.
    """

    task: str
    source: str
    seed: int
    steps: list[int]
    returns: list[float]
    planned: int
    seconds: float


def train(name: str, source: str, seed: int, size: Size) -> Run:
    """Train and evaluate at even distances."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    torch.set_num_threads(1)
    task = TASKS[name]
    every = round(task.steps * size.share / size.evaluations)
    returns: list[float] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % every == 0:
                env = Monitor(task.make())
                env.reset(seed=10_000 + self.num_timesteps)
                returns.append(float(evaluate_policy(self.model, env, size.episodes)[0]))
            return True

    begin = time.process_time()
    arguments = {**SHARED, **task.settings, **SOURCES[source]}
    model = DynaDQN("MlpPolicy", task.make(), seed=seed, **arguments)
    model.learn(every * size.evaluations, Watch(), log_interval=None)
    steps = [every * (index + 1) for index in range(size.evaluations)]
    planned = model.counters()["planned_transitions"]
    spent = round(time.process_time() - begin, 1)
    return Run(name, source, seed, steps, returns, planned, spent)


def run_all(size: Size, jobs: int) -> Iterator[Run]:
    """Give every run as it ends, in a fixed order."""
    cells = [(t, s, seed) for t in TASKS for seed in range(size.seeds) for s in SOURCES]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from pool.map(train, *zip(*cells, strict=True), [size] * len(cells))


def numbers(runs: list[Run], task: str, source: str) -> NDArray[np.float64]:
    """Return the curves of one cell, ``[seeds, evaluations]``."""
    return np.array([run.returns for run in runs if (run.task, run.source) == (task, source)])


def spread(values: NDArray[np.float64]) -> str:
    """Return mean and standard error over the seeds."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    return f"{values.mean():.2f} ± {values.std(ddof=1) / math.sqrt(len(values)):.2f}"


def results_table(runs: list[Run]) -> str:
    """Return final return and mean over the training, per source and environment."""
    columns = ["source", *(f"{task}, {what}" for task in TASKS for what in ("final", "mean"))]
    columns.append("processor seconds per run")
    rows = []
    for source in SOURCES:
        row = [source]
        for task in TASKS:
            curves = numbers(runs, task, source)
            row += [spread(curves[:, -1]), spread(curves.mean(1))]
        seconds = [run.seconds for run in runs if run.source == source]
        rows.append([*row, f"{np.mean(seconds):.0f}"])
    return table(columns, rows)


def draw(runs: list[Run], seeds: int) -> Any:
    """Return learning curves, one panel per environment."""
    figure, panels = new_figure(len(TASKS))
    for axes, task in zip(panels, TASKS, strict=True):
        for index, source in enumerate(SOURCES):
            curves = numbers(runs, task, source)
            at = next(run.steps for run in runs if run.task == task)
            mean = curves.mean(0)
            axes.plot(at, mean, color=f"C{index}", label=source)
            if seeds > 1:
                error = curves.std(0, ddof=1) / math.sqrt(seeds)
                low, high = mean - error, mean + error
                axes.fill_between(at, low, high, color=f"C{index}", alpha=0.15, linewidth=0)
        axes.set(title=task, xlabel="real steps", ylabel="return of the greedy policy")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize="small")
    figure.suptitle(f"Replay against models, same update and same P, mean ± s.e., n={seeds}")
    return figure


def main() -> None:
    """Run all cells and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="smoke", help="how much is run")
    parser.add_argument("--seeds", type=int, help="seeds per cell, instead of the size's")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument(
        "--out", type=Path, default=folder("replay_vs_model"), help="of the results"
    )
    given = parser.parse_args()
    size = SIZES[given.size]
    size = Size(size.share, given.seeds or size.seeds, size.evaluations, size.episodes)
    runs = []
    for run in run_all(size, given.jobs):
        runs.append(run)
        print(f"{run.task} {run.source} seed {run.seed}: {run.returns[-1]:.2f}", flush=True)
    facts = provenance(
        size=given.size, seeds=f"0 to {size.seeds - 1}", n_per_cell=size.seeds,
        steps={task: runs_of(runs, task)[0].steps[-1] for task in TASKS},
        evaluation=f"{size.episodes} episodes, greedy", settings=SHARED,
        cpu_seconds=round(sum(run.seconds for run in runs)),
    )  # fmt: skip
    text = (
        "Return of the greedy policy: the final one, and the mean over the evaluations during the "
        f"training; mean ± standard error, n={size.seeds} seeds. Network, optimiser, update and "
        "number of planned transitions are the same in all rows."
    )
    if given.size == "smoke":
        text += " **A smoke run: it shows that the script works, and nothing about the question.**"
    name = "planning" if given.size == "small" else f"planning_{given.size}"
    publish(
        given.out, name, "Replay, forward, backward, rollout and act",
        f"{text}\n\n{results_table(runs)}", draw(runs, size.seeds), facts,
        [asdict(run) for run in runs],
    )  # fmt: skip


def runs_of(runs: list[Run], task: str) -> list[Run]:
    """Return the runs of one environment."""
    return [run for run in runs if run.task == task]


if __name__ == "__main__":
    main()
