"""Steps per second of the collector against a plain loop with SB3's ``predict``.

Hopper-v4, a SAC actor of 256x256 (untrained: the speed does not depend on the weights, but the
episodes are short, which favours nobody), sampled actions. The three take turns in one process on
one machine; the ratio of each round is printed, and the median of the ratios is the result.

    python benchmarks/speed/collect.py [--steps 8000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import SAC

from rlzoo.data.behaviours.extract import export
from rlzoo.data.collect import collect

TARGET = 3.0
CARD: dict[str, Any] = {
    **{"env_id": "Hopper-v4", "level": "untrained", "steps": 0, "command": "", "commit": ""},
    **{"episodes": 0, "return_mean": 0.0, "return_std": 0.0},
    **{"deterministic_return_mean": 0.0, "deterministic_return_std": 0.0},
}


def plain_loop(env: Any, model: SAC, steps: int) -> float:
    """Return steps per second of the loop that everybody writes."""
    rows = []
    observation, _ = env.reset(seed=0)
    begin = time.perf_counter()
    for _ in range(steps):
        action, _ = model.predict(observation)
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation, action, reward, terminated, truncated, following))
        observation = env.reset()[0] if terminated or truncated else following
    return steps / (time.perf_counter() - begin)


def collector(make_env: Any, policy: Any, steps: int, workers: int) -> float:
    """Return steps per second between the first and the last report of progress.

    The start of worker processes (seconds, once) is not counted.
    """
    marks: list[tuple[float, int]] = []
    collect(
        make_env,
        policy,
        steps,
        seed=0,
        workers=workers,
        progress=lambda done, _: marks.append((time.perf_counter(), done)),
    )
    marks = [mark for mark in marks if mark[1] > 0]
    return (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])


def main() -> None:
    """Run the rounds and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=8_000, help="steps of the plain loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    make_env = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)
    env = make_env()
    model = SAC("MlpPolicy", env, seed=0, buffer_size=1)
    with tempfile.TemporaryDirectory() as folder:
        behaviour = export(model, Path(folder) / "untrained", CARD)
    contenders = {
        "SB3 model, 1 worker": (model, 1),
        "behaviour, 1 worker": (behaviour, 1),
        "behaviour, 2 workers": (behaviour, 2),
    }
    ratios: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        base = plain_loop(env, model, arguments.steps)
        print(f"round {number}: plain loop {base:.0f} steps/s", end="")
        for name, (policy, workers) in contenders.items():
            speed = collector(make_env, policy, 4 * arguments.steps, workers)
            ratios[name].append(speed / base)
            print(f" | {name} {speed:.0f} ({speed / base:.2f}x)", end="", flush=True)
        print()
    for name, values in ratios.items():
        median = statistics.median(values)
        verdict = "reached" if median >= TARGET else f"missed by {TARGET - median:.2f}"
        print(f"{name}: median {median:.2f}x, target {TARGET}x {verdict}")


if __name__ == "__main__":
    main()
