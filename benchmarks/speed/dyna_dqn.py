"""DynaDQN: updates and whole steps per second for every source, against SB3's DQN.

    python benchmarks/speed/dyna_dqn.py [--rounds 5] [--device cpu]

SB3's DQN has the same network, batch, number of updates and environment; it has no double Q, which
is one more evaluation of the online network. The environment is random and costs next to nothing,
so that a whole step (action, environment, storage, update) is the agent's. Fits of the model are
timed apart: they come once in 250 steps. On a CPU the time is that of the processor, so that other
jobs on the machine count for little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN

from rlzoo import DynaDQN
from rlzoo.core.device import configure_cpu

SOURCES = ("replay", "forward", "backward", "rollout", "act")
FILLED, NEVER = 2_000, 10**9
KINDS = ("update", "step")


class Noise(gym.Env[Any, Any]):
    """Random observations of CartPole's size, drawn beforehand; an episode takes 200 steps."""

    observation_space = spaces.Box(-5, 5, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.rows = np.random.default_rng(0).normal(size=(997, 4)).astype(np.float32).clip(-5, 5)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Show the next observation."""
        return self.rows[self.steps % 997], {}

    def step(self, action: Any) -> Any:
        """Show the next observation, whatever the action."""
        self.steps += 1
        return self.rows[self.steps % 997], 1.0, self.steps % 200 == 0, False, {}


def make(cls: type[Any], device: str, **kwargs: Any) -> Any:
    """Return an agent that has learned a little and acts greedily."""
    model = cls(
        "MlpPolicy", Noise(), learning_rate=5e-4, buffer_size=20_000, batch_size=64,
        learning_starts=FILLED, train_freq=1, target_update_interval=500, seed=0, device=device,
        exploration_initial_eps=0.0, exploration_final_eps=0.0,
        policy_kwargs={"net_arch": [128, 128]}, **kwargs,
    )  # fmt: skip
    return model.learn(FILLED + 5)


def seconds(work: Callable[[], Any], n: int, cuda: bool) -> float:
    """Return the time per unit of work."""
    clock = time.perf_counter if cuda else time.process_time
    started = clock()
    work()
    if cuda:
        th.cuda.synchronize()
    return (clock() - started) / n


def fit_seconds(model: Any, cuda: bool) -> float:
    """Return the time of one fit of the model."""
    model._fitted_at = None
    return seconds(lambda: model._update_model(model.replay_buffer), 1, cuda)


def main() -> None:
    """Parse the options, time everything in turns, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=200, help="per round and variant")
    args = parser.parse_args()
    configure_cpu(args.threads)
    cuda, n = args.device != "cpu", args.updates
    variants: dict[str, Any] = {
        source: make(DynaDQN, args.device, source=source, model_interval=NEVER)
        for source in SOURCES
    }
    variants["SB3 DQN"] = make(DQN, args.device, gradient_steps=1)
    times: dict[tuple[str, str], list[float]] = {(v, k): [] for v in variants for k in KINDS}
    for _ in range(args.rounds):
        for name, model in variants.items():
            times[name, "update"].append(seconds(lambda m=model: m.train(n, 64), n, cuda))
            steps = lambda m=model: m.learn(n, reset_num_timesteps=False, log_interval=None)  # noqa: E731
            times[name, "step"].append(seconds(steps, n, cuda))
    print(
        f"torch {th.__version__}, {th.get_num_threads()} threads, {args.device}, batch 64, medians"
    )
    print(f"{'':10}" + "".join(f"{'ms/' + kind:>12}{'min':>8}{'max':>8}" for kind in KINDS))
    median = {key: statistics.median(values) for key, values in times.items()}
    for name in variants:
        cells = [(median[name, k], min(times[name, k]), max(times[name, k])) for k in KINDS]
        row = (f"{1e3 * a:12.2f}{1e3 * b:8.2f}{1e3 * c:8.2f}" for a, b, c in cells)
        print(f"{name:10}" + "".join(row))
    for name in variants:
        ratio = [median[name, k] / median["replay", k] for k in KINDS]
        print(f"{name} costs {ratio[0]:.2f}x of replay per update, {ratio[1]:.2f}x per step")
    for source in ("forward", "backward"):
        spent = [fit_seconds(variants[source], cuda) for _ in range(2)]
        rows = variants[source].replay_buffer.size()
        print(f"one fit of the {source} model on {rows} rows: {min(spent):.2f} s, every 250 steps")


if __name__ == "__main__":
    main()
