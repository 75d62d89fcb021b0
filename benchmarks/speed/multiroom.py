"""MultiRoom: steps per second of the batched simulator against minigrid.

    python benchmarks/speed/multiroom.py [--task N3r] [--envs 16 128] [--steps 20000] [--device D]

Uniformly random actions. All variants run in one process, in alternating rounds, and wall clock and
CPU time are shown: the machine may be shared. *minigrid*: ``FullyObsWrapper`` behind SB3's
``DummyVecEnv``. *gymnasium*: the same with rlzoo's environment, which leaves out the agent's view
that nobody looks at. *batched*: ``make_vec``, new levels from minigrid's generator all the time.
*1000 levels*: ``num_levels=1000``, all generated before. *device*: the simulator alone on a torch
device, levels from a pool there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium.utils.seeding import np_random
from minigrid.envs import MultiRoomEnv
from minigrid.wrappers import FullyObsWrapper, ImgObsWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.envs import make_vec
from rlzoo.envs.multiroom import TASKS, env_id
from rlzoo.envs.multiroom.env import MultiRoom
from rlzoo.envs.multiroom.simulator import Levels, Simulator

POOL = 1_000
ROUNDS = 3
SLOW = 20
"""Environments that are stepped one by one take so many times fewer steps."""


def plain(task: str) -> Any:
    """Return minigrid's own environment with the whole grid as observation."""
    rooms = TASKS[task]
    env = MultiRoomEnv(*rooms, rooms.grid_size)
    return Monitor(ImgObsWrapper(FullyObsWrapper(env)))


def stepping(vec: Any, seed: int = 0) -> Callable[[int], None]:
    """Return a function that takes steps of all environments of a vector."""
    rng = np.random.default_rng(seed)
    vec.reset()

    def go(n: int) -> None:
        for actions in rng.integers(7, size=(n, vec.num_envs)):
            vec.step(actions)

    return go


def on_device(task: str, n_envs: int, device: str) -> Callable[[int], None]:
    """Return a function that steps the simulator on a device, where levels lie as well."""
    env = MultiRoom(**TASKS[task]._asdict())
    pool = Levels.stack([env.level(np_random(number)[0]) for number in range(POOL)], device)
    simulator = Simulator(n_envs, env.width, env.max_steps, device=device)
    draw = partial(th.randint, device=device)
    simulator.place(th.arange(n_envs, device=device), pool[draw(POOL, (n_envs,))])

    def go(n: int) -> None:
        for _ in range(n):
            ended = simulator.step(draw(7, (n_envs,)))
            over = (ended.terminated | ended.truncated).nonzero()[:, 0]
            simulator.place(over, pool[draw(POOL, (len(over),))])
        if device != "cpu":
            th.cuda.synchronize()

    return go


def main() -> None:
    """Parse the options, time everything in turns, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", default="N3r", choices=list(TASKS))
    parser.add_argument("--envs", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--steps", type=int, default=20_000, help="of all environments, per round")
    parser.add_argument("--device", help="also time the simulator on this torch device")
    args = parser.parse_args()
    th.set_num_threads(1)
    print(f"{env_id(args.task)}, random actions, {ROUNDS} rounds, torch {th.__version__}")
    print("| environments | variant | steps/s | steps per CPU second | against minigrid |")
    print("|---|---|---|---|---|")
    for n_envs in args.envs:
        name, pooled = env_id(args.task), {"num_levels": POOL}
        variants = {
            "minigrid": (SLOW, stepping(DummyVecEnv([partial(plain, args.task)] * n_envs))),
            "gymnasium": (SLOW, stepping(make_vec(name, n_envs, backend="gymnasium"))),
            "batched": (1, stepping(make_vec(name, n_envs))),
            "1000 levels": (1, stepping(make_vec(name, n_envs, **pooled))),  # type: ignore[arg-type]
        }
        if args.device:
            variants[f"device {args.device}"] = (1, on_device(args.task, n_envs, args.device))
        _, warm = variants["1000 levels"]
        warm(8 * POOL * 40 // n_envs)  # until nearly every level has come once
        rates: dict[str, list[tuple[float, float]]] = {key: [] for key in variants}
        for _ in range(ROUNDS):
            for key, (divisor, go) in variants.items():
                n = max(args.steps // divisor // n_envs, 1)
                wall, cpu = time.perf_counter(), time.process_time()
                go(n)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                rates[key].append((n * n_envs / wall, n * n_envs / cpu))
        medians = {
            key: [statistics.median(part) for part in zip(*found, strict=True)]
            for key, found in rates.items()
        }
        for key, (wall_rate, cpu_rate) in medians.items():
            ratio = cpu_rate / medians["minigrid"][1]
            print(f"| {n_envs} | {key} | {wall_rate:,.0f} | {cpu_rate:,.0f} | {ratio:.1f}x |")


if __name__ == "__main__":
    main()
