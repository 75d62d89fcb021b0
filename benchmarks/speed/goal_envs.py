"""Steps per second of the goal-conditioned environments, by back end and number of copies.

Random actions; the back ends of a task take turns, the median of the rounds is the result, by the
clock and by the time that the processors worked, which other programs do not disturb.

    python benchmarks/speed/goal_envs.py [--rounds 3] [--seconds 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.envs import make_vec

TASKS: dict[str, tuple[str | None, ...]] = {
    "rlzoo/FourRooms-v0": ("batched", "gymnasium"),
    "rlzoo/BlockPusher-v0": (None,),
    "FetchPickAndPlace-v4": ("envpool", "gymnasium"),
    "PointMaze_UMaze-v3": ("envpool", "gymnasium"),
    "rlzoo/FetchStackTwo-v0": (None,),
}


def speed(vec: VecEnv, seconds: float) -> tuple[float, float]:
    """Return steps of all copies per second, and per second of work."""
    rng = np.random.default_rng(0)
    shape = (vec.num_envs, *(vec.action_space.shape or ()))
    actions = rng.uniform(-1, 1, (100, *shape)).astype(np.float32)
    begin, worked, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < begin + seconds:
        vec.step(actions[done % 100])
        done += 1
    wall, work = time.perf_counter() - begin, time.process_time() - worked
    return done * vec.num_envs / wall, done * vec.num_envs / work


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of every round")
    given = parser.parse_args()
    for env_id, backends in TASKS.items():
        for n_envs in (1, 8):
            vecs: dict[str, VecEnv] = {}
            for backend in backends:
                chosen: dict[str, Any] = {"backend": backend} if backend else {}
                vecs[backend or "gymnasium"] = vec = make_vec(env_id, n_envs, **chosen)
                vec.reset()
            found = [
                {k: speed(v, given.seconds) for k, v in vecs.items()} for _ in range(given.rounds)
            ]
            for name in vecs:
                clock, work = (statistics.median(r[name][i] for r in found) for i in (0, 1))
                print(f"{env_id}, {n_envs} copies, {name}: {clock:.0f}/s, {work:.0f}/s of work")


if __name__ == "__main__":
    main()
