"""The share of training time that checkpoints take at the default interval.

BEAR (preset ``cpu``) on a data set of 1 M transitions: a real run of two intervals. SAC with a full
buffer of 1 M transitions of HalfCheetah: steps per second of a real training, and the seconds of
checkpoints after one interval's worth of new rows in that buffer.

    python benchmarks/speed/checkpoint_share.py [--dataset rlzoo/hopper/medium-v0]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3 import SAC

from rlzoo.agents.registry import get_agent
from rlzoo.config.resolve import resolve
from rlzoo.core.device import configure_cpu
from rlzoo.core.replay_files import row_arrays
from rlzoo.core.training_state import capture
from rlzoo.envs import make_vec
from rlzoo.envs.training import TrainingVecEnv
from rlzoo.runs.barrier import env_state
from rlzoo.runs.checkpoints import Checkpoints
from rlzoo.runs.directory import RunDirectory
from rlzoo.runs.outputs import run_logger
from rlzoo.runs.progress import Silent
from rlzoo.runs.train import TrainRequest, train

TARGET = 0.02
ENV, ROWS = "HalfCheetah-v4", 1_000_000


def bear(folder: Path, dataset: str) -> tuple[int, float, float]:
    """Return interval, seconds per checkpoint and share of a real BEAR run."""
    interval = resolve(get_agent("bear"), "Hopper-v4", "cpu").run_settings().checkpoint_freq
    request = TrainRequest(
        "bear", "Hopper-v4", preset="cpu", dataset=dataset, steps=2 * interval, device="cpu",
        run_dir=folder / "bear", eval_freq=2 * interval, eval_episodes=1,
    )  # fmt: skip
    train(request)
    record = json.loads((folder / "bear" / "result.json").read_text())
    learning = record["total_timesteps"] / record["steps_per_second"]
    return interval, record["checkpoint_seconds"] / 2, record["checkpoint_seconds"] / learning


def sac(folder: Path, steps: int) -> tuple[int, float, float]:
    """Return interval, seconds per checkpoint and share of SAC with a full buffer."""
    interval = resolve(get_agent("sac"), ENV, "default").run_settings().checkpoint_freq
    env = TrainingVecEnv(make_vec(ENV, 1, 0))
    model = SAC("MlpPolicy", env, buffer_size=ROWS, learning_starts=100, seed=0, device="cpu")
    with RunDirectory.create(folder / "sac") as run:
        model.set_logger(run_logger(run.path, print))
        model.learn(500)
        started = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False)
        per_second = steps / (time.perf_counter() - started)
        checkpoints = Checkpoints(run, model, interval, 0, {}, Silent())
        seconds = []
        fill(model, ROWS - model.num_timesteps)
        for _ in range(5):
            started = time.perf_counter()
            publish(checkpoints, model)
            seconds.append(time.perf_counter() - started)
            fill(model, interval)
        print(f"SAC: {per_second:.0f} steps per second; first checkpoint {seconds[0]:.2f} s")
    cost = statistics.median(seconds[1:])
    return interval, cost, cost / (interval / per_second)


def fill(model: SAC, rows: int) -> None:
    """Do what as many steps do to the buffer, without the hour that these take."""
    buffer: Any = model.replay_buffer
    generator = np.random.default_rng(model.num_timesteps)
    for first in range(0, rows, 1000):
        places = (buffer.pos + np.arange(first, min(first + 1000, rows))) % buffer.buffer_size
        for array in row_arrays(buffer).values():
            array[places] = generator.standard_normal((len(places), *array.shape[1:]))
    buffer.full = buffer.full or buffer.pos + rows >= buffer.buffer_size
    buffer.pos = (buffer.pos + rows) % buffer.buffer_size
    model.num_timesteps += rows


def publish(checkpoints: Checkpoints, model: SAC) -> None:
    """Put a barrier and write a checkpoint, as a run does."""
    checkpoints.put_barrier(model)
    progress = {"num_timesteps": model.num_timesteps, "curve": []}
    state = {**capture(model), "progress": progress, "environments": env_state(model)}
    checkpoints.publish(model, state)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="rlzoo/hopper/medium-v0")
    parser.add_argument("--steps", type=int, default=1500, help="SAC steps that are timed")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (and clean up)")
    arguments = parser.parse_args()
    configure_cpu()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        rows = {
            "SAC, buffer of 1 M": sac(Path(name), arguments.steps),
            "BEAR, data of 1 M": bear(Path(name), arguments.dataset),
        }
    print(f"\n{th.get_num_threads()} threads\n{'':20} {'interval':>9} {'seconds':>8} {'share':>8}")
    for what, (interval, seconds, share) in rows.items():
        verdict = "reached" if share <= TARGET else "missed"
        print(f"{what:20} {interval:9,} {seconds:8.3f} {share:8.2%}  target 2 %: {verdict}")


if __name__ == "__main__":
    main()
