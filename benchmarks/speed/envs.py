"""Frames per second of ``make_vec`` on envpool against envpool alone, and of ale-py on the way.

CoinRun with 64 environments and Atari (RoadRunner, as trainings have it) with 8, random actions,
the same number of threads for all. envpool alone is a loop of ``step`` with its own options, which
gives one frame per finished episode that is no transition; it is counted here all the same. The
contenders take turns in one process; the median of the ratios of the rounds is the result, once
by the clock and once by the time that the processors worked, which other programs do not disturb.

    python benchmarks/speed/envs.py [--steps 400] [--rounds 5] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import envpool
import numpy as np

from rlzoo.envs import make_vec

TARGET = 0.9
Step = Callable[[Any], Any]


def coinrun(threads: int) -> tuple[int, int, dict[str, Step]]:
    """Return the number of copies, that of actions, and what steps them."""
    ours = make_vec("CoinRun", 64, training=True, num_threads=threads)
    plain = envpool.make_gymnasium(
        "CoinrunEasy-v0", num_envs=64, seed=0, num_levels=200, num_threads=threads
    )
    ours.reset(), plain.reset()
    return 64, 15, {"envpool alone": plain.step, "make_vec": ours.step}


def atari(threads: int) -> tuple[int, int, dict[str, Step]]:
    """Return the same for Atari, with ale-py for comparison."""
    ours = make_vec("ALE/RoadRunner-v5", 8, training=True, backend="envpool", num_threads=threads)
    ale = make_vec("ALE/RoadRunner-v5", 8, training=True)
    plain = envpool.make_gymnasium(
        "RoadRunner-v5", num_envs=8, seed=0, num_threads=threads, use_fire_reset=False,
        episodic_life=True, reward_clip=True,
    )  # fmt: skip
    for env in (ours, ale, plain):
        env.reset()
    return 8, 18, {"envpool alone": plain.step, "make_vec": ours.step, "ale-py": ale.step}


def speed(step: Step, actions: np.ndarray) -> tuple[float, float]:
    """Return frames per second, and per second of work (of Atari: steps, of four frames each)."""
    begin, worked = time.perf_counter(), time.process_time()
    for row in actions:
        step(row)
    wall, work = time.perf_counter() - begin, time.process_time() - worked
    return actions.size / wall, actions.size / work


def main() -> None:
    """Run the rounds and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400, help="steps of every copy and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for name, family in (("CoinRun", coinrun), ("Atari", atari)):
        n_envs, n_actions, contenders = family(given.threads)
        ratios: dict[str, list[tuple[float, float]]] = {other: [] for other in contenders}
        for number in range(given.rounds):
            actions = rng.integers(n_actions, size=(given.steps, n_envs))
            speeds = {other: speed(step, actions) for other, step in contenders.items()}
            base = speeds["envpool alone"]
            print(f"{name}, {n_envs} copies, round {number}: ", end="")
            print(
                " | ".join(f"{k} {v[0]:.0f}/s ({v[0] / base[0]:.2f}x)" for k, v in speeds.items())
            )
            for other, found in speeds.items():
                ratios[other].append((found[0] / base[0], found[1] / base[1]))
        for other in list(contenders)[1:]:
            clock, work = (statistics.median(r[i] for r in ratios[other]) for i in (0, 1))
            print(f"{name}: {other} {clock:.2f}x envpool alone, {work:.2f}x by work", end="")
            missed = f"missed by {TARGET - clock:.2f}"
            verdict = "reached" if clock >= TARGET else missed
            print(f"; target {TARGET}x {verdict}" if other == "make_vec" else "")


if __name__ == "__main__":
    main()
